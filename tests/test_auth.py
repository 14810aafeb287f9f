"""auth: who is asking, by a token in the header or in the body."""

import contextlib

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.auth import Authenticator, Identity
from qmaster.errors import BadRequest, Unauthorized
from qmaster.tokens import ROOT

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


def test_each_refusal_is_told() -> None:
    """That there is no token, or that nobody holds it; a malformed call, and a right one, are none."""
    told: list[str] = []
    authenticator = Authenticator(TOKEN, refused=told.append)
    for header, body in ((None, None), ("Bearer another", None), (f"Bearer {TOKEN}", "another"), (None, TOKEN)):
        with contextlib.suppress(BadRequest, Unauthorized):
            authenticator.identify(header, body)
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
@given(st.text(), st.text())
def test_only_the_token_opens(header: str, body: str) -> None:
    """No other pair of texts does."""
    with pytest.raises((BadRequest, Unauthorized)):
        Authenticator(TOKEN).identify(header, body)
