"""A function whose load takes as long as its environment says."""

import os
import time
from typing import Any

time.sleep(float(os.environ["LOAD_SECONDS"]))


def handler(event: Any, context: Any) -> Any:
    """Echo."""
    return event
