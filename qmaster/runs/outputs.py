"""The whole standard output of a run that has ended, as bytes. Belongs to the event loop."""

from __future__ import annotations

from ..engine.logs import FIRST_BYTE, LogReaders, LogRequest, require_reached
from ..errors import PayloadTooLarge
from ..events.journal import Journal
from ..models import results
from ..models.responses import Service


class OutputReader:
    """Reads what a run of one task wrote to standard output: from its view, the journal, or the engine.

    Args:
        readers: read logs, for what is larger than what the journal keeps.
        journal: has the results.
    """

    def __init__(self, readers: LogReaders, journal: Journal) -> None:
        self._readers = readers
        self._journal = journal

    async def stdout(self, view: Service, limit: int) -> bytes:
        """Return the standard output of a run whose result is recorded.

        Raises:
            PayloadTooLarge: it has more than ``limit`` bytes, or the rest of it is gone with the run.
            HttpError: it cannot be read now.
        """
        shown = view.result
        if shown is not None and not shown.truncated:  # Docker's log has no bytes that are not UTF-8
            return shown.stdout.encode()
        stored = await self._journal.outcome(view.id)
        kept = results.decode(stored).tasks[:1] if stored is not None else []
        if kept and not kept[0].output.truncated:
            whole = b"".join(line.data for line in kept[0].output.lines if line.stream == "stdout")
            if len(whole) <= limit:
                return whole
        elif view.tasks and view.status != "removed":
            return await self._read(view.tasks[0].id, limit)
        raise PayloadTooLarge(f"its output is over {limit} bytes, or was removed before it was read")

    async def _read(self, task_id: str, limit: int) -> bytes:
        whole = bytearray()
        request = LogRequest("task", task_id, ("stdout",), silence=FIRST_BYTE)
        with self._readers.slot() as open_log, open_log(request) as opened:
            while messages := await opened.take():
                for message in messages:
                    if message.source == "engine":
                        require_reached(message.data.decode(errors="replace").strip())
                    else:
                        whole += message.data
                if len(whole) > limit:
                    raise PayloadTooLarge(f"its output is over {limit} bytes")
        return bytes(whole)
