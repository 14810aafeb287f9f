"""auth.registries: Docker's config.json, what is wrong with one, and who pulls with it."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import grant, until
from structlog.testing import capture_logs

from qmaster.auth import watched
from qmaster.auth.authenticator import Identity
from qmaster.auth.registries import RegistryAuth, read
from qmaster.errors import ConfigError
from qmaster.models.credentials import Credentials
from qmaster.models.images import Pattern

OPTION = "--registry-auth-file"
LOGIN = {"auth": base64.b64encode(b"someone:some:thing").decode()}
SOMEONE = Credentials("someone", "some:thing", source=OPTION)


def content(*registries: str, **more: Any) -> bytes:
    return json.dumps({"auths": dict.fromkeys(registries, LOGIN), **more}).encode()


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://localhost:5000/v2/", "localhost:5000"),
    ],
)
def test_a_key_is_a_registry(key: str, domain: str) -> None:
    """As Docker writes them, and as references have them."""
    assert read(content(key)) == {domain: SOMEONE}


def test_each_form_of_credentials_is_read() -> None:
    """Those of `docker login`, plain ones, and an identity token."""
    auths = {
        "a": LOGIN,
        "b": {"username": "u", "password": "p"},
        "c": {"auth": base64.b64encode(b"00000000:").decode(), "identitytoken": "hush"},
    }
    document = {"auths": auths, "HttpHeaders": {"User-Agent": "x"}, "credsStore": "", "credHelpers": {}}
    made = read(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert made["a"] == SOMEONE
    assert (made["b"].username, made["b"].password, made["c"].identitytoken) == ("u", "p", "hush")
    assert read(b"{}") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "it is not Docker's config.json"),
        (b"[]", "it is not Docker's config.json"),
        (b'{"auths": ', "it is not Docker's config.json"),
        (b"\xff", "it is not Docker's config.json"),
        (b'{"auths": []}', "auths: expected an object"),
        (b'{"auths": "hush"}', "auths: expected an object"),
        (b'{"auths": {"a": {}}}', "auths['a']: auth: expected a username and a password"),
        (b'{"auths": {"a": "hush"}}', "auths['a']: auth: expected {"),
        (b'{"auths": {"a": {"auth": "hush!"}}}', "auths['a']: auth: expected {"),
        (b'{"auths": {"a": {"token": "hush"}}}', "auths['a']: auth: expected {"),
        (content("a", credsStore="desktop"), "credsStore is not supported, as the credentials are in another program"),
        (content("a", credHelpers={"gcr.io": "gcloud"}), "credHelpers is not supported"),
    ],
)
def test_a_mistake_is_told_without_secrets(text: bytes, says: str) -> None:
    """It names the key, and what to do about a credential helper."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(says)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "image", "may"),
    [
        (None, "r.example/team/a", False),
        ((), "r.example/team/a", False),
        (("r.example/team/*",), "r.example/team/a", True),
        (("r.example/team/*",), "r.example/team/a:1@sha256:" + "a" * 64, True),
        (("r.example/team/*:1.*",), "r.example/team/a@sha256:" + "a" * 64, True),
        (("r.example/team/*",), "r.example/other/a", False),
        (("r.example/**",), "other.example/team/a", False),
    ],
)
def test_a_token_pulls_with_them_where_its_images_name_the_repository(
    tmp_path: Path, images: Any, image: str, may: bool
) -> None:
    """Whatever the tag or digest; one that may run any image names none. The root token always does."""
    path = tmp_path / "config.json"
    path.write_bytes(content("r.example"))
    auth = RegistryAuth(path)
    auth.load()
    patterns = None if images is None else tuple(map(Pattern.parse, images))
    token = Identity("alice", grant(images=patterns))
    assert auth.credentials(image, token) == (SOMEONE if may else None)
    assert (auth.credentials(image, Identity("root")) is not None) == image.startswith("r.example/")


def test_without_a_file_there_are_none() -> None:
    """And there is nothing to load."""
    auth = RegistryAuth()
    auth.load()
    assert auth.credentials("busybox", Identity("root")) is None


def test_a_file_that_cannot_be_read_is_an_error_of_the_start(tmp_path: Path) -> None:
    """It names the option and the file."""
    with pytest.raises(ConfigError, match=rf"^{OPTION}: cannot read .*nowhere: No such file"):
        RegistryAuth(tmp_path / "nowhere").load()


@pytest.mark.gen_test
async def test_a_change_is_taken_and_a_mistake_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a restart; after a mistake the last ones stay. No line shows a secret."""
    monkeypatch.setattr(watched, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watched, "SETTLES_IN", 0.02)
    path, root = tmp_path / "config.json", Identity("root")
    path.write_bytes(content("a.example"))
    path.chmod(0o644)
    auth = RegistryAuth(path)
    with capture_logs() as lines:
        auth.load()
        task = asyncio.create_task(auth.run())
        path.write_bytes(content("b.example"))
        await until(lambda: auth.credentials("b.example/x", root) == SOMEONE)
        assert auth.credentials("a.example/x", root) is None
        path.write_bytes(content("c.example", credsStore="pass"))
        await until(lambda: any(line["event"] == "registry_auth_file_wrong" for line in lines))
        assert auth.credentials("b.example/x", root) == SOMEONE
        task.cancel()
    assert {line["event"] for line in lines} == {
        "registry_auth_loaded", "registry_auth_file_open_to_others", "registry_auth_file_wrong",
    }  # fmt: skip
    assert "some:thing" not in str(lines) + repr(auth.credentials("b.example/x", root))
