"""The command line and the server's lifetime: the process as a user starts it, without an engine."""

import base64
import dataclasses
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import trustme
from fakes import AUTH
from structlog.testing import capture_logs

from qmaster import __version__
from qmaster.cli import main
from qmaster.server import app as server_room
from qmaster.server import config

TOKEN = "a-token-for-tests-of-the-command-line"
ROOT = Path(__file__).parents[2]
WITHIN = 20.0  # seconds: a loaded machine's bound, never waited for
pytestmark = pytest.mark.slow  # a process each


def environ(folder: Path, **more: str) -> dict[str, str]:
    """A user's environment, without options of this one, and with an address where no engine is."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "DOCKER_HOST": f"unix://{folder}/no-engine.sock",
        "QMASTER_ADDRESS": "127.0.0.1",
        "QMASTER_DATA_DIR": str(folder / "data"),
        "PORT": "0",
        "QMASTER_RUNTIME_PORT": "0",
        **more,
    }


def qmaster(folder: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [sys.executable, "-m", "qmaster", *args]
    return subprocess.run(
        command, env=environ(folder, **more), cwd=folder, capture_output=True, text=True, timeout=WITHIN, check=False
    )


class Server(NamedTuple):
    """A quartermaster that serves."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), json.loads(answer.read())
        finally:
            connection.close()

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WITHIN)


def eventually(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("not in time")


def start(folder: Path, *args: str, **more: str) -> Server:
    """Start it, and wait until it says its port."""
    log = folder / "log"
    command = [sys.executable, "-m", "qmaster", "--log-format", "json", *args]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, env=environ(folder, **({"TOKEN": TOKEN} | more)), cwd=folder, stdout=stderr, stderr=stderr
        )

    def port() -> Any:
        assert process.poll() is None, log.read_text()
        return re.search(r'"port": ?(\d+).*\n', log.read_text())

    try:
        return Server(process, log, int(eventually(port)[1]))
    except BaseException:
        process.kill()
        process.wait()
        raise


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the questions that change nothing."""
    server = start(tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers that a test ends itself."""
    started: list[Server] = []

    def own(*args: str, **more: str) -> Server:
        started.append(start(tmp_path, *args, **more))
        return started[-1]

    yield own
    for server in started:
        server.process.kill()
        server.process.wait()


# --- options ----------------------------------------------------------------------------------------------------------


def check_refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    """Exit code 2 and one line on stderr that says what is wrong."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qmaster: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def test_without_a_token_it_does_not_start(tmp_path: Path) -> None:
    """One line that says how to give one, and exit code 2."""
    check_refused(qmaster(tmp_path), "TOKEN")


def test_two_tokens_are_refused(tmp_path: Path) -> None:
    """TOKEN and TOKEN_FILE both set."""
    (tmp_path / "token").write_text(TOKEN)
    done = qmaster(tmp_path, TOKEN=TOKEN, TOKEN_FILE=str(tmp_path / "token"))
    check_refused(done, "TOKEN and TOKEN_FILE are both set")
    assert TOKEN not in done.stderr


def _certificates(folder: Path) -> None:
    (folder / "nonsense.pem").write_text("nonsense")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--port", "http"], "--port"),
        (["--memory", "5"], "--memory"),
        (["--docker-host", "nonsense://"], "--docker-host: expected unix:///var/run/docker.sock, tcp://host:2375 or "),
        (["--docker-host", "/var/run/docker.sock"], "write unix:///var/run/docker.sock"),
        (["--log-format", "xml"], "--log-format"),
        (["--tls-cert", "nonsense.pem"], "--tls-key"),
        (["--tls-cert", "nonsense.pem", "--tls-key", "nonsense.pem"], "is not a PEM certificate"),
        (["--tls-cert", "missing.pem", "--tls-key", "nonsense.pem"], "missing.pem"),
        (["--address", "no.such.host.invalid"], "--address"),
        (["--address", "192.0.2.1"], "--address"),
        (["--token", ""], "--token"),
    ],
)
def test_a_wrong_option_is_one_line(args: list[str], says: str, tmp_path: Path) -> None:
    """It names the option; no traceback, and no token."""
    _certificates(tmp_path)
    done = qmaster(tmp_path, *args, TOKEN=TOKEN)
    check_refused(done, says)
    assert TOKEN not in done.stderr


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """With the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_refused(qmaster(tmp_path, "--port", str(port), TOKEN=TOKEN), f"127.0.0.1:{port}")


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    """On one line, as every error, with exit code 2."""
    done = qmaster(tmp_path, "--zzz", TOKEN=TOKEN)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "qmaster: no such option: --zzz (python -m qmaster --help)\n"


WRONG_USES = [
    (["nonsense"], 2, "no such command 'nonsense'"),
    (["list"], 2, "no such command 'list': use status"),
    (["kill", "clock"], 2, "no such command 'kill': use stop"),
    (["help", "inspect"], 2, "no such command 'inspect': use status"),
    (["run", "--jso", "busybox"], 125, "no such option: --jso; did you mean --json"),
    (["run", "--memory", "much", "busybox"], 125, "expected MiB, or a size such as 512m; got 'much'"),
    (["run", "--timeout", "soon", "busybox"], 125, "expected seconds, a duration such as 1m30s; got 'soon'"),
    (["run", "--timeout", "nan", "busybox"], 125, "expected seconds, a duration such as 1m30s; got 'nan'"),
    (["run", "--ttl", "ever", "busybox"], 125, "expected seconds, a duration such as 1m30s, or never; got 'ever'"),
    (["run"], 125, "missing argument 'IMAGE'"),
    (
        ["status", "--token", "secret"],
        2,
        "no command takes a token, as all users of the machine could see it; set TOKEN",
    ),
    (["token", "root"], 2, "expected up to 63 characters"),
    (["--port", "1", "status"], 2, "--port is for serving"),
    (["--url", "http://x"], 2, "--url is an option of the commands"),
    (["--json", "--port", "1", "status"], 2, "--json is an option of the commands"),
    (["help", "nonsense"], 2, "no such command 'nonsense'"),
    (["\udcff"], 2, r"no such command '\xff'"),
    (["status", "a\udcff"], 2, r"'[ID]': 'a\xff' is not UTF-8"),
    (["run", "busybox", "a\udcff"], 125, r"'a\xff' is not UTF-8"),
    (["run", "--label", "a=\udcff", "busybox"], 125, r"'--label' / '-l': 'a=\xff' is not UTF-8"),
    (["events", "--service", "\udcff"], 2, r"'--service': '\xff' is not UTF-8"),
]


@pytest.mark.parametrize(("args", "code", "says"), WRONG_USES)
def test_a_wrong_use_is_one_line(args: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever click finds; it begins as all others, and says where help is."""
    with pytest.raises(SystemExit) as ended:
        main.main(args, prog_name="qmaster")
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (code, 1)
    assert said.startswith("qmaster: ")
    assert says in said
    assert said.endswith(" --help)\n")
    assert ". (" not in said


def test_the_list_of_commands_is_not_cut_off() -> None:
    """Each has one line, a whole sentence, on a terminal of 80 columns."""
    help_ = main.main.get_help(click.Context(main.main, max_content_width=80, terminal_width=80))
    for name, (_, text) in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", help_, re.MULTILINE), name


def in_use(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def closed(folder: Path, which: str, *args: str, **more: str) -> subprocess.Popen[bytes]:
    """A process that is started without some of its standard descriptors."""
    script = ["sh", "-c", f'exec "$@" {which}', "sh", sys.executable, "-m", "qmaster", *args]
    return subprocess.Popen(script, env=environ(folder, TOKEN=TOKEN, **more), cwd=folder)


@pytest.mark.parametrize("which", CLOSED)
def test_it_serves_without_standard_descriptors(which: str, tmp_path: Path) -> None:
    """And ends as it should: no connection or file takes their numbers."""
    # Below those that outgoing connections get, of which another process could have it by then.
    port = next(port for port in range(20_000 + os.getpid() % 10_000, 32_000) if not in_use(port))
    with closed(tmp_path, which, PORT=str(port)) as process:
        try:

            def lives() -> bool:
                try:
                    return Server(process, tmp_path / "none", port).ask("GET", "/livez")[0] == 200
                except OSError:
                    return False

            eventually(lives)
            for number in (0, 1, 2):
                target = os.readlink(f"/proc/{process.pid}/fd/{number}")
                assert "socket" not in target
                assert "journal" not in target
            process.send_signal(signal.SIGTERM)
            assert process.wait(WITHIN) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("which", CLOSED)
@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), (["token", "bob"], 0), (["status"], 1), (["nonsense"], 2)])
def test_a_command_works_without_standard_descriptors(args: list[str], code: int, which: str, tmp_path: Path) -> None:
    """What nobody can read goes nowhere; the exit code stays."""
    with closed(tmp_path, which, *args, QMASTER_URL="http://127.0.0.1:1") as process:
        assert process.wait(WITHIN) == code


def test_help_is_a_command_too(tmp_path: Path) -> None:
    """Of all, and of one."""
    assert qmaster(tmp_path, "help").stdout == qmaster(tmp_path, "--help").stdout
    assert qmaster(tmp_path, "help", "run").stdout == qmaster(tmp_path, "run", "--help").stdout


@pytest.mark.parametrize("args", [["--help"], ["status", "--help"], ["help"], ["token", "bob"]])
def test_output_that_cannot_be_written_is_one_line(args: list[str], tmp_path: Path) -> None:
    """As on a full disk."""
    command = [sys.executable, "-m", "qmaster", *args]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, env=environ(tmp_path), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"qmaster: the output cannot be written: No space left on device"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option(flag: str, tmp_path: Path) -> None:
    """Flags, variables and defaults, and TOKEN_FILE; but no value of the environment."""
    done = qmaster(tmp_path, flag, TOKEN=TOKEN, MEMORY="4711")
    assert (done.returncode, done.stderr) == (0, "")
    for option in config.OPTIONS:
        assert option.flag in done.stdout
        assert option.env in done.stdout
        assert option.default in done.stdout
    assert "TOKEN_FILE" in done.stdout
    assert TOKEN not in done.stdout
    assert "4711" not in done.stdout


def test_it_says_its_version(tmp_path: Path) -> None:
    """Without a token."""
    done = qmaster(tmp_path, "--version")
    assert (done.returncode, __version__ in done.stdout) == (0, True)


# --- without an engine ------------------------------------------------------------------------------------------------


def test_it_is_alive_without_an_engine(server: Server) -> None:
    """/livez is 200: it has started, and tries again and again."""
    assert server.ask("GET", "/livez", headers={})[0] == 200


def test_it_is_not_ready_without_an_engine(server: Server) -> None:
    """/readyz is 503 with the reason."""
    eventually(lambda: "away" in server.ask("GET", "/readyz", headers={})[2]["error"])
    status, headers, problem = server.ask("GET", "/readyz", headers={})
    assert (status, problem["code"], int(headers["Retry-After"]) > 0) == (503, 503, True)
    assert "--docker-host" in problem["error"]


REQUESTS = [
    ("POST", "/run", {"image": "busybox"}),
    ("POST", "/run", {"image": "busybox", "auth": AUTH}),
    ("POST", "/run", {"image": "busybox", "type": "container"}),
    ("POST", "/run", {"image": "busybox", "type": "container", "auth": AUTH}),
    ("POST", "/stop", {"id": "one"}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_without_an_engine_nothing_can_be_run(
    server: Server, method: str, path: str, body: dict[str, str] | None
) -> None:
    """503 with the reason and when to try again, at once."""
    begun = time.monotonic()
    status, headers, problem = server.ask(method, path, body)
    assert (status, problem["success"]) == (503, False), problem
    assert int(headers["Retry-After"]) > 0
    assert "away" in problem["error"]
    assert time.monotonic() - begun < 3


def test_without_an_engine_a_token_is_still_wanted(server: Server) -> None:
    """401 comes first."""
    assert server.ask("POST", "/run", {"image": "busybox"}, {"Authorization": "Bearer wrong"})[0] == 401


def test_the_log_has_a_line_for_each_request_and_no_secret(own: Callable[..., Server]) -> None:
    """With its id, path and status; neither the query, nor the token however it was sent, nor credentials."""
    server = own()
    server.ask("POST", "/run", {"image": "busybox", "auth": AUTH, "token": TOKEN}, {"X-Request-ID": "r-1"})
    server.ask("GET", f"/status?token={TOKEN}", headers={"X-Request-ID": "r-2"})
    server.ask("GET", f"/status/{TOKEN}", headers={"X-Request-ID": "r-3"})
    server.ask("GET", "/openapi.json?secret=hunter2", headers={"X-Request-ID": TOKEN})
    assert server.end() == 0
    seen = {line["request"]: (line["path"], line["status"]) for line in server.lines() if line["event"] == "request"}
    assert seen["r-1"][0] == "/run"
    assert seen["r-2"] == ("/status", 400)
    written = server.log.read_text()
    for secret in (TOKEN, AUTH, "something", "hunter2", base64.b64encode(TOKEN.encode()).decode()):
        assert secret not in written


def test_the_token_is_not_on_the_process_list(own: Callable[..., Server]) -> None:
    """TOKEN is not handed to anything else by its arguments."""
    server = own()
    assert TOKEN.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()


def test_a_token_from_a_file_opens(own: Callable[..., Server], tmp_path: Path) -> None:
    """As TOKEN does."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    server = own(TOKEN="", TOKEN_FILE=str(tmp_path / "token"))
    assert server.ask("POST", "/run", {"image": ""})[0] == 400
    assert server.ask("POST", "/run", {"image": ""}, {})[0] == 401


def test_a_short_token_is_warned_of(own: Callable[..., Server]) -> None:
    """It starts; a line says what would be better."""
    server = own(TOKEN="k3y")
    eventually(lambda: "token_short" in server.log.read_text())
    assert server.end() == 0
    (line,) = [line for line in server.lines() if line["event"] == "token_short"]
    assert line["level"] == "warning"


def test_a_ttl_of_0_is_warned_of(own: Callable[..., Server]) -> None:
    """As of a run it is at once, of the option for ever; never says what it means."""
    server = own("--ttl", "0")
    eventually(lambda: "ttl_is_for_ever" in server.log.read_text())
    assert server.end() == 0
    other = own("--ttl", "never")
    eventually(lambda: '"started"' in other.log.read_text())
    assert other.end() == 0
    assert "ttl_is_for_ever" not in other.log.read_text()


class Listening(NamedTuple):
    """A socket's name is all that is asked of it."""

    address: str

    def getsockname(self) -> tuple[str, int]:
        return self.address, 9090


@pytest.mark.parametrize(
    ("addresses", "tls", "warns"),
    [
        (["127.0.0.1", "::1"], False, False),
        (["127.0.0.2"], False, False),
        (["0.0.0.0"], False, True),
        (["::"], False, True),
        (["127.0.0.1", "10.0.0.5"], False, True),
        (["fe80::1%eth0"], False, True),
        (["0.0.0.0"], True, False),
    ],
)
def test_a_token_in_the_clear_is_warned_of(addresses: list[str], tls: bool, warns: bool) -> None:
    """Where it may leave this machine, and nothing encrypts it."""
    settings = config.load({"token": TOKEN}, {})
    settings = dataclasses.replace(settings, tls_cert="cert.pem" if tls else "")
    sockets: Any = [Listening(address) for address in addresses]
    with capture_logs() as logs:
        server_room._warn(settings, sockets)
    assert [(line["event"], line["log_level"]) for line in logs] == [("token_in_clear", "warning")] * warns


def test_a_tokens_file_that_cannot_be_used_ends_it(tmp_path: Path) -> None:
    """Before it serves: there is no last good one. The line names the table and the key."""
    file = tmp_path / "tokens.toml"
    file.write_text('[alice]\nscopes = ["run"]\n')
    done = qmaster(tmp_path, TOKEN=TOKEN, QMASTER_TOKENS_FILE=str(file))
    check_refused(done, f"--tokens-file: {file}: [alice] sha256: is required")


def test_folders_of_tokens_that_cannot_be_kept_apart_end_it(tmp_path: Path) -> None:
    """The runs of one token could turn the folder of the other into a link."""
    file, tables = tmp_path / "tokens.toml", ""
    for name, folder in (("alice", "a"), ("bob", "a/b")):
        digest = hashlib.sha256(name.encode()).hexdigest()
        tables += f'[{name}]\nsha256 = "{digest}"\nscopes = ["run"]\nmounts = ["/srv/data/{folder}"]\n'
    file.write_text(tables)
    done = qmaster(tmp_path, "--bind-mounts", "/srv/data", TOKEN=TOKEN, QMASTER_TOKENS_FILE=str(file))
    check_refused(done, f"--tokens-file: {file}: [bob] mounts: /srv/data/a/b is inside /srv/data/a of [alice]")


def test_a_registry_that_is_none_ends_it(tmp_path: Path) -> None:
    """It would never match, and so forbid all."""
    done = qmaster(tmp_path, "--registries", "docker.io,https://registry.example.com", TOKEN=TOKEN)
    check_refused(done, "--registries: a registry is a name in lower case")


def test_it_serves_tls(own: Callable[..., Server], tmp_path: Path) -> None:
    """With a certificate and its key; plain HTTP is not answered there."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for index, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=index > 0)
    server = own("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    context = http.client.ssl.create_default_context()  # type: ignore[attr-defined]
    authority.configure_trust(context)
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=WITHIN, context=context)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises((http.client.HTTPException, OSError)):
        server.ask("GET", "/livez")


# --- its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(own: Callable[..., Server], number: int) -> None:
    """Exit code 0, soon, with a line at the end and no traceback."""
    server = own()
    server.ask("GET", "/livez")
    begun = time.monotonic()
    assert server.end(number) == 0
    assert time.monotonic() - begun < 5
    # What it says of the engine that is not there may come at any moment.
    events = [line["event"] for line in server.lines() if line["event"] not in ("events_lost", "engine_away")]
    assert events[-2:] == ["stopping", "stopped"]
    assert "Traceback" not in server.log.read_text()


def test_open_connections_do_not_hold_its_end_up(own: Callable[..., Server]) -> None:
    """An idle one, and one in the middle of a request."""
    server = own()
    with (
        socket.create_connection(("127.0.0.1", server.port)) as idle,
        socket.create_connection(("127.0.0.1", server.port)) as kept,
    ):
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536)
        idle.sendall(b"GET /livez HT")
        begun = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - begun < 5


def test_a_server_without_an_engine_is_alive(server: Server, tmp_path: Path) -> None:
    """`healthcheck` finds the server where its options say, or the environment."""
    by_variable = qmaster(tmp_path, "healthcheck", PORT=str(server.port))
    by_flag = qmaster(tmp_path, "healthcheck", "--port", str(server.port))
    for done in (by_variable, by_flag):
        assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
    assert qmaster(tmp_path, "healthcheck", PORT="1").returncode == 1
