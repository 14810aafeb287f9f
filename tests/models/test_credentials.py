"""credentials: Docker's AuthConfig in base64, in any of the forms that clients send; never shown."""

import base64
import contextlib
import json
from urllib.parse import quote

import pytest
from fakes import encoded, steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.models.credentials import REDACTED, Credentials, hide

PASSWORD = "p?>~ä\u00ff-secret"  # its base64 has characters in which the two alphabets differ
DOCUMENT = {"username": "someone", "password": PASSWORD, "email": "someone@example.com"}


def sent(credentials: Credentials) -> dict[str, str]:
    """What Docker reads from the header."""
    header = credentials.header()
    assert not set(header) & set("+/\n")
    document: dict[str, str] = json.loads(base64.urlsafe_b64decode(header))
    return document


def _forms() -> list[str]:
    data = json.dumps(DOCUMENT, ensure_ascii=False).encode()
    standard, url = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert standard != url
    return [standard, url, standard.rstrip("="), url.rstrip("="), base64.encodebytes(data).decode(), f" {url}\n"]


@pytest.mark.parametrize("text", _forms())
def test_each_form_of_base64_is_read(text: str) -> None:
    """The standard and the URL alphabet, padded or not, with line breaks as `base64` makes them."""
    assert sent(Credentials.decode(text)) == DOCUMENT


@pytest.mark.parametrize(
    ("document", "header"),
    [
        (
            {"auth": encoded(f"someone:{PASSWORD}")},
            {"username": "someone", "password": PASSWORD, "email": ""},
        ),
        ({"auth": encoded("u:a:b")}, {"username": "u", "password": "a:b", "email": ""}),
        (
            {"username": "u", "password": "p", "auth": encoded("other:word")},
            {"username": "u", "password": "p", "email": ""},
        ),
        ({"identitytoken": "it"}, {"identitytoken": "it"}),
        ({"username": "<token>", "identitytoken": "it"}, {"identitytoken": "it"}),
        (
            {"username": "u", "password": "p", "serveraddress": "https://index.docker.io/v1/"},
            {"username": "u", "password": "p", "email": ""},
        ),
    ],
)
def test_what_docker_is_sent(document: dict[str, str], header: dict[str, str]) -> None:
    """`auth` stands for user and password where those are left out; an identity token for all."""
    assert sent(Credentials.decode(encoded(document))) == header


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        "ключ",
        "A",
        encoded("not json"),
        encoded("[]"),
        encoded("null"),
        encoded("{}"),
        encoded({"username": "u"}),
        encoded({"password": "p"}),
        encoded({"username": "u", "password": ""}),
        encoded({"username": "u", "password": 1}),
        encoded({"username": "u", "password": "p", "more": "x"}),
        encoded({"auth": "not base64!"}),
        encoded({"auth": encoded("no-colon")}),
        encoded({"auth": base64.b64encode(b"\xff:\xff").decode()}),
        encoded("[" * 20_000),
        base64.b64encode(b"\xff\xfe").decode(),
    ],
)
def test_what_is_no_credentials_is_refused(text: str) -> None:
    """The error begins with the field's name."""
    with pytest.raises(ValueError, match=r"^auth: "):
        Credentials.decode(text)


@pytest.mark.parametrize(
    "document",
    [
        {"username": "u", "password": "hunter2", "more": 1},
        {"username": ["hunter2"], "password": "p"},
        {"auth": "hunter2!"},
        {"username": "hunter2"},
    ],
)
def test_an_error_shows_nothing_of_them(document: dict[str, object]) -> None:
    """Neither the message nor what is printed with it."""
    with pytest.raises(ValueError, match=r"^auth: ") as caught:
        Credentials.decode(encoded(document))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_repr_shows_nothing_of_them() -> None:
    """They may land in a log or a traceback."""
    assert repr(Credentials("someone", PASSWORD, "mail", "it")) == "Credentials()"


@steady
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes it fail in another way."""
    with contextlib.suppress(ValueError):
        Credentials.decode(text)


HEADER = Credentials("someone", PASSWORD, "someone@example.com").header()
LOGIN = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize(
    "said",
    [
        f"wrong password {PASSWORD}!",
        f"X-Registry-Auth: {HEADER}",
        f"X-Registry-Auth: {HEADER.rstrip('=')}",
        HEADER.replace("-", "+").replace("_", "/"),
        f"Authorization: Basic {LOGIN}",
        f"Authorization: Basic {LOGIN.rstrip('=')}",
        json.dumps({"password": PASSWORD}),
        f"https://registry/token?password={quote(PASSWORD, safe='')}",
        f"{PASSWORD} {PASSWORD} {HEADER}",
    ],
)
def test_who_says_them_back_is_not_quoted(said: str) -> None:
    """In whatever form an engine, a proxy or a registry would show what it was asked with."""
    shown = hide(said, HEADER)
    assert REDACTED in shown
    for form in (PASSWORD, json.dumps(PASSWORD)[1:-1], quote(PASSWORD, safe=""), HEADER.rstrip("="), LOGIN.rstrip("=")):
        assert form not in shown


def test_an_identity_token_is_not_quoted_either() -> None:
    """It is as good as a password."""
    header = Credentials(identitytoken="the-identity-token").header()
    assert hide("refused: the-identity-token", header) == f"refused: {REDACTED}"


@pytest.mark.parametrize("header", ["", "not base64!", "e30="])
def test_words_without_credentials_are_as_they_were(header: str) -> None:
    """Also where what was sent was none."""
    assert hide("manifest unknown", header) == "manifest unknown"


def test_a_very_short_password_hides_no_words() -> None:
    """Of every word with that letter, only a hole would be left."""
    assert hide("unauthorized", Credentials("someone", "a").header()) == "unauthorized"
