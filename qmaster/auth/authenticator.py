"""Authentication of callers by token, and rate limits for each caller. The event loop owns all state."""

from __future__ import annotations

import asyncio
import contextvars
import hmac
import ipaddress
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from ..errors import BadRequest, TooManyRuns, TooManyWrongTokens, Unauthorized
from ..models.responses import ROOT
from ..models.validation import MAX_TOKEN
from .tokens import TokenPolicy, digest

# Wrong tokens of one address.
BURST = 20  # enough for a person who pastes the wrong token, or a program that gets its new one late
REGAINED_IN = 3.0  # seconds until one more is allowed, as TooManyWrongTokens says
MAX_ADDRESSES = 10_000
MINUTE = 60.0  # seconds
# Log lines at once, and the seconds for one more: of one address or token, and of all addresses without a token.
EACH_BURST, EACH_REGAINED_IN = 100, 0.5
ALL_BURST, ALL_REGAINED_IN = 500, 0.05
REPORT_EVERY = 10.0  # seconds

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """The holder of a token.

    ``name`` is the owner of what it starts; ``grant`` is its policy, None for the root token.
    """

    name: str
    grant: TokenPolicy | None = None

    @property
    def sees(self) -> str | None:
        """The owner whose runs it sees; None: all owners."""
        return None if self.grant is None else self.name


class Authenticator:
    """Identifies callers by the digests of their tokens; it never keeps a token.

    Args:
        token: the root token.
        grants: the policies of the other tokens.
        refused: called for each refused call, with ``missing`` or ``unknown``.
        throttle: limits wrong tokens by address.
    """

    def __init__(
        self,
        token: str,
        grants: Iterable[TokenPolicy] = (),
        refused: Callable[[str], None] = lambda reason: None,
        throttle: RateLimiter | None = None,
    ) -> None:
        self._refused = refused
        self._throttle = throttle or RateLimiter()
        self.root = digest(token.encode())
        self.replace(grants)

    def replace(self, grants: Iterable[TokenPolicy]) -> None:
        """Replace all tokens except the root token."""
        self._grants = {grant.name: grant for grant in grants}
        self._known = [(self.root, Identity(ROOT))]
        self._known += [(grant.digest, Identity(grant.name, grant)) for grant in self._grants.values()]

    def grant(self, name: str) -> TokenPolicy | None:
        """Return the policy of the token with this name; None for the root token and for an unknown name."""
        return self._grants.get(name)

    def holder(self, name: str) -> Identity | None:
        """Return the identity of the token with this name as it is now, None if there is none.

        It is what work that was begun under this name may still do.
        """
        if name == ROOT:
            return Identity(ROOT)
        grant = self._grants.get(name)
        return None if grant is None else Identity(name, grant)

    def identify(self, header: str | None, body_token: object, address: str = "") -> Identity:
        """Return who sent a request.

        Args:
            header: the value of ``Authorization``, as Tornado decodes it (Latin-1), or None.
            body_token: the body's ``token``, or None.
            address: the caller's address; "" if it is unknown.

        Raises:
            BadRequest: a token is too long or not a string, or the two differ.
            Unauthorized: there is no token, or it is invalid.
            TooManyWrongTokens: it is invalid, and this address has sent too many invalid tokens.
        """
        token = _bearer(header)
        if token is not None and len(token) > MAX_TOKEN:
            raise BadRequest(f"Authorization: expected a token of at most {MAX_TOKEN} bytes")
        if body_token is not None:
            if not isinstance(body_token, str):
                raise BadRequest("token: expected a string")
            if len(body_token.encode()) > MAX_TOKEN:
                raise BadRequest(f"token: expected at most {MAX_TOKEN} bytes")
            if token not in (None, body_token.encode()):
                raise BadRequest("token: the header and the body hold different tokens; send one")
            token = body_token.encode()
        if token is None:
            self._refused("missing")
            raise Unauthorized("no token: send 'Authorization: Bearer …', or \"token\" in a JSON body")
        found = self._find(digest(token))
        if found is not None:
            return found
        self._refused("unknown")
        if address and self._throttle.fail(address):
            raise TooManyWrongTokens(
                f"too many invalid tokens from this address; try again in {REGAINED_IN:g} s, or with a valid token now"
            )
        raise Unauthorized("invalid token")

    def recognizes(self, text: str) -> bool:
        """Return whether a text, from a header as Tornado decodes it (Latin-1), is a valid token."""
        return 0 < len(text) <= MAX_TOKEN and self._find(digest(text.encode("latin-1", "replace"))) is not None

    def current(self, identity: Identity) -> Identity:
        """Return the identity with the policy that its token has now.

        Raises:
            Unauthorized: the token was removed, or belongs to another name.
        """
        now = identity if identity.grant is None else self._find(identity.grant.digest)
        if now is None or now.name != identity.name:
            raise Unauthorized("this token is no longer valid")
        return now

    def _find(self, sent: bytes) -> Identity | None:
        """Compare with every token, each in constant time, so that the time reveals nothing about a digest."""
        found = None
        for known, identity in self._known:
            if hmac.compare_digest(known, sent):
                found = identity
        return found


def _bearer(header: str | None) -> bytes | None:
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


class RateLimiter:
    """A token bucket for each address; beyond ``MAX_ADDRESSES``, the least recently seen one is dropped.

    Args:
        clock: seconds.
        burst: attempts that an address has at once.
        regained_in: seconds until one more is allowed.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, burst: int = BURST, regained_in: float = REGAINED_IN
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._regained_in = regained_in
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → attempts left, and since when

    def fail(self, address: str) -> bool:
        """Count an attempt, such as an invalid token, and return whether it exceeds the limit."""
        origin, now = source(address), self._clock()
        left, since = self._left.pop(origin, (float(self._burst), now))
        left = min(self._burst, left + (now - since) / self._regained_in)
        over = left < 1
        self._left[origin] = (left if over else left - 1, now)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return over


class RunRateLimiter:
    """Limits the runs that each owner begins in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, deque[float]] = {}

    def begin(self, owner: str, limit: int) -> None:
        """Count a run of an owner who may begin ``limit`` a minute.

        Raises:
            TooManyRuns: the limit is reached; the run is not counted.
        """
        begun, now = self._begun.setdefault(owner, deque()), self._clock()
        while begun and begun[0] <= now - MINUTE:
            begun.popleft()
        if len(begun) >= limit:
            wait = max(1, math.ceil(begun[len(begun) - limit] + MINUTE - now))
            raise TooManyRuns(
                f"max_rate: this token may start at most {limit} runs a minute; try again in {wait} s", wait
            )
        begun.append(now)


class LineLimit:
    """Limits the log lines about refused calls and calls without a token, and reports how many it left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = RateLimiter(clock, EACH_BURST, EACH_REGAINED_IN)
        self._all = RateLimiter(clock, ALL_BURST, ALL_REGAINED_IN)
        self._left_out: Counter[str] = Counter()

    def allows(self, event: str, by: str | None, address: str | None = None) -> bool:
        """Return whether one more line may be written; if not, count it.

        Args:
            event: the name of the line's event.
            by: the name of the caller's token; None if it has no valid token.
            address: the caller's address.
        """
        if by is not None:
            over = self._each.fail(f"token {by}")
        else:
            over = self._each.fail(address or "") or self._all.fail("")
        if over:
            self._count(event)
        return not over

    def _count(self, event: str) -> None:
        if not self._left_out:  # in a context of its own, so that the report does not have this request's id
            asyncio.get_running_loop().call_later(REPORT_EVERY, self.report, context=contextvars.Context())
        self._left_out[event] += 1

    def report(self) -> None:
        """Log how many lines of each event were left out since the last report."""
        if self._left_out:
            log.warning("log_lines_left_out", count=self._left_out.total(), events=dict(self._left_out))
            self._left_out.clear()


def source(address: str) -> str:
    """Return what counts as one caller: an IPv4 address, or the /64 of an IPv6 address, which one host usually owns."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
