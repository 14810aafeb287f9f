"""tokens: a file of tokens → what each may do, or what is wrong with it."""

import hashlib

import pytest

from qmaster.auth import tokens
from qmaster.auth.tokens import SCOPES, TokenPolicy, digest
from qmaster.errors import ConfigError
from qmaster.models.images import Pattern

SHA = hashlib.sha256(b"alice's").hexdigest()
OTHER = hashlib.sha256(b"bob's").hexdigest()
LEAST = f'[alice]\nsha256 = "{SHA}"\nscopes = ["run"]\n'

WHOLE = f"""
[alice]
sha256 = "{SHA}"
scopes = ["run", "stop", "read", "invoke"]
functions = ["team-*", "resize"]
max_functions = 7
public = true
images = ["docker.io/library/*", "registry.example.com:5000/team/**"]
max_memory = 512
max_cpus = 1.5
max_replicas = 3
max_running = 10
max_rate = 60
max_kept = 0
max_ttl = 3600
max_pids = 4096
allow_relaxed = true
constraints = ["node.labels.team==blue"]
networks = ["blue"]
secrets = ["blue-key"]
ports = [8080, "8000-8009"]

[bob]
sha256 = "{OTHER.upper()}"
scopes = ["read"]
"""


def test_a_byte_order_mark_is_skipped() -> None:
    """Some editors write one in front of UTF-8."""
    assert tokens.read(b"\xef\xbb\xbf" + WHOLE.encode()) == tokens.read(WHOLE.encode())


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        (f'images = ["{"i" * 513}"]', 512),
        (f'constraints = ["aa=={" " * 600}"]', 512),
        (f'networks = ["{"n" * 256}"]', 255),
        (f'ports = ["{"8" * 65}"]', 64),
    ],
)
def test_a_string_has_a_length(line: str, limit: int) -> None:
    """Each of a table; the error has the bound."""
    with pytest.raises(ConfigError, match=rf"^\[alice\] [a-z]+.*: expected .* of at most {limit} characters"):
        tokens.read(f'[alice]\nsha256 = "{SHA}"\nscopes = ["run"]\n{line}'.encode())


def test_a_table_is_what_a_token_may_do() -> None:
    """Every key; of the token only its digest."""
    alice, bob = tokens.read(WHOLE.encode())
    assert alice == TokenPolicy(
        name="alice",
        digest=bytes.fromhex(SHA),
        scopes=frozenset(SCOPES),
        images=(Pattern("docker.io", ("library", "*")), Pattern("registry.example.com:5000", ("team", "**"))),
        max_memory=512,
        max_cpus=1.5,
        max_replicas=3,
        max_running=10,
        max_rate=60,
        max_kept=0,
        max_ttl=3600.0,
        max_pids=4096,
        allow_relaxed=True,
        constraints=("node.labels.team==blue",),
        networks=frozenset({"blue"}),
        secrets=frozenset({"blue-key"}),
        ports=(range(8080, 8081), range(8000, 8010)),
        functions=("team-*", "resize"),
        max_functions=7,
        public=True,
    )
    assert (bob.name, bob.digest, bob.scopes) == ("bob", digest(b"bob's"), frozenset({"read"}))


def test_what_is_not_said_is_not_allowed_or_not_limited() -> None:
    """No network, secret or port; any image, and no cap."""
    (alice,) = tokens.read(LEAST.encode())
    assert (alice.networks, alice.secrets, alice.ports, alice.constraints) == (frozenset(), frozenset(), (), ())
    assert alice.images is None
    assert (alice.max_memory, alice.max_cpus, alice.max_replicas, alice.max_running) == (None, None, None, None)
    assert (alice.max_rate, alice.max_kept, alice.max_ttl) == (None, None, None)
    assert (alice.max_pids, alice.allow_relaxed) == (None, False)
    assert (alice.functions, alice.max_functions, alice.public) == ((), 100, False)


def test_a_list_of_no_images_lets_none_through() -> None:
    """It is not as if it were left out."""
    (alice,) = tokens.read(f"{LEAST}images = []\n".encode())
    assert alice.images == ()


def test_an_empty_file_has_no_tokens() -> None:
    """The root token is then the only one."""
    assert tokens.read(b"") == tokens.read(b"# none yet\n") == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("max_memory = 5", "[alice] max_memory: expected an integer of at least 6"),
        ("max_memory = 6.5", "[alice] max_memory: expected an integer"),
        ('max_memory = "64"', "[alice] max_memory: expected an integer"),
        ("max_memory = true", "[alice] max_memory: expected an integer"),
        ("max_memory = 2026-01-01", "[alice] max_memory: expected an integer"),
        ("max_cpus = 0", "[alice] max_cpus: expected a number of at least 0.01"),
        ("max_cpus = -1", "[alice] max_cpus: expected a number"),
        ("max_cpus = nan", "[alice] max_cpus: expected a number"),
        ("max_cpus = inf", "[alice] max_cpus: expected a number"),
        ("max_replicas = 0", "[alice] max_replicas: expected an integer of at least 1"),
        ("max_pids = 0", "[alice] max_pids: expected an integer of at least 1"),
        ("allow_relaxed = 1", "[alice] allow_relaxed: expected a boolean, got an integer"),
        ("max_rate = 0", "[alice] max_rate: expected an integer of at least 1"),
        ("max_rate = 0.5", "[alice] max_rate: expected an integer"),
        ("max_kept = -1", "[alice] max_kept: expected an integer of at least 0"),
        ("max_ttl = -1", "[alice] max_ttl: expected a number of at least 0"),
        ('max_ttl = "1"', "[alice] max_ttl: expected a number (seconds) or a duration such as 1m30s, got '1'"),
        ("max_running = 0", "[alice] max_running: expected an integer of at least 1"),
        ('constraints = "node.role==worker"', "[alice] constraints: expected an array"),
        ('constraints = ["worker"]', "[alice] constraints[0]: expected"),
        ('networks = ["a b"]', "[alice] networks[0]: expected"),
        ('networks = ["host"]', "[alice] networks: no token may use the network host"),
        ('secrets = ["../etc"]', "[alice] secrets[0]: expected"),
        ("ports = [0]", "[alice] ports[0]: expected an integer of at least 1"),
        ("ports = [65536]", "[alice] ports[0]: expected an integer of at most 65535"),
        ('ports = ["0"]', "[alice] ports: '0': expected a published port"),
        ('ports = ["8000-"]', "[alice] ports: '8000-': expected a published port"),
        ('ports = ["8009-8000"]', "[alice] ports: '8009-8000': expected a published port"),
        ('ports = ["1-65536"]', "[alice] ports: '1-65536': expected a published port"),
        ('ports = ["8000-8009/tcp"]', "[alice] ports: '8000-8009/tcp': expected a published port"),
        ('ports = ["8080:80"]', "[alice] ports: '8080:80': expected a published port"),
        ("ports = [true]", "[alice] ports[0]: expected an integer or a string"),
        ('images = ["UPPER"]', "[alice] images: 'UPPER': expected parts in lower case"),
        ('images = "busybox"', "[alice] images: expected an array"),
        ("memory = 64", "[alice] unknown key 'memory'"),
        ('token = "alice\'s"', "[alice] unknown key 'token'"),
        ("[alice.bob]", "[alice] unknown key 'bob'"),
    ],
)
def test_what_is_wrong_is_named(line: str, says: str) -> None:
    """The table and the key, in words: a mistake must not pass for a limit."""
    with pytest.raises(ConfigError) as caught:
        tokens.read(f"{LEAST}{line}\n".encode())
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ('[alice]\nscopes = ["run"]', "[alice] sha256: is required"),
        (f'[alice]\nsha256 = "{SHA}"', "[alice] scopes: is required"),
        (f'[alice]\nsha256 = "{SHA}"\nscopes = []', "[alice] scopes: expected an array of at least 1 item"),
        (
            f'[alice]\nsha256 = "{SHA}"\nscopes = ["admin"]',
            "[alice] scopes[0]: expected one of run, stop, read,",
        ),
        (f'[alice]\nsha256 = "{SHA[:-1]}"\nscopes = ["run"]', "[alice] sha256: expected 64 hexadecimal digits"),
        (f'[alice]\nsha256 = "{SHA}\\n"\nscopes = ["run"]', "[alice] sha256: expected 64 hexadecimal digits"),
        (f'{LEAST}functions = "team-*"', "[alice] functions: expected an array, got a string"),
        (f'{LEAST}functions = [""]', "[alice] functions[0]: expected the name of a function, or a pattern such as"),
        (f'{LEAST}functions = ["Team"]', "[alice] functions[0]: expected the name of a function, or a pattern such as"),
        (f'{LEAST}functions = ["a?"]', "[alice] functions[0]: expected the name of a function, or a pattern such as"),
        (f'{LEAST}functions = ["[a]"]', "[alice] functions[0]: expected the name of a function, or a pattern such as"),
        (f'{LEAST}functions = ["a-"]', "[alice] functions[0]: expected the name of a function, or a pattern such as"),
        (f"{LEAST}functions = [1]", "[alice] functions[0]: expected a string, got an integer"),
        (f'{LEAST}public = "yes"', "[alice] public: expected a boolean, got a string"),
        ('[alice]\nsha256 = "alice\'s"\nscopes = ["run"]', "[alice] sha256: expected 64 hexadecimal digits"),
        (LEAST.replace("alice", "root"), "[root]: this name is reserved for the root token"),
        (LEAST.replace("alice", "Alice"), "['Alice']: expected a name of up to 63"),
        (LEAST.replace("alice", '"a b"'), "['a b']: expected a name of up to 63"),
        (LEAST.replace("alice", '""'), "['']: expected a name of up to 63"),
        (LEAST.replace("alice", '"alice\\n"'), "['alice\N{REPLACEMENT CHARACTER}']: expected a name of up to 63"),
        (LEAST.replace("alice", "a" * 64), f"['{'a' * 64}']: expected a name of up to 63"),
        (LEAST.replace("alice", "-a"), "['-a']: expected a name of up to 63"),
        (f'sha256 = "{SHA}"', "'sha256': expected a table for each name"),
        (f"{LEAST}[[bob]]\nscopes = []", "'bob': expected a table for each name"),
        (LEAST + LEAST, "it is not TOML: Cannot declare [alice] twice"),
        (f"{LEAST}[alice.bob]\n[alice.bob]", "it is not TOML: Cannot declare [alice.bob] twice"),
        (LEAST + LEAST.replace("alice", "bob"), "[bob] sha256: is already that of [alice]"),
        ("[alice", "it is not TOML: "),
        ("a = " + "[" * 100_000, "it is not TOML: "),
    ],
)
def test_a_file_that_is_wrong_is_no_file(file: str, says: str) -> None:
    """As a whole: half of it might let through what the rest forbids."""
    with pytest.raises(ConfigError) as caught:
        tokens.read(file.encode())
    assert str(caught.value).startswith(says)


def test_a_file_is_utf_8() -> None:
    """As TOML is."""
    with pytest.raises(ConfigError, match="it is not TOML: "):
        tokens.read(LEAST.encode("utf-16"))


def test_nobody_has_the_root_token_nor_none() -> None:
    """The one would be limited by nothing, the other be everyone's."""
    with pytest.raises(ConfigError, match=r"^\[alice\] sha256: is already that of root"):
        tokens.read(LEAST.encode(), {digest(b"alice's")})
    with pytest.raises(ConfigError, match=r"^\[alice\] sha256: is already that of an empty token"):
        tokens.read(LEAST.replace(SHA, hashlib.sha256(b"").hexdigest()).encode())


def test_no_message_shows_a_digest() -> None:
    """They end in logs."""
    for file in (LEAST + LEAST.replace("alice", "bob"), LEAST.replace(SHA, SHA[:-1])):
        with pytest.raises(ConfigError) as caught:
            tokens.read(file.encode())
        assert SHA[:-1] not in str(caught.value)
