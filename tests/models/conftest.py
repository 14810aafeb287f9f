"""Fixtures that several of these tests share."""

from commands_cases import fake

__all__ = ["fake"]
