"""A child: HTTP clients in a closed loop, each on a connection that it keeps. One epoll loop, so they cost little."""

import resource
import select
import socket
import sys
import time
from typing import Any

from testbed.server import ADDRESS

from bench.child import reply, said

SIZE = 1 << 20
END = b"\r\n\r\n"
LENGTH = b"content-length:"


class Client:
    """A connection that asks the same again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.connection = socket.create_connection((ADDRESS, port), timeout=60)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._came = bytearray()
        self._whole = 0  # bytes that the answer has, once its head has told
        self.asked_at = 0.0

    def ask(self) -> None:
        self._came.clear()
        self._whole = 0
        self.asked_at = time.perf_counter()
        self.connection.sendall(self._request)

    def answered(self) -> bool:
        """Read; whether that was the end of the answer. Raises `RuntimeError` unless it is a 200 or a 202."""
        data = self.connection.recv(SIZE)
        if not data:
            raise RuntimeError(f"the server hung up: {bytes(self._came[:200])!r}")
        self._came += data
        if not self._whole:
            head, end, _ = bytes(self._came).partition(END)
            if not end:
                return False
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
                raise RuntimeError(f"not answered: {bytes(self._came)!r}")
            fields = head.lower().partition(LENGTH)[2]
            self._whole = len(head) + len(END) + int(fields.split(b"\r\n")[0])
        return len(self._came) >= self._whole


def loop(port: int, request: str, clients: int, seconds: float = 0.0, times: int = 0) -> dict[str, Any]:
    """Ask for so many seconds, or so many times in all; how often it was, and how long each and all took."""
    epoll, crowd = select.epoll(), {}
    for _ in range(clients):
        client = Client(port, request.encode())
        crowd[client.connection.fileno()] = client
        epoll.register(client.connection.fileno(), select.EPOLLIN)
    began = time.perf_counter()
    took: list[float] = []
    asked = flying = 0
    for client in crowd.values():
        client.ask()
        asked, flying = asked + 1, flying + 1
    while flying:
        for descriptor, _ in epoll.poll():
            client = crowd[descriptor]
            if not client.answered():
                continue
            now = time.perf_counter()
            took.append(now - client.asked_at)
            if asked < times or now - began < seconds:
                client.ask()
                asked += 1
            else:
                flying -= 1
    wall = time.perf_counter() - began
    for client in crowd.values():
        client.connection.close()
    epoll.close()
    return {"answers": len(took), "seconds": wall, "took": sorted(took)}


def main() -> None:
    while line := sys.stdin.buffer.readline():
        verb, fields = said(line)
        if verb == "cpu":
            used = resource.getrusage(resource.RUSAGE_SELF)
            reply(used.ru_utime + used.ru_stime)
        else:
            reply(loop(**fields))


if __name__ == "__main__":
    main()
