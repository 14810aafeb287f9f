"""A child: a bare Tornado handler that commits each call to SQLite, synced, before it answers."""

import asyncio
import sqlite3
import tempfile
from http import HTTPStatus
from typing import Any

from testbed.server import ADDRESS
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from bench.accepting import PLAIN
from bench.child import obey


class Commit(web.RequestHandler):
    def initialize(self, db: sqlite3.Connection) -> None:
        self._db = db

    def post(self) -> None:
        cursor = self._db.execute("INSERT INTO calls VALUES (hex(randomblob(16)), ?)", (self.request.body,))
        self.set_status(int(HTTPStatus.ACCEPTED))
        self.finish({"success": True, "id": cursor.lastrowid})


class Committing:
    """The verbs."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()

    def listen(self) -> Any:
        db = sqlite3.connect(f"{self._folder.name}/calls.db", isolation_level=None)
        for line in PLAIN:
            db.execute(line)
        server = HTTPServer(web.Application([(r"/.*", Commit, {"db": db})]))
        (listener,) = bind_sockets(0, ADDRESS)
        server.add_sockets([listener])
        return listener.getsockname()[1]


async def main() -> None:
    await obey(Committing())


if __name__ == "__main__":
    asyncio.run(main())
