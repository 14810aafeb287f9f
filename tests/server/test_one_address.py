"""Several quartermasters behind one address: the proxies of the docs, and what becomes of clients when one is lost."""

import contextlib
import http.client
import os
import re
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from documents import TEXT
from testbed import Client, Server, Swarm, eventually
from testbed.process import start
from testbed.server import ADDRESS, free_port
from testbed.subscriber import Resuming, becomes

StartServer = Callable[..., Server]

HOSTS = ("10.0.0.4:9090", "10.0.0.5:9090", "10.0.0.6:9090")
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    {snippet}
}}
"""
CADDY = "{{\n admin off\n grace_period 1s\n auto_https disable_redirects\n}}\n{snippet}"


def snippet(language: str, behind: list[Client], **replaced: str) -> str:
    """The last block of the docs in that language, with the user's values (each is there) replaced by the test's."""
    text = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[-1]
    assert isinstance(text, str)
    hosts = {host: f"{ADDRESS}:{one.port}" for host, one in zip(HOSTS, behind, strict=True)}
    for name, value in {**replaced, **hosts}.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


def haproxy(folder: Path, behind: list[Client], port: int) -> list[str]:
    """Its command line, with a configuration."""
    words = {"bind :443": f"bind {ADDRESS}:{port}", "/etc/ssl/qm.example.com.pem": f"{folder}/both.pem"}
    (folder / "haproxy.cfg").write_text(snippet("haproxy", behind, **words))
    return ["/usr/sbin/haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def nginx(folder: Path, behind: list[Client], port: int) -> list[str]:
    """Its command line, with a configuration."""
    words = {
        "listen 443": f"listen {ADDRESS}:{port}",
        "/etc/ssl/qm.example.com.pem": f"{folder}/both.pem",
        "/etc/ssl/qm.example.com.key": f"{folder}/both.pem",
    }
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, snippet=snippet("nginx", behind, **words)))
    return ["/usr/sbin/nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, behind: list[Client], port: int) -> list[str]:
    """Its command line, with a configuration."""
    head = f"https://{ADDRESS}:{port} {{\n bind {ADDRESS}\n tls {folder}/both.pem {folder}/both.pem\n"
    (folder / "Caddyfile").write_text(CADDY.format(snippet=snippet("caddy", behind, **{"qm.example.com {": head})))
    return ["/usr/bin/caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


Configure = Callable[[Path, list[Client], int], list[str]]
Front = Callable[[Configure, list[Client]], Client]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """`front(configure, behind)`: the one address of these, over TLS; its proxy serves."""
    authority = trustme.CA()
    authority.issue_cert(ADDRESS).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    proxies = []

    def begin(configure: Configure, behind: list[Client]) -> Client:
        client = Client(ADDRESS, free_port(), behind[0].token, context)
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        proxy = start(configure(tmp_path, behind, client.port), tmp_path / "proxy.log", tmp_path, env)
        proxies.append(proxy)

        def answers() -> bool:
            assert proxy.alive, (tmp_path / "proxy.log").read_text()
            return client.call("GET", "/livez", token=False, timeout=5).status == 200

        eventually(answers, 30, "the proxy answers", ignoring=OSError)
        return client

    yield begin
    for proxy in proxies:
        proxy.terminate()


class Upstream(Client):
    """Answers every call with its own port, and `/readyz` with 503 while it is not ready."""

    def __init__(self) -> None:
        super().__init__(ADDRESS, free_port(), "")
        self.ready = True
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = str(upstream.port).encode()
                self.send_response(503 if self.path == "/readyz" and not upstream.ready else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's
                pass

        self._server = ThreadingHTTPServer((ADDRESS, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def upstreams() -> Iterator[list[Upstream]]:
    made = [Upstream() for _ in HOSTS]
    yield made
    for each in made:
        each.close()


def asked(client: Client, token: str) -> int | None:
    """The port of the one that answers; None if the call is cut, because its own is left out."""
    try:
        reply = client.call("GET", "/status", token=token, timeout=10)
    except http.client.IncompleteRead:
        return None
    return int(reply.text) if reply.status == 200 else None


@pytest.mark.slow
@pytest.mark.patient
@pytest.mark.parametrize("configure", [haproxy, nginx, caddy])
def test_a_token_stays_where_it_is_until_that_one_is_lost(
    configure: Configure, front: Front, upstreams: list[Upstream]
) -> None:
    """Tokens are spread; one that is not ready, or gone, is left out, and no client of the others moves."""
    client = front(configure, list(upstreams))
    tokens = [f"token-{number}" for number in range(12)]
    before = {token: asked(client, token) for token in tokens}
    assert all(asked(client, token) == port for token, port in before.items() for _ in range(2))
    assert len(set(before.values())) > 1
    lost = next(each for each in upstreams if each.port == before["token-0"])
    if configure is not nginx:  # which does not ask
        lost.ready = False
        eventually(lambda: asked(client, "token-0") not in (None, lost.port), 20, "one that is not ready is left out")
        lost.ready = True
        eventually(lambda: asked(client, "token-0") == lost.port, 20, "it is back")
    upstreams.remove(lost)
    lost.close()
    moved = eventually(lambda: asked(client, "token-0"), 20, "the next is asked", ignoring=OSError)
    assert moved != lost.port
    assert all(asked(client, token) == port for token, port in before.items() if port != lost.port)


JOBS = 30


class Run(NamedTuple):
    key: str
    id: str


def keyed(client: Client, begun: threading.Semaphore, number: int) -> Run:
    """A run with a key, asked for until it is answered, as a client does."""
    key = f"one-address-{number}"
    found: list[str] = []

    def answered() -> bool:
        reply = client.run(
            {"Idempotency-Key": key}, image="busybox:local", memory=16, command=["sh", "-c", f"exit {number % 3}"]
        )
        found[:] = [str(reply["id"])] if reply.status == 200 else []
        assert reply.status in (200, 502, 503, 504), reply.text
        return bool(found)

    eventually(answered, 60, f"{key} is answered", every=0.2, ignoring=OSError)
    begun.release()
    return Run(key, found[0])


def is_ready(server: Server) -> bool:
    return server.call("GET", "/readyz").status == 200


def epoch(client: Client) -> str:
    return str(client.call("GET", "/status?limit=1")["cursor"]).partition(".")[0].partition(":")[0]


def has_told(server: Server) -> bool:
    return ":0" not in str(server.call("GET", "/nodes")["cursor"])


def run_while_one_is_lost(client: Client, servers: list[Server]) -> list[Run]:
    """Runs with keys, some at once; the quartermaster that serves them is killed when a third is answered."""
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(keyed, client, begun, number) for number in range(JOBS)]
        for _ in range(JOBS // 3):
            assert begun.acquire(timeout=60)
        (lost,) = [server for server in servers if epoch(server) == epoch(client)]
        lost.kill()
        return [run.result() for run in runs]


def age(server: Server) -> None:
    """Make all that it has told a minute older, as if it had served for that long."""
    with sqlite3.connect(server.folder / "data" / "journal.db", timeout=10) as connection:
        assert connection.execute("UPDATE facts SET at = at - 60").rowcount > 0
    connection.close()


@pytest.mark.patient
@pytest.mark.timeout(300)
def test_one_of_three_managers_is_killed_under_load(front: Front, start_server: StartServer, swarm: Swarm) -> None:
    """Behind one HAProxy: subscribers continue by themselves, every end is heard, keyed runs are not doubled."""
    swarm.promote(*swarm.workers)
    servers = [start_server(engine.host, TOKEN="t" * 32) for engine in swarm.nodes]
    for server in servers:
        eventually(partial(is_ready, server), 60)
        eventually(partial(has_told, server), 20)
        age(server)
    client = front(haproxy, list(servers))
    with contextlib.ExitStack() as stack:
        subscribers = [stack.enter_context(Resuming(client)) for _ in range(3)]
        eventually(lambda: all(each.frames for each in subscribers), 20, "all are connected")
        started = run_while_one_is_lost(client, servers)
        ends = {run.id: becomes(run.id, "complete", "failed") for run in started}
        for each in subscribers:
            eventually(partial(heard, each, ends), 90, "every end is heard")
    for each in subscribers:
        gaps = [frame for frame in each.frames if frame["type"] == "gap"]
        assert [(gap["reason"], gap.get("resumed")) for gap in gaps] == [("epoch_changed", True)]
        assert [frame["type"] for frame in each.frames].count("snapshot") == 1
    engine: Any = swarm.manager.client()
    names = [service["Spec"]["Name"] for service in engine.services()]
    assert len(names) == len(set(names)) == len(ends) == JOBS
    for number, run in enumerate(started):
        assert client.status(run.id)["exit_code"] == number % 3
        again = client.run(
            {"Idempotency-Key": run.key}, image="busybox:local", memory=16, command=["sh", "-c", f"exit {number % 3}"]
        )
        assert (again.status, again["id"]) == (200, run.id)


def heard(subscriber: Resuming, ends: dict[str, Any]) -> bool:
    told = {
        event["subject"] for event in subscriber.events if event["subject"] in ends and ends[event["subject"]](event)
    }
    return told == set(ends)
