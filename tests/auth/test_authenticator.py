"""authenticator: who is asking, by a token in the header or in the body."""

import contextlib
import hmac
from types import SimpleNamespace

import pytest
from fakes import grant, steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.auth import authenticator
from qmaster.auth.authenticator import BURST, Authenticator, Identity
from qmaster.auth.tokens import digest
from qmaster.errors import BadRequest, TooManyWrongTokens, Unauthorized
from qmaster.models.responses import ROOT

TOKEN = "a-token-for-tests"


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (f"Bearer {TOKEN}", None),
        (f"bearer {TOKEN}", None),
        (f"BEARER   {TOKEN}  ", None),
        (None, TOKEN),
        ("", TOKEN),
        (f"Bearer {TOKEN}", TOKEN),
        ("Basic dTpw", TOKEN),  # a proxy's own
    ],
)
def test_the_token_is_taken_from_header_or_body(header: str | None, body: str | None) -> None:
    """Either does, and both where they agree."""
    assert Authenticator(TOKEN).identify(header, body) == Identity(ROOT)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        (TOKEN, None),
        (f"Basic {TOKEN}", None),
        (f"Bearer{TOKEN}", None),
        (f"Bearer {TOKEN}x", None),
        (f"Bearer {TOKEN[:-1]}", None),
        (f"Bearer {TOKEN.upper()}", None),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", None),
        (None, ""),
        (None, TOKEN + " "),
        (None, "wrong"),
        ("Bearer wrong", "wrong"),
    ],
)
def test_anything_else_is_nobody(header: str | None, body: str | None) -> None:
    """No token, part of it, another, or in another way: 401."""
    with pytest.raises(Unauthorized) as caught:
        Authenticator(TOKEN).identify(header, body)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(("header", "body"), [("Bearer wrong", TOKEN), (f"Bearer {TOKEN}", "wrong"), ("Bearer", TOKEN)])
def test_two_different_tokens_are_a_mistake(header: str, body: str) -> None:
    """Both given and different is 400, even if one of them is right."""
    with pytest.raises(BadRequest, match=r"^token: "):
        Authenticator(TOKEN).identify(header, body)


@pytest.mark.parametrize("body", [1, True, [TOKEN], {"token": TOKEN}, 1.5])
def test_a_token_is_a_string(body: object) -> None:
    """Anything else in the body is 400, also beside a right header."""
    with pytest.raises(BadRequest, match=r"^token: "):
        Authenticator(TOKEN).identify(f"Bearer {TOKEN}", body)


def test_a_token_has_a_length() -> None:
    """A longer one is looked up nowhere; the error has the bound."""
    with pytest.raises(BadRequest, match=r"^Authorization: expected a token of at most 4096 bytes$"):
        Authenticator(TOKEN).identify(f"Bearer {'x' * 4097}", None)
    with pytest.raises(BadRequest, match=r"^token: expected at most 4096 bytes$"):
        Authenticator(TOKEN).identify(None, "é" * 2049)
    with pytest.raises(Unauthorized):
        Authenticator(TOKEN).identify(None, "x" * 4096)


def test_each_refusal_is_told() -> None:
    """That there is no token, or that nobody holds it; a malformed call, and a right one, are none."""
    told: list[str] = []
    made = Authenticator(TOKEN, refused=told.append)
    for header, body in ((None, None), ("Bearer another", None), (f"Bearer {TOKEN}", "another"), (None, TOKEN)):
        with contextlib.suppress(BadRequest, Unauthorized):
            made.identify(header, body)
    assert told == ["missing", "unknown"]


def test_a_token_may_have_any_characters() -> None:
    """curl sends a header in UTF-8, which Tornado reads as Latin-1."""
    token = "ключ-ä-key"
    header = f"Bearer {token.encode().decode('latin-1')}"
    assert Authenticator(token).identify(header, token) == Identity(ROOT)


def test_the_token_is_not_kept() -> None:
    """Only its digest is, so that no dump of the object shows it."""
    assert TOKEN not in repr(vars(Authenticator(TOKEN)))


@steady
@given(st.text() | st.text().map("Bearer {}".format), st.none() | st.text())
def test_only_the_token_opens(header: str, body: str | None) -> None:
    """No other pair of texts does."""
    with pytest.raises((BadRequest, Unauthorized)):
        Authenticator(TOKEN).identify(header, body)


# --- further tokens ---------------------------------------------------------------------------------------------------

ALICE, BOB = grant("alice", "alice's-token"), grant("bob", "bob's-token", scopes=frozenset({"read"}))


def holder(token: str) -> str:
    return f"Bearer {token}"


def test_a_token_is_known_by_its_digest() -> None:
    """It tells its name, and what it may do; the root token may all."""
    made = Authenticator(TOKEN, [ALICE, BOB])
    assert made.identify(holder("alice's-token"), None) == Identity("alice", ALICE)
    assert made.identify(None, "bob's-token") == Identity("bob", BOB)
    assert made.identify(None, TOKEN) == Identity(ROOT)


def test_a_digest_is_no_token() -> None:
    """Whoever has read the file has nothing to send."""
    made = Authenticator(TOKEN, [ALICE])
    for text in (ALICE.digest.hex(), ALICE.digest.hex().upper(), ALICE.digest.decode("latin-1"), "alice", ROOT):
        with pytest.raises(Unauthorized, match="invalid token"):
            made.identify(None, text)


def test_who_has_a_limited_token_sees_what_is_its_own() -> None:
    """The root token sees all."""
    assert Identity("alice", ALICE).sees == "alice"
    assert Identity(ROOT).sees is None


def test_the_tokens_can_be_replaced() -> None:
    """At once; the root token stays."""
    made = Authenticator(TOKEN, [ALICE])
    made.replace([BOB])
    assert made.identify(None, "bob's-token").name == "bob"
    assert made.identify(None, TOKEN).name == ROOT
    with pytest.raises(Unauthorized, match="invalid token"):
        made.identify(None, "alice's-token")


def test_what_has_become_of_a_token_is_told() -> None:
    """It has other rights, or is gone; one that belongs to another name now is gone as well."""
    made = Authenticator(TOKEN, [ALICE])
    before, root = made.identify(None, "alice's-token"), made.identify(None, TOKEN)
    assert made.current(before) == before
    less = grant("alice", "alice's-token", scopes=frozenset({"run"}))
    made.replace([less])
    assert made.current(before) == Identity("alice", less)
    for others in ([], [BOB], [grant("alice", "a new one")], [grant("carol", "alice's-token")]):
        made.replace(others)
        with pytest.raises(Unauthorized, match="no longer valid"):
            made.current(before)
        assert made.current(root) == root


def test_the_holder_of_a_name_is_known_without_its_token() -> None:
    """With what it may do now; None once it is gone. The root token is always there."""
    made = Authenticator(TOKEN, [ALICE])
    assert made.holder("alice") == Identity("alice", ALICE)
    assert made.holder(ROOT) == Identity(ROOT)
    less = grant("alice", "another token", scopes=frozenset({"run"}))
    made.replace([less])
    assert made.holder("alice") == Identity("alice", less)
    made.replace([])
    assert made.holder("alice") is None
    assert made.holder(ROOT) == Identity(ROOT)


def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared in constant time, whether one before it is right or not."""
    compared: list[bytes] = []

    def compare(known: bytes, sent: bytes) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, sent)

    monkeypatch.setattr(authenticator, "hmac", SimpleNamespace(compare_digest=compare))
    Authenticator(TOKEN, [ALICE, BOB]).identify(None, TOKEN)
    assert compared == [digest(TOKEN.encode()), ALICE.digest, BOB.digest]


# --- wrong ones -------------------------------------------------------------------------------------------------------


def test_many_wrong_tokens_from_an_address_are_too_many() -> None:
    """A right one is taken from there all the same, and another address is not hurt."""
    made = Authenticator(TOKEN, [ALICE])
    for _ in range(BURST):
        with pytest.raises(Unauthorized, match="invalid token"):
            made.identify(None, "wrong", "10.0.0.1")
    with pytest.raises(TooManyWrongTokens) as caught:
        made.identify(None, "wrong", "10.0.0.1")
    assert "invalid tokens" in str(caught.value)
    assert made.identify(None, "alice's-token", "10.0.0.1").name == "alice"
    assert made.identify(None, TOKEN, "10.0.0.1").name == ROOT
    with pytest.raises(Unauthorized, match="invalid token"):
        made.identify(None, "wrong", "10.0.0.2")


def test_only_wrong_tokens_are_counted() -> None:
    """None at all is a mistake of another kind, as is a right one of old."""
    made = Authenticator(TOKEN)
    for _ in range(2 * BURST):
        with pytest.raises(Unauthorized, match="no token"):
            made.identify(None, None, "10.0.0.1")
        made.identify(None, TOKEN, "10.0.0.1")
    with pytest.raises(Unauthorized, match="invalid token"):
        made.identify(None, "wrong", "10.0.0.1")
