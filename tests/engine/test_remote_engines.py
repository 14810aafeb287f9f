"""Engines that are not on this machine's socket: TCP with TLS, and ssh, as the docker command reads them."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import StartServer
from testbed import Engine, Reply, Server, Ssh, TlsEngine, eventually, sdk

IMAGE = "busybox:local"
NAP: dict[str, Any] = {"image": IMAGE, "command": "nap 300"}


def becomes(server: Server, run_id: str, status: str) -> Reply:
    """The answer of /status, as soon as the run has that status."""

    def reached() -> Any:
        reply = server.status(run_id)
        return reply if reply.status == 200 and reply["status"] == status else None

    reply: Reply = eventually(reached, 30, f"{run_id} is {status}", every=0.05)
    return reply


def works(server: Server, engine: Engine) -> None:
    """Run, follow and stop a service and a container on that engine."""
    eventually(lambda: server.call("GET", "/readyz", token=False).status == 200, 15, "it is ready")
    for kind in ("service", "container"):
        reply = server.run(image=IMAGE, command="echo here", type=kind)
        assert server.call("GET", f"/logs/{reply['id']}?follow=1").text == "here\n"
        assert server.stop_service(reply["id"]).status == 200
        reply = server.run(**NAP, type=kind)
        assert reply.status == 200, reply.text
        becomes(server, reply["id"], "running")
        assert len(sdk(engine).containers(filters={"status": "running"})) == 1
        assert server.stop_service(reply["id"]).status == 200
        # Stopped so soon, it may not have set its trap for SIGTERM yet.
        assert becomes(server, reply["id"], "removed")["exit_code"] in (143, 137)
    eventually(lambda: sdk(engine).services() + sdk(engine).containers(all=True) == [], 20, "nothing is left")


def runs(server: Server) -> None:
    """Run a service, trying again as often as told to."""
    eventually(lambda: server.call("GET", "/readyz", token=False).status == 200, 30, "it is ready")

    def tried() -> Any:
        reply = server.run(**NAP)
        assert reply.status in (200, 503), reply.text
        return reply["id"] if reply.status == 200 else None

    becomes(server, eventually(tried, 30, "a run succeeds", every=0.1), "running")


def tls(engine: TlsEngine, **changed: str) -> dict[str, str]:
    """The environment by which the engine is reached."""
    return {name: value for name, value in {**engine.env, **changed}.items() if name != "DOCKER_HOST"}


# TLS


def test_an_engine_with_tls(tls_engine: TlsEngine, start_server: StartServer) -> None:
    """DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as for the docker command."""
    works(start_server(tls_engine.tcp_host, **tls(tls_engine)), tls_engine)


def test_other_authorities_in_the_environment_change_nothing(
    tls_engine: TlsEngine, start_server: StartServer, tmp_path: Path
) -> None:
    """REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and a proxy are not for the engine: its ca.pem is."""
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    others = {"REQUESTS_CA_BUNDLE": str(bundle), "CURL_CA_BUNDLE": str(bundle)}
    works(start_server(tls_engine.tcp_host, **tls(tls_engine, **others)), tls_engine)


def test_a_tls_engine_that_went_is_reached_again(tls_engine: TlsEngine, start_server: StartServer) -> None:
    """Killed: 503; started again: success, without a restart of ours."""
    server = start_server(tls_engine.tcp_host, **tls(tls_engine))
    runs(server)
    tls_engine.kill()
    reply = server.run(**NAP)
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)
    tls_engine.start()
    runs(server)


def test_without_a_certificate_the_engine_is_away(
    tls_engine: TlsEngine, start_server: StartServer, tmp_path: Path
) -> None:
    """Neither plain TCP nor another authority's certificate reaches it: 503, and nothing runs."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("tester@example.com")
    authority.cert_pem.write_to_path(str(stranger / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(stranger / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(stranger / "key.pem"))
    environments: list[dict[str, str]] = [{}, tls(tls_engine, DOCKER_CERT_PATH=str(stranger))]
    for env in environments:
        server = start_server(tls_engine.tcp_host, **env)
        assert server.run(**NAP).status in (502, 503)
        assert server.call("GET", "/readyz", token=False).status == 503
    assert sdk(tls_engine).services() == []


def test_certificates_that_are_not_there_are_told_at_the_start(
    tls_engine: TlsEngine, start_server: StartServer, tmp_path: Path
) -> None:
    """Exit code 2 and one line, instead of a server that can never work."""
    with pytest.raises(RuntimeError, match=r"ended with 2: .*--docker-host"):
        start_server(tls_engine.tcp_host, **tls(tls_engine, DOCKER_CERT_PATH=str(tmp_path / "missing")))


# ssh


def over_ssh(ssh: Ssh, start_server: StartServer, path: str = "") -> Server:
    home = ssh.env["HOME"]
    return start_server(ssh.env["DOCKER_HOST"] + path, HOME=home, PATH=ssh.env["PATH"], TMPDIR=home)


def forwarding(ssh: Ssh) -> list[int]:
    """The pids of ssh processes that forward a socket of a quartermaster's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"-L{ssh.env['HOME']}/qmaster-ssh-".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_an_engine_over_ssh(engine: Engine, ssh: Ssh, start_server: StartServer) -> None:
    """The keys and known hosts of the home are used; at the end nothing is left of the way."""
    server = over_ssh(ssh, start_server)
    works(server, engine)
    assert len(forwarding(ssh)) == 1
    assert server.terminate() == 0
    eventually(lambda: not forwarding(ssh), 5, "ssh has ended")
    assert not list(Path(ssh.env["HOME"]).glob("qmaster-ssh-*"))


def test_another_socket_over_ssh(engine: Engine, ssh: Ssh, start_server: StartServer) -> None:
    """That of a rootless engine, for one: its path is that of the address. However quartermaster ends, ssh does."""
    server = over_ssh(ssh, start_server, engine.socket)
    runs(server)
    assert len(forwarding(ssh)) == 1
    server.kill()
    eventually(lambda: not forwarding(ssh), 10, "ssh has ended")


@pytest.mark.patient
def test_an_ssh_engine_that_went_is_reached_again(engine: Engine, ssh: Ssh, start_server: StartServer) -> None:
    """The way closed: 503; open again: success, without a restart of ours."""
    server = over_ssh(ssh, start_server)
    runs(server)
    ssh.stop()
    reply = server.run(**NAP)
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)
    ssh.start()
    runs(server)
