"""The engine: the only room that imports ``docker``. Docker's answers leave it as they are, its errors as ours."""

from .core import Engine
from .endpoint import Endpoint

__all__ = ["Endpoint", "Engine"]
