"""Fixtures that several of these tests share."""

from api_cases import app, ask, run_service, state

__all__ = ["app", "ask", "run_service", "state"]
