"""TLS proxies in front of quartermaster, configured by the lines of the docs: its streams come through as they go."""

import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from documents import TEXT
from testbed import Client, Server, eventually
from testbed.process import Process, start
from testbed.server import ADDRESS, free_port
from testbed.subscriber import Sse, Subscriber

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {snippet}
}}
"""
CADDY = "{{\n admin off\n grace_period 1s\n auto_https disable_redirects\n}}\n{snippet}"


def snippet(language: str, **replaced: str) -> str:
    """The block of the docs in that language, with the user's values (each is there) replaced by the test's."""
    found = re.search(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"the docs have no {language}"
    text = found[1]
    for name, value in replaced.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


def nginx(folder: Path, server: Server, port: int) -> list[str]:
    """Its command line, with a configuration."""
    words = {
        "listen 443": f"listen {ADDRESS}:{port}",
        "/etc/ssl/qm.example.com.pem": f"{folder}/cert.pem",
        "/etc/ssl/qm.example.com.key": f"{folder}/key.pem",
        "http://127.0.0.1:9090": server.url,
    }
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, snippet=snippet("nginx", **words)))
    return ["/usr/sbin/nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, server: Server, port: int) -> list[str]:
    """Its command line, with a configuration that logs accesses and has a certificate."""
    more = f" bind {ADDRESS}\n tls {folder}/cert.pem {folder}/key.pem\n log {{\n  output file {folder}/access.log\n }}"
    words = {"qm.example.com {": f"https://{ADDRESS}:{port} {{\n{more}", "127.0.0.1:9090": f"{ADDRESS}:{server.port}"}
    (folder / "Caddyfile").write_text(CADDY.format(snippet=snippet("caddy", **words)))
    return ["/usr/bin/caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path, shared: Server) -> Iterator[Client]:
    """Its API over TLS, through a proxy."""
    authority = trustme.CA()
    certificate = authority.issue_cert(ADDRESS)
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = Client(ADDRESS, free_port(), shared.token, context)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    proxy = start(request.param(tmp_path, shared, client.port), tmp_path / "proxy.log", tmp_path, env)
    try:
        eventually(lambda: answers(client, proxy, tmp_path), 30, "the proxy answers", ignoring=OSError)
        yield client
    finally:
        proxy.terminate()
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert "/run" in logs["access.log"]
    assert not [name for name, text in logs.items() if client.token in text], "a log has the token"


def answers(client: Client, proxy: Process, folder: Path) -> bool:
    assert proxy.alive, (folder / "proxy.log").read_text()
    return client.call("GET", "/livez", token=False, timeout=5).status == 200


def test_the_streams_come_through(proxied: Client) -> None:
    """A job's events come while the streams are open, as Server-Sent Events and over a browser's websocket."""
    origin = {"Origin": f"https://{ADDRESS}:{proxied.port}"}
    with Sse(proxied) as sse, Subscriber(proxied, headers=origin) as socket:
        events = iter(sse)
        assert [next(events).name for _ in range(2)] == ["hello", "snapshot"]
        socket.until(lambda frame: frame["type"] == "snapshot")
        job = proxied.run(image="busybox:local", command="true", memory=16, token=proxied.token)["id"]
        done = next(event for event in events if event.name.endswith("service.complete"))
        assert done.data["subject"] == job
        socket.event(lambda event: event["type"].endswith("service.complete") and event["subject"] == job)


def test_a_page_of_another_origin_stays_out(proxied: Client) -> None:
    """The proxy does not hide where a page comes from."""
    proxied.run(image="busybox:local", command="true", memory=16)
    with Subscriber(proxied, headers={"Origin": "https://other.example.com"}) as socket:
        assert socket.status == 403
