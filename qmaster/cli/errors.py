"""What ends a command: one line on standard error each, saying what to do.

QmasterError
└── ClientError           the command cannot go on
    ├── Refused           the server answered, and said no
    └── Away              try again
        ├── Unreachable   no answer from there
        └── Lost          the connection broke before the answer was whole
"""

from __future__ import annotations

from ..errors import QmasterError

TRY_AGAIN = frozenset({429, 503})


class ClientError(QmasterError):
    """``str(error)`` is for the user."""


class Refused(ClientError):
    """An error of the API, in the server's own words."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Away(ClientError):
    pass


class Unreachable(Away):
    pass


class Lost(Away):
    pass


def passes(error: ClientError) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, Away) or (isinstance(error, Refused) and error.status in TRY_AGAIN)
