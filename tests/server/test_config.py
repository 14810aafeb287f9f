"""config: a flag wins over the environment, the environment over the default; what is wrong is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qmaster.errors import ConfigError
from qmaster.server import config

TOKEN = "a-token-for-tests"


def load(flags: dict[str, str] | None = None, **environ: str) -> config.Config:
    return config.load(flags or {}, {"TOKEN": TOKEN, **environ})


def test_the_defaults_are_those_of_the_contract() -> None:
    """With a token alone: port 9090 on all interfaces, 250 MiB, the platform's engine, no TLS."""
    settings = load()
    assert (settings.port, settings.address, settings.memory) == (9090, "", 250)
    assert (settings.docker_host, settings.tls_cert, settings.tls_key) == ("", "", "")


@pytest.mark.parametrize(
    ("flag", "variable", "field", "low", "high"),
    [
        ("port", "PORT", "port", "1", "2"),
        ("address", "QMASTER_ADDRESS", "address", "127.0.0.1", "::1"),
        ("memory", "MEMORY", "memory", "7", "8"),
        ("docker_host", "DOCKER_HOST", "docker_host", "unix:///a", "unix:///b"),
        ("log_format", "QMASTER_LOG_FORMAT", "log_format", "json", "console"),
    ],
)
def test_a_flag_wins_over_its_variable(flag: str, variable: str, field: str, low: str, high: str) -> None:
    """Each option reads its variable, and its flag first."""
    environ = {"TOKEN": TOKEN, variable: low}
    assert str(getattr(config.load({}, environ), field)) == low
    assert str(getattr(config.load({flag: high}, environ), field)) == high


def test_the_token_flag_wins_over_both_variables(tmp_path: Path) -> None:
    """With --token neither TOKEN nor TOKEN_FILE is looked at."""
    assert load({"token": "of-the-flag"}, TOKEN_FILE=str(tmp_path / "missing")).token == "of-the-flag"


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    """TOKEN_FILE names a file; space around the token there is not part of it."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert config.load({}, {"TOKEN_FILE": str(file)}).token == TOKEN


def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path: Path) -> None:
    """Some editors write one in front of UTF-8."""
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbf" + TOKEN.encode() + b"\r\n")
    assert config.load({}, {"TOKEN_FILE": str(file)}).token == TOKEN


def test_a_token_has_a_length() -> None:
    """The error has the bound."""
    assert load(TOKEN="t" * 4096).token == "t" * 4096
    with pytest.raises(ConfigError, match=r"^TOKEN: expected a token of at most 4096 bytes$"):
        load(TOKEN="é" * 2049)


def test_no_ttl_is_the_word_never() -> None:
    """0 is taken as before."""
    assert (load(QMASTER_TTL="never").ttl, load({"ttl": "never"}).ttl, load(QMASTER_TTL="0").ttl) == (None, None, 0.0)
    says = r"^--ttl: expected 0 to [0-9]+ seconds, a duration such as 1m30s, or never; got 'for ever'$"
    with pytest.raises(ConfigError, match=says):
        load(QMASTER_TTL="for ever")


def test_options_take_durations_and_sizes() -> None:
    """As a request does."""
    found = load(
        {"ttl": "1d", "timeout": "1m30s", "memory": "1g"}, QMASTER_KEEP_SIZE="2g", QMASTER_SHUTDOWN_TIMEOUT="5s"
    )
    assert (found.ttl, found.timeout, found.memory) == (86_400, 90, 1024)
    assert (found.keep_size, found.shutdown_timeout) == (2048, 5)
    with pytest.raises(ConfigError, match=r"^--keep-days: expected a whole number from 1 to 36500 days; got '1d'$"):
        load(QMASTER_KEEP_DAYS="1d")
    with pytest.raises(ConfigError, match=r"^--memory: expected 6 to [0-9]+ MiB, or a size such as 512m; got '1m'$"):
        load(MEMORY="1m")


def _missing(path: Path) -> Path:
    return path / "missing"


def _empty(path: Path) -> Path:
    (path / "empty").write_text("\n")
    return path / "empty"


def _two_lines(path: Path) -> Path:
    (path / "two").write_text("one\ntwo\n")
    return path / "two"


def _not_text(path: Path) -> Path:
    (path / "bytes").write_bytes(b"\xff\xfe\xff")
    return path / "bytes"


@pytest.mark.parametrize("make", [_missing, _empty, _two_lines, _not_text, lambda path: path])
def test_a_bad_token_file_is_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """A file that is missing, empty, of two lines, not text or a folder: an error that names TOKEN_FILE."""
    with pytest.raises(ConfigError, match=r"^TOKEN_FILE: "):
        config.load({}, {"TOKEN_FILE": str(make(tmp_path))})


def test_an_error_about_a_token_file_does_not_show_what_is_in_it(tmp_path: Path) -> None:
    """A token of two lines is secret all the same."""
    with pytest.raises(ConfigError) as caught:
        config.load({}, {"TOKEN_FILE": str(_two_lines(tmp_path))})
    assert "one" not in str(caught.value).replace("one line", "")


def test_without_a_token_it_says_how_to_give_one() -> None:
    """No token: an error that names all three ways."""
    with pytest.raises(ConfigError, match=r"TOKEN.*TOKEN_FILE.*--token"):
        config.load({}, {})


def test_two_tokens_are_refused(tmp_path: Path) -> None:
    """TOKEN and TOKEN_FILE together: an error, as one would be ignored in silence."""
    with pytest.raises(ConfigError, match="TOKEN and TOKEN_FILE are both set"):
        load(TOKEN_FILE=str(tmp_path / "token"))


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "tab\there", " around ", "bell\a", "nul\0"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    """Empty, space around it, or characters that cannot be printed."""
    with pytest.raises(ConfigError, match=r"^--token: "):
        load({"token": token})


@pytest.mark.parametrize("token", ["ключ-ключ-ключ", "with space inside", "p@ss:w/ord=="])
def test_any_printable_line_is_a_token(token: str) -> None:
    """Not only ASCII, and space within it."""
    assert load({"token": token}).token == token


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "http"),
        ("port", ""),
        ("port", " 80"),
        ("port", "8_0"),
        ("port", "80.0"),
        ("port", "٨٠"),
        ("port", "9" * 5000),
        ("memory", "5"),
        ("memory", "0"),
        ("memory", "250x"),
        ("memory", str(16 * 1024 * 1024 + 1)),
        ("log_format", "xml"),
    ],
)
def test_a_wrong_value_is_refused_with_its_flag(flag: str, text: str) -> None:
    """The error names the flag and shows nothing else of the environment."""
    with pytest.raises(ConfigError, match=f"^--{flag.replace('_', '-')}: expected "):
        load({flag: text})


@pytest.mark.parametrize(("flag", "text", "value"), [("port", "0", 0), ("port", "65535", 65535), ("memory", "6", 6)])
def test_the_bounds_are_allowed(flag: str, text: str, value: int) -> None:
    """Port 0 (any free one) and the engine's least memory are fine."""
    assert getattr(load({flag: text}), flag) == value


@pytest.mark.parametrize("flag", ["tls_cert", "tls_key"])
def test_a_certificate_wants_its_key(flag: str) -> None:
    """One without the other is an error that names both."""
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key go together"):
        load({flag: "file.pem"})


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The error holds the flag and the path."""
    key = tmp_path / "key.pem"
    key.touch()
    with pytest.raises(ConfigError, match=r"^--tls-cert: cannot read .*missing\.pem"):
        load({"tls_cert": str(tmp_path / "missing.pem"), "tls_key": str(key)})


def test_an_empty_variable_is_as_good_as_none() -> None:
    """`PORT= python -m qmaster` has the default: shells and compose files make empty variables."""
    assert load(PORT="", DOCKER_HOST="", TOKEN_FILE="").port == 9090


def test_the_token_is_not_in_the_repr() -> None:
    """A config that lands in a log or a traceback does not show the token."""
    assert TOKEN not in repr(load())


def test_every_option_has_a_flag_a_variable_and_help() -> None:
    """The one table that --help and docs/configuration.md are made of is complete, and no name is there twice."""
    flags = [option.flag for option in config.OPTIONS]
    variables = [option.env for option in config.OPTIONS]
    assert all(option.help and option.flag.startswith("--") and option.env for option in config.OPTIONS)
    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)


def test_lists_are_given_with_commas() -> None:
    """Space around them does not count; origins and hosts are in lower case."""
    settings = load(
        {"registries": "docker.io, registry.example.com:5000,"},
        QMASTER_ALLOW_ORIGIN="https://Page.example,http://localhost:8000",
        QMASTER_ALLOW_HOST="QM.example.com, 10.0.0.5,[::1]",
    )
    assert settings.registries == ("docker.io", "registry.example.com:5000")
    assert settings.allow_origin == ("https://page.example", "http://localhost:8000")
    assert settings.allow_host == ("qm.example.com", "10.0.0.5", "[::1]")
    assert load().registries == load().allow_origin == load().allow_host == ()


@pytest.mark.parametrize(
    "text",
    [
        "foo",
        "*",
        "null",
        "page.example:8000",
        "://page.example",
        "1://page.example",
        "https://",
        "https://page.example/",
        "https://page.example:",
        "https://page.example:123456",
        "https://a b",
        "https://*",
    ],
)
def test_an_origin_has_a_scheme_and_a_host(text: str) -> None:
    """And its port, if it has one: as a browser sends it, and nothing else would ever be equal to it."""
    with pytest.raises(ConfigError, match=r"^--allow-origin: '.*' is not an origin; expected scheme://host"):
        load({"allow_origin": f"https://page.example,{text}"})
    for right in ("http://[::1]:80", "https://page.example:65535", "moz-extension://page"):
        assert load({"allow_origin": right}).allow_origin == (right,)


@pytest.mark.parametrize("text", ["qm.example.com:9090", "https://qm.example.com", "qm example.com", "*", "qm/x"])
def test_a_host_is_a_name_without_its_port(text: str) -> None:
    """As it is compared."""
    with pytest.raises(ConfigError, match=r"^--allow-host: expected names or addresses without a port"):
        load({"allow_host": text})


def test_a_domain_of_functions_is_a_name() -> None:
    """Without a port, in lower case; none by default."""
    assert load().function_domain == ""
    assert load({"function_domain": "Fn.Example.org"}).function_domain == "fn.example.org"
    for text in ("*.example.org", ".example.org", "example.org:80", "a b", "https://x", "-a.org", "a..b"):
        with pytest.raises(ConfigError, match=r"^--function-domain: expected a domain"):
            load({"function_domain": text})


def test_bind_mounts_are_folders() -> None:
    """Absolute ones, none inside another: a job that may write to the outer one could exchange the inner one."""
    assert load({"bind_mounts": "/srv/a/, /srv//b"}).bind_mounts == ("/srv/a", "/srv/b")
    assert load().bind_mounts == ()
    for text in ("srv", "/", "/srv/../etc", "/proc", "/srv,/srv/a", "/srv/a,/srv"):
        with pytest.raises(ConfigError, match=r"^--bind-mounts: "):
            load({"bind_mounts": text})


def test_trusted_proxies_are_addresses_or_networks() -> None:
    """Of either kind, separated by commas."""
    proxies = load({"trusted_proxies": "127.0.0.1, 10.0.0.0/8,::1"}).trusted_proxies
    assert [str(one) for one in proxies] == ["127.0.0.1/32", "10.0.0.0/8", "::1/128"]
    assert load().trusted_proxies == ()
    for text in ("proxy.example", "10.0.0.1/8", "*", "127.0.0.1:80"):
        with pytest.raises(ConfigError, match=r"^--trusted-proxies: expected addresses or networks"):
            load({"trusted_proxies": text})
