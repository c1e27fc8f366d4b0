"""The base class of peers that work in their own threads."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Background:
    """Runs `work` in its own thread during a `with` block, and raises its exception at the end."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def work(self) -> None:
        """Work until `stopped` is set."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001  # `__exit__` raises it
            self.error = error
