"""A child: the ``websockets`` library's broadcast of the same frames."""

import asyncio
import time
from typing import Any

from testbed.server import ADDRESS
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve

from bench.child import obey
from bench.frames import frame

HELLO = '{"type":"hello"}'


class Broadcaster:
    """The verbs; the same as of `stage.Stage`."""

    def __init__(self) -> None:
        self._everyone: set[ServerConnection] = set()
        self._server: Server | None = None

    async def listen(self) -> Any:
        # Without pings, which quartermaster does not send either.
        self._server = await serve(self._serve, ADDRESS, 0, ping_interval=None, compression=None, max_queue=None)
        return {"port": next(iter(self._server.sockets)).getsockname()[1], "token": ""}

    async def _serve(self, connection: ServerConnection) -> None:
        await connection.send(HELLO)
        self._everyone.add(connection)
        await connection.wait_closed()
        self._everyone.discard(connection)

    async def publish(self, frames: int, size: int, pause: float) -> None:
        """So many frames, with a pause after each; without one, all in one turn of the loop."""
        for number in range(frames):
            broadcast(self._everyone, frame(number, size).payload.decode())
            if pause:
                await asyncio.sleep(pause)

    def cpu(self) -> float:
        return time.process_time()


async def main() -> None:
    await obey(Broadcaster())


if __name__ == "__main__":
    asyncio.run(main())
