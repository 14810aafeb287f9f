"""What tests of several modules share."""

from typing import Any

import pytest

from qmaster.errors import BadRequest
from qmaster.models import requests
from qmaster.models.requests import RunRequest

RUN = {"image": "busybox"}


def refused(document: dict[str, Any], to: type = RunRequest) -> str:
    with pytest.raises(BadRequest) as caught:
        requests.convert(document, to)
    return str(caught.value)
