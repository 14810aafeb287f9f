"""The engine: the only room that imports ``docker``. Docker's answers leave it as they are, its errors as ours."""

from . import ssh  # first: it imports the SDK in its own way
from .core import Engine
from .endpoint import Endpoint

__all__ = ["Endpoint", "Engine", "ssh"]
