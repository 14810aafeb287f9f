"""The engine: the only package that imports ``docker``. Returns Docker's answers as they are; raises our own errors."""

from . import ssh  # first: it imports the SDK in its own way
from .core import Engine
from .endpoint import Endpoint

__all__ = ["Endpoint", "Engine", "ssh"]
