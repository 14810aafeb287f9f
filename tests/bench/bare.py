"""A child: what Tornado costs by itself. A handler that writes the same bytes, and a websocket that does nothing."""

import asyncio
import base64
from typing import Any

from testbed.server import ADDRESS
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketHandler

from bench.child import obey

HELLO = '{"type":"hello"}'


class Bytes(web.RequestHandler):
    def initialize(self, bodies: dict[str, bytes]) -> None:
        self._bodies = bodies

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(self._bodies[self.request.path])

    def post(self) -> None:
        self.get()


class Nothing(WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        self.write_message(HELLO)

    def on_message(self, message: str | bytes) -> None:
        pass


class Bare:
    """The verbs."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}

    def listen(self) -> Any:
        routes = [(r"/events", Nothing), (r"/.*", Bytes, {"bodies": self._bodies})]
        server = HTTPServer(web.Application(routes))  # type: ignore[arg-type]
        (listener,) = bind_sockets(0, ADDRESS)
        server.add_sockets([listener])
        return listener.getsockname()[1]

    def body(self, path: str, body: str) -> None:
        self._bodies[path] = base64.b64decode(body)


async def main() -> None:
    await obey(Bare())


if __name__ == "__main__":
    asyncio.run(main())
