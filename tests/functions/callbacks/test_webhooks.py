"""callbacks.webhooks: which URLs the prefixes cover, which addresses are connected to, the keys, and the signatures."""

import base64
import ipaddress
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from qmaster.errors import ConfigError, Forbidden
from qmaster.functions.callbacks.addresses import reach
from qmaster.functions.callbacks.webhooks import Receivers, read_keys, sign

KEY, OTHER = bytes(range(32)), bytes(range(64))
SECRET, OTHER_SECRET = (f"whsec_{base64.b64encode(key).decode()}" for key in (KEY, OTHER))


def receivers(folder: Path, *prefixes: str, keys: str = SECRET) -> Receivers:
    file = folder / "keys"
    file.write_text(keys)
    file.chmod(0o600)
    made = Receivers(prefixes, str(file))
    made.load()
    return made


# --- prefixes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "url", "covered"),
    [
        ("https://a.example", "https://a.example/", True),
        ("https://a.example", "https://a.example/any/where?x=1", True),
        ("https://A.example:443/", "https://a.EXAMPLE/x", True),
        ("https://a.example/hooks", "https://a.example/hooks", True),
        ("https://a.example/hooks", "https://a.example/hooks/", True),
        ("https://a.example/hooks/", "https://a.example/hooks", True),
        ("https://a.example/hooks", "https://a.example/hooks?x=/hooks", True),
        ("https://a.example/hooks", "https://a.example/hooks/a/b", True),
        ("http://[::1]:80/", "http://[0:0:0:0:0:0:0:1]/", True),
        ("https://a.example/hooks", "https://a.example/hooksx", False),
        ("https://a.example/hooks", "https://a.example/Hooks", False),
        ("https://a.example/hooks", "https://a.example/", False),
        ("https://a.example/hooks", "https://a.example/x/hooks", False),
        ("https://a.example/hooks", "https://a.example//hooks", False),
        ("https://a.example/hooks", "https://a.example/hooks;x", False),
        ("https://a.example/hooks", "https://a.example/?/hooks", False),
        ("https://a.example/hooks", "https://a.example/hooks/../admin", False),
        ("https://a.example/hooks", "https://a.example/hooks/%2e%2e/admin", False),
        ("https://a.example", "http://a.example/", False),
        ("https://a.example", "https://a.example:8443/", False),
        ("https://a.example", "https://a.example.evil.example/", False),
        ("https://a.example", "https://xa.example/", False),
        ("https://a.example", "https://sub.a.example/", False),
        ("https://a.example", "https://a.example@evil.example/", False),
        ("https://a.example", "https://a.example./", False),
        ("https://a.example", "https://evil.example/https://a.example/", False),
        ("http://10.0.0.1", "http://167772161/", False),
        ("http://10.0.0.1", "http://[::ffff:10.0.0.1]/", False),
    ],
)
def test_a_prefix_covers_what_is_below_it(tmp_path: Path, prefix: str, url: str, covered: bool) -> None:
    """Scheme, host and port are the same, and the path begins with the same segments."""
    made = receivers(tmp_path, prefix)
    assert (made.prefix_of(url) is not None) == covered
    if not covered:
        with pytest.raises(Forbidden, match="callback: no prefix of the server's option --callbacks"):
            made.check("callback", url)


def test_the_longest_prefix_counts(tmp_path: Path) -> None:
    """So that a part of a host can have a key of its own."""
    made = receivers(tmp_path, "https://a.example", "https://a.example/b/c", "https://a.example/b")
    found = made.prefix_of("https://a.example/b/c/d")
    assert found
    assert found.text == "https://a.example/b/c"


def test_without_prefixes_no_callback_is_accepted() -> None:
    """The error names the option."""
    with pytest.raises(Forbidden, match="on_success: this server sends no callbacks; its option --callbacks"):
        Receivers().check("on_success", "https://a.example/")
    Receivers().check("on_success", None)


@pytest.mark.parametrize(
    "prefix",
    [
        "a.example",
        "https://user@a.example",
        "https://a.example/?x",
        "https://a.example/#x",
        "https://a.example/../x",
        "http://169.254.169.254/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "http://[fe80::1]/",
    ],
)
def test_a_wrong_prefix_is_an_error_at_the_start(tmp_path: Path, prefix: str) -> None:
    """So are addresses that are never connected to."""
    with pytest.raises(ConfigError, match="--callbacks: '"):
        receivers(tmp_path, prefix)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("global", "8.8.8.8 1.1.1.1 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1 172.32.0.1"),
        ("local", "10.0.0.1 127.0.0.1 127.255.0.1 172.16.0.1 192.168.1.1 100.64.0.1 192.0.2.1 198.18.0.1 203.0.113.1"),
        ("local", "::1 fd12::1 fc00::1 2001:db8::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::127.0.0.1 ::ffff:0:10.0.0.1"),
        ("local", "64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 2002:a00:1::1 2606::5efe:10.0.0.1"),
        ("never", "169.254.169.254 169.254.170.2 169.254.0.1 0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 240.0.0.1"),
        ("never", "100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 fd00:ec2::23 fd20:ce::254"),
        ("never", ":: fe80::1 febf::1 fec0::1 ff02::1 100::1 4000::1"),
        ("never", "::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::169.254.169.254 ::ffff:0:169.254.169.254 ::ffff:0.0.0.0"),
        ("never", "64:ff9b::a9fe:a9fe 64:ff9b::169.254.169.254 64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe::1"),
        (
            "never",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2 2606::5efe:a9fe:a9fe fe80::5efe:8.8.8.8 2606::200:5efe:a9fe:a9fe",
        ),
    ],
)
def test_link_local_and_metadata_addresses_are_known_in_each_spelling(kind: str, addresses: str) -> None:
    """IPv4 addresses inside IPv6 ones too: mapped, compatible, translated, NAT64, 6to4, ISATAP."""
    assert {address: reach(ipaddress.ip_address(address)) for address in addresses.split()} == dict.fromkeys(
        addresses.split(), kind
    )


# --- keys and signatures ----------------------------------------------------------------------------------------------


def signed(made: Receivers, url: str, body: bytes) -> dict[str, str]:
    prefix, now = made.prefix_of(url), int(time.time())
    assert prefix
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": made.signature(prefix, "msg_1", now, body),
    }


def test_a_signature_is_that_of_standard_webhooks(tmp_path: Path) -> None:
    """The package checks it, and refuses it with another key, body, id or time."""
    made = receivers(tmp_path, "https://a.example")
    body = '{"a":"ü"}'.encode()
    headers = signed(made, "https://a.example/", body)
    assert Webhook(SECRET).verify(body, headers) == {"a": "ü"}
    for wrong in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(int(time.time()) - 60)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, {**headers, **wrong})
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(body, headers)


def test_the_specification_s_own_example() -> None:
    """Of the libraries of Standard Webhooks: a key, an id, a time and a body, with their signature."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_prefix_has_its_key(tmp_path: Path) -> None:
    """One without a line of its own has the bare key, which others' receivers do not know."""
    keys = f"# keys\n\nHTTPS://a.example:443/x {OTHER_SECRET}\n{SECRET}\n"
    made = receivers(tmp_path, "https://a.example/x", "https://b.example", keys=keys)
    Webhook(OTHER_SECRET).verify(b"{}", signed(made, "https://a.example/x/y", b"{}"))
    Webhook(SECRET).verify(b"{}", signed(made, "https://b.example/", b"{}"))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b"{}", signed(made, "https://a.example/x/y", b"{}"))


def test_a_key_is_replaced_without_a_break(tmp_path: Path) -> None:
    """With two lines for a prefix a callback has both signatures."""
    made = receivers(tmp_path, "https://a.example", keys=f"{SECRET}\n{OTHER_SECRET}\n")
    for secret in (SECRET, OTHER_SECRET):
        Webhook(secret).verify(b"{}", signed(made, "https://a.example/", b"{}"))


def test_a_key_that_several_receivers_share_is_warned_of(tmp_path: Path) -> None:
    """Each of them could forge callbacks to the others."""
    with capture_logs() as lines:
        receivers(tmp_path, "https://a.example", "https://b.example")
    assert "webhook_key_shared" in [line["event"] for line in lines]
    with capture_logs() as lines:
        receivers(tmp_path, "https://a.example")
    assert [line["event"] for line in lines] == ["webhook_keys_loaded"]
    assert SECRET.removeprefix("whsec_") not in str(lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it has no key"),
        ("# only words\n", "it has no key"),
        (SECRET.removeprefix("whsec_"), "line 1: expected 'whsec_…' or 'PREFIX whsec_…'"),
        (f"\n{SECRET} {SECRET}\n", "line 2: expected a prefix of --callbacks before the key"),
        (f"https://a.example {SECRET} more", "line 1: expected 'whsec_…' or 'PREFIX whsec_…'"),
        (f"https://a@b.example {SECRET}", "line 1: expected a prefix of --callbacks before the key"),
        (f"{SECRET}!", "line 1: the key is not base64"),
        ("whsec_", "line 1: expected a key of 24 to 64 bytes; got 0"),
        ("whsec_c2hvcnQ=", "line 1: expected a key of 24 to 64 bytes; got 5"),
        (f"whsec_{base64.b64encode(bytes(65)).decode()}", "line 1: expected a key of 24 to 64 bytes; got 65"),
        (f"https://b.example {SECRET}", "no key for https://a.example/: add a line 'https://a.example/ whsec_…'"),
    ],
)
def test_a_wrong_key_file_is_an_error_that_shows_no_key(tmp_path: Path, content: str, said: str) -> None:
    """It names the option, the file and the line."""
    with pytest.raises(ConfigError) as raised:
        receivers(tmp_path, "https://a.example", keys=content)
    assert f"--webhook-key-file: {tmp_path / 'keys'}: {said}" in str(raised.value)
    assert SECRET.removeprefix("whsec_") not in str(raised.value)


def test_a_key_file_that_is_no_text_is_an_error() -> None:
    """A key in raw bytes is not taken."""
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read_keys(b"\xff" * 32)


def test_a_key_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The words are the system's."""
    with pytest.raises(ConfigError, match=r"--webhook-key-file: cannot read .*: No such file or directory"):
        Receivers(["https://a.example"], str(tmp_path / "none")).load()


def test_prefixes_need_a_key_file() -> None:
    """Nothing is sent unsigned."""
    with pytest.raises(ConfigError, match="--callbacks needs --webhook-key-file"):
        Receivers(["https://a.example"])


def test_a_key_file_open_to_others_is_warned_of(tmp_path: Path) -> None:
    """Whoever reads it can forge callbacks."""
    made = receivers(tmp_path, "https://a.example")
    (tmp_path / "keys").chmod(0o644)
    with capture_logs() as lines:
        made.load()
    assert "webhook_key_file_open_to_others" in [line["event"] for line in lines]
