"""Fixtures that several of these tests share."""

from api_cases import app, ask, dispatch, state

__all__ = ["app", "ask", "dispatch", "state"]
