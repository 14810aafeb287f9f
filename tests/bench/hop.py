"""A child: a Tornado handler that passes each request on to another server, on connections that are kept."""

import asyncio
from typing import Any

import aiohttp
from testbed.server import ADDRESS
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from bench.child import obey


class Pass(web.RequestHandler):
    def initialize(self, session: aiohttp.ClientSession, to: str) -> None:
        self._session, self._to = session, to

    async def post(self) -> None:
        async with self._session.post(self._to + self.request.path, data=self.request.body) as answer:
            self.set_status(answer.status)
            self.set_header("Content-Type", answer.headers["Content-Type"])
            await self.finish(await answer.read())


class Hop:
    """The verbs."""

    async def listen(self, to: int) -> Any:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        arguments = {"session": session, "to": f"http://{ADDRESS}:{to}"}
        server = HTTPServer(web.Application([(r"/.*", Pass, arguments)]))
        (listener,) = bind_sockets(0, ADDRESS)
        server.add_sockets([listener])
        return listener.getsockname()[1]


async def main() -> None:
    await obey(Hop())


if __name__ == "__main__":
    asyncio.run(main())
