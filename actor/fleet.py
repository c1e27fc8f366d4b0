"""The parent of `--procs N`: it fetches each bundle once for N actors, and exports their metrics."""

from __future__ import annotations

import select
import threading
from pathlib import Path
from typing import Any

import structlog

from actor.metrics import FleetCollector
from actor.weights import Blob, WeightsSource
from common.process.children import ChildProcesses, Exit
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY
from common.process.parent_link import receive_note, send_note
from common.protocol.messages import BlobName

log = structlog.get_logger()

_TICK_SECONDS = 0.5
_KEPT_FILES = 2  # an actor may still read the previous file


class Fleet:
    """Starts and restarts the actors, and answers their requests for weights. Owned by one thread."""

    def __init__(
        self, children: ChildProcesses, weights: WeightsSource, directory: Path, collector: FleetCollector
    ) -> None:
        self._children = children
        self._weights, self._directory, self._collector = weights, directory, collector
        self._files: dict[str, list[tuple[Blob, Path]]] = {"bundle": [], "target": []}

    def run(self, stop: threading.Event) -> int:
        """Run until no actor will be restarted or a signal arrives.

        Returns:
            The exit code: `EXIT_CONFIGURATION` if an actor ended with it, `EXIT_DONE` if the run is finished,
            else `EXIT_TEMPORARY`.
        """
        codes: dict[int, int] = {}
        try:
            while not stop.is_set():
                codes |= self._record(self._children.tick())
                if (
                    self._children.alive == 0
                    and all(code in (EXIT_DONE, EXIT_CONFIGURATION) for code in codes.values())
                    and codes
                ):
                    break
                self.serve_notes(stop)
        finally:
            codes |= self._record(self._children.stop())
        if EXIT_CONFIGURATION in codes.values():
            return EXIT_CONFIGURATION
        return EXIT_DONE if set(codes.values()) == {EXIT_DONE} else EXIT_TEMPORARY

    def _record(self, ends: list[Exit]) -> dict[int, int]:
        """Log the exits; return the exit code of each actor by its number."""
        for end in ends:
            self._collector.end(end.number)
            log.info("actor_ended", actor=end.number, code=end.code, steps=end.produced)
        return {end.number: end.code for end in ends}

    def serve_notes(self, stop: threading.Event) -> None:
        """Handle the notes that arrive within one tick."""
        sockets = {
            child.socket.fileno(): (child.number, child.socket)
            for child in self._children.children
            if child.socket is not None
        }
        poller = select.poll()
        for descriptor in sockets:
            poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(_TICK_SECONDS * 1000):
            number, ready = sockets[descriptor]
            note = receive_note(ready)
            if note is None:
                continue
            if "stats" in note:
                self._collector.update(number, note["stats"])
            elif "want" in note:
                answer = self._answer(note["want"], (note["held"][0], note["held"][1]), stop)
                if not send_note(ready, {"have": note["want"], **answer}):
                    log.warning("note_dropped", next="the actor requests the weights again")

    def _answer(self, name: BlobName, held: tuple[int, int], stop: threading.Event) -> dict[str, Any]:
        """The answer to a request: the file with the newest weights, or None without newer ones.

        It first fetches from the learner if there is no file, or the actor holds the newest weights.
        """
        files = self._files[name]
        newest = (files[-1][0].generation, files[-1][0].version) if files else (-1, -1)
        if newest == held or not files:
            blob = self._weights.fetch(name, newest, lambda: not stop.is_set())
            if blob is not None:
                path = self._directory / f"{name}-{blob.generation}-{blob.version}.safetensors"
                path.write_bytes(blob.data)
                files.append((Blob(blob.generation, blob.version, b""), path))
                for _, old in files[:-_KEPT_FILES]:
                    old.unlink()
                del files[:-_KEPT_FILES]
                newest = (blob.generation, blob.version)
        if newest == held or not files:
            return {"path": None}
        return {"path": str(files[-1][1]), "generation": newest[0], "version": newest[1]}
