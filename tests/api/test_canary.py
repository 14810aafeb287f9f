"""A token and a password that must show nowhere, through thousands of requests and whatever goes wrong meanwhile."""

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker.errors
import pytest
from conftest import StartServer
from testbed import Engine, Proxy, Registry, Server, eventually
from testbed.background import Background
from testbed.faults import answer, cut, delay, echo, garbage, hang
from testbed.raw import Wire, request
from testbed.registry import login
from testbed.subscriber import Sse, Subscriber

SEED = 20_240_507
THREADS = 3
ROOT = "canary-of-the-root/token+0123456789"
ALICE = "canary-of-alice~another=token-9876543210"
WRONG = "canary-of-a-wrong?password>5555"
JOBS = 60  # runs that are really started
ENDS = 2  # of the server, at least


class Canaries:
    """What must show nowhere, in every form that it could have."""

    def __init__(self, *secrets: str) -> None:
        self.forms: dict[bytes, str] = {}
        for secret in secrets:
            for form in self._forms(secret):
                self.forms[form] = secret

    def _forms(self, secret: str) -> Iterator[bytes]:
        yield secret.encode()
        yield json.dumps(secret)[1:-1].encode()
        yield quote(secret, safe="").encode()
        for prefix in range(3):  # base64 of a longer text that has it in its middle
            whole = base64.b64encode(b"x" * prefix + secret.encode())
            yield whole[4 * bool(prefix) : -4]
            yield base64.urlsafe_b64encode(b"x" * prefix + secret.encode())[4 * bool(prefix) : -4]

    def found(self, data: bytes) -> list[str]:
        """Those that are in it, with what is around them."""
        return [
            f"{secret} in …{data[max(0, at - 60) : at + 60]!r}…"
            for form, secret in self.forms.items()
            if (at := data.find(form)) >= 0
        ]


class Traffic:
    """Requests of every kind that hold the canaries, right and wrong ones."""

    def __init__(self, seed: int, image: str, password: str) -> None:
        self.random = random.Random(seed)
        self.image = image
        self.password = password

    def draw(self) -> bytes:
        return self.random.choice([self._read, self._read, self._wrong_run, self._misplaced, self._malformed])()

    def run(self) -> bytes:
        """A job with credentials that are needed."""
        pick = self.random.choice
        auth = pick([login("alice", self.password), login("alice", self.password), login("alice", WRONG)])
        kind = pick([{"type": "container"}, {}])
        wait = pick([{}, {"wait": 2}])
        body = {"image": self.image, "command": "echo done", "auth": auth, "memory": 8, "ttl": 1, **kind, **wait}
        headers = [("Idempotency-Key", f"key-{self.random.randrange(20)}")] if pick([True, False]) else []
        return self._with_token("POST", "/run", body, headers)

    def _token(self) -> str:
        return self.random.choice([ROOT, ROOT, ALICE])

    def _with_token(
        self, method: str, target: str, body: dict[str, Any] | None = None, headers: list[tuple[str, str]] | None = None
    ) -> bytes:
        """In the header, or in the body."""
        token = self._token()
        if body is not None and self.random.random() < 0.5:
            return request(method, target, headers or [], json.dumps({"token": token, **body}).encode())
        sent = [*(headers or []), ("Authorization", f"Bearer {token}")]
        return request(method, target, sent, None if body is None else json.dumps(body).encode())

    def _read(self) -> bytes:
        targets = [
            "/status",
            "/nodes",
            "/metrics",
            "/status/nobody",
            "/logs/nobody",
            "/status?x=1",
            "/",
            "/openapi.json",
        ]
        return self._with_token("GET", self.random.choice(targets))

    def _wrong_run(self) -> bytes:
        """What is wrong with it lies beside the secret, or is the secret."""
        pick = self.random.choice
        secret = pick([self.password, WRONG])
        good = login("alice", secret)
        auth: Any = pick(
            [good[:-5], good + "!", {"password": secret}, [secret], secret, login("", secret), login("alice", "")]
        )
        flaw = pick(
            [{"auth": auth}, {"auth": good, "memory": 1}, {"auth": good, "nonsense": 1}, {"auth": good, "env": 5}]
        )
        return self._with_token("POST", pick(["/run", "/start", "/stop"]), {"image": self.image, **flaw})

    def _misplaced(self) -> bytes:
        """The token where it does not belong."""
        token, pick = self._token(), self.random.choice
        escaped, body = quote(token, safe=""), json.dumps({"token": f"{token}x"}).encode()
        return pick(
            [
                request("GET", f"/status?token={escaped}"),
                request("GET", f"/events?access_token={escaped}"),
                request("POST", f"/run?auth={escaped}", [], b"{}"),
                request("GET", "/status", [("Authorization", f"Basic {base64.b64encode(token.encode()).decode()}")]),
                request("GET", "/status", [("Authorization", token)]),
                request("GET", "/status", [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]),
                request("GET", "/status", [("Authorization", f"Bearer {token} ")]),
                request("GET", "/status", [("Authorization", f"Bearer {token}x"), ("Cookie", f"token={token}")]),
                request("POST", "/run", [("Authorization", f"Bearer {token}")], body),
                request("POST", "/run", [], json.dumps({"token": [token]}).encode()),
                request("POST", "/run", [("Referer", f"http://x/?{token}"), ("X-Token", token)], b"{}"),
            ]
        )

    def _malformed(self) -> bytes:
        """What a parser would show of it if it complained."""
        token, pick = self._token(), self.random.choice
        member = b'"token": "' + token.encode() + b'"'
        return pick(
            [
                request("GET", "/status", [("Authorization", f"Bearer {token}\0")]),
                request("GET", "/status", [("Authorization", f"Bearer {token}\x07")]),
                request("GET", "/status", [("Host", f"{token} {token}")]),
                request("GET", f"/status {token}"),
                request("GET", "/status", [(f"Authorization: Bearer {token}\r\nbroken header", "x")]),
                request("GET", "/status", [("Content-Length", token)]),
                request("GET", "/status", [("Transfer-Encoding", token)]),
                request("POST", "/run", [], b"{" + member + b', "image": '),
                request("POST", "/run", [], b"{" + member + b", " + member + b"}"),
                request("POST", "/run", [], b"{" + member + b', "auth": "\xff"}'),
                request("POST", "/run", [("Content-Encoding", "gzip")], json.dumps({"token": token}).encode()),
                request("POST", "/run", [], b"token=" + token.encode() + b"&image=busybox"),
            ]
        )


class Weather(Background):
    """Faults of the engine and the registry, one after the other, and two ends of the server."""

    def __init__(self, server: Server, proxy: Proxy, registry: Registry) -> None:
        super().__init__()
        self._server, self._proxy, self._registry = server, proxy, registry
        self.faults = 0
        self.ends = 0

    def work(self) -> None:
        chance = random.Random(SEED)
        kinds = [
            answer(500),
            answer(503),
            echo(500),
            echo(401),
            echo(400),
            echo(404),
            cut(),
            cut(40),
            delay(0.1),
            hang(),
        ]
        kinds += [garbage(), garbage(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": [}]')]
        paths = [
            "/services/create",
            "/distribution/",
            "/images/create",
            "/containers/create",
            "/containers/.*/start",
            "",
        ]
        for turn in itertools.count(1):
            if self.over.wait(0.05):
                return
            rule = self._proxy.on(chance.choice(paths), chance.choice(kinds))
            self.over.wait(0.3)
            self._proxy.off(rule)
            self.faults += rule.hits
            if turn % 5 == 0:
                self._registry.freeze()
                self.over.wait(0.3)
                self._registry.thaw()
            if turn % 6 == 0:
                self._end_it(turn % 12 == 0)

    def _end_it(self, gently: bool) -> None:
        """As often one way as the other, in the middle of whatever it does."""
        if gently:
            self._server.terminate()
        else:
            self._server.kill()
        self._server.start(30)
        self.ends += 1


def ask(server: Server, data: bytes) -> bytes:
    """What a request is answered; nothing where the server is away."""
    with contextlib.suppress(OSError), Wire(server.port, timeout=60) as wire:
        wire.send(data)
        found = wire.answer()
        return found.raw if found else b""
    time.sleep(0.05)
    return b""


def command_lines() -> bytes:
    """What the list of processes shows."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return b"\n".join(lines)


def inspected(engine: Engine) -> bytes:
    """All that Docker tells of the services, tasks and containers that are there."""
    client: Any = engine.client()
    found = [client.services(), client.tasks(), client.containers(all=True)]
    for inspect, listed, key in ((client.inspect_service, found[0], "ID"), (client.inspect_container, found[2], "Id")):
        for each in list(listed):
            with contextlib.suppress(docker.errors.NotFound):
                found.append(inspect(each[key]))
    return json.dumps(found).encode()


@pytest.mark.timeout(900)
def test_no_secret_shows_anywhere(
    engine: Engine,
    proxy: Proxy,
    registry: Registry,
    start_server: StartServer,
    request: pytest.FixtureRequest,
    measured: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """In no log, answer, stream, journal, list of processes, page, number, or Docker's own words of what is ours."""
    total: int = request.config.getoption("--canary-requests")
    image = registry.push(engine, name="canary:1")
    password = registry.alice.password
    canaries = Canaries(ROOT, ALICE, WRONG, password)
    assert canaries.found(login("alice", password).encode())
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(ALICE.encode()).hexdigest()
    tokens.write_text(f'[alice]\nsha256 = "{digest}"\nscopes = ["run", "stop", "read"]\n')
    server = start_server(proxy.host, "--tokens-file", str(tokens), TOKEN=ROOT)
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20)
    seen: list[str] = []
    statuses: Counter[bytes] = Counter()

    def work(number: int) -> None:
        traffic = Traffic(SEED + number, image, password)
        for n in itertools.count():
            if weather.failed or (n >= total // THREADS and weather.ends >= ENDS):
                return
            data = traffic.run() if n % max(1, total // JOBS) == 0 else traffic.draw()
            said = ask(server, data)
            statuses[said[9:12]] += 1
            seen.extend(f"{found} answering {data[:80]!r}" for found in canaries.found(said))

    frames, services = bytearray(), 0
    with Subscriber(server) as subscriber, Weather(server, proxy, registry) as weather:
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen.extend(canaries.found(command_lines()))
            words = inspected(engine)
            seen.extend(canaries.found(words))
            services += b"io.qmaster.managed" in words
            time.sleep(0.2)
        frames += json.dumps(subscriber.frames).encode()
    proxy.clear()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 60, ignoring=(OSError, http.client.HTTPException))
    with Subscriber(server) as subscriber, Sse(server) as sse:
        subscriber.next()
        frames += json.dumps(subscriber.next()).encode() + json.dumps([next(iter(sse)) for _ in range(2)]).encode()
    places = {
        "the streams": bytes(frames),
        "the log": server.log.read_bytes(),
        "Docker's words": inspected(engine),
        "the page": b"".join(server.call("GET", path).text.encode() for path in ("/", "/static/page.js")),
        "the numbers": server.call("GET", "/metrics").text.encode(),
        "a listing": server.call("GET", "/status?all=1").text.encode(),
    }
    server.terminate()
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    places |= {str(path): path.read_bytes() for path in files}
    measured(f"{dict(statuses)}, {weather.faults} faults, {weather.ends} ends; {len(frames)} bytes of streams")
    assert services > 0
    assert any("journal" in path.name for path in files)
    assert {b"200", b"400", b"401", b"502"} <= statuses.keys()
    assert statuses.total() >= total - THREADS
    assert seen == []
    assert {place: found for place, data in places.items() if (found := canaries.found(data))} == {}
    assert "request_failed" not in server.logs()
