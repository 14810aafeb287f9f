"""Work that goes on beside a test."""

import threading
from types import TracebackType
from typing import Self


class Background:
    """Work in a thread for as long as its context lasts; what it raises is raised where that is left."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._thread.join(60)
        if error is None:
            if self.failed is not None:
                raise self.failed
            assert not self._thread.is_alive(), "it does not end"

    def work(self) -> None:
        """What is done, until `over` is set."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # it is raised in the test
            self.failed = error
