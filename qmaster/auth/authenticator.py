"""Who is asking: a token → the name it belongs to, and what it may do. Compared as digests in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import BadRequest, TooManyWrongTokens, Unauthorized
from ..models.responses import ROOT
from .throttle import RateLimiter
from .tokens import MAX_TOKEN, TokenPolicy, digest


@dataclass(frozen=True)
class Identity:
    """Whose token it is; ``name`` is the owner of what it starts; ``grant`` is its policy, None for the root token."""

    name: str
    grant: TokenPolicy | None = None

    @property
    def sees(self) -> str | None:
        """The owner of all that it sees; None: it sees everything."""
        return None if self.grant is None else self.name


class Authenticator:
    """Knows the digests of the tokens, never the tokens.

    Args:
        token: the root token.
        grants: the policies of the other tokens.
        refused: told of each call that is refused: ``missing`` or ``unknown`` is its token.
        throttle: of the addresses that wrong ones come from.
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
        # Looked up by a hash that nobody else can compute, so that the time of it says nothing of the digests, nor
        # of how many there are.
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[bytes, Identity]] = {}
        self.replace(grants)

    def replace(self, grants: Iterable[TokenPolicy]) -> None:
        """From now on these are the tokens beside the root token."""
        identities = [(self.root, Identity(ROOT)), *((g.digest, Identity(g.name, g)) for g in grants)]
        self._known = {self._mark(known): (known, identity) for known, identity in identities}
        self._grants = {grant.name: grant for _, identity in identities if (grant := identity.grant)}

    def grant(self, name: str) -> TokenPolicy | None:
        """What the token of this name may do; None of the root token, and where there is none."""
        return self._grants.get(name)

    def identify(self, header: str | None, body_token: object, address: str = "") -> Identity:
        """Find out who sent a request.

        Args:
            header: the value of ``Authorization``, as Tornado decodes it (Latin-1), or None.
            body_token: the body's ``token``, None where it has none.
            address: where it comes from, "" where that is not known.

        Raises:
            BadRequest: a token is too long or no string, or the two differ.
            Unauthorized: there is none, or nobody holds it.
            TooManyWrongTokens: nor did any hold the many that came from there before.
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
                raise BadRequest("token: the header and the body hold different ones; send one")
            token = body_token.encode()
        if token is None:
            self._refused("missing")
            raise Unauthorized("no token: send 'Authorization: Bearer …', or \"token\" in a JSON body")
        found = self._find(digest(token))
        if found is not None:
            return found
        self._refused("unknown")
        if address and self._throttle.fail(address):
            raise TooManyWrongTokens("too many wrong tokens from this address: a right one is taken all the same")
        raise Unauthorized("nobody holds this token")

    def current(self, identity: Identity) -> Identity:
        """What has become of who was identified before.

        Raises:
            Unauthorized: the token is gone, or belongs to another name.
        """
        now = identity if identity.grant is None else self._find(identity.grant.digest)
        if now is None or now.name != identity.name:
            raise Unauthorized("this token is no longer known")
        return now

    def _find(self, sent: bytes) -> Identity | None:
        known, identity = self._known.get(self._mark(sent), (b"", None))
        return identity if hmac.compare_digest(known, sent) else None

    def _mark(self, known: bytes) -> bytes:
        return hashlib.blake2b(known, key=self._key, digest_size=32).digest()


def _bearer(header: str | None) -> bytes | None:
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None
