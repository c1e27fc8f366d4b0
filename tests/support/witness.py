"""`python -m tests.support.witness`, a learner whose training data is recorded.

It writes a line per update to TRAINED_FILE: time, generation, version, and for each lane the steps that
`counted` identified. Variables CHAOS_* inject faults: slow updates, slow writes, a stalled network thread.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from torch import Tensor

from common.model.bundle import Bundle
from learner import __main__ as learner
from learner import watchdog
from learner.server.registry import SessionRegistry
from learner.server.server import Server
from learner.training.batch import Batch
from learner.training.ppo import PPO, UpdateReport

_publish, _update = Server.publish, PPO.update
_tick, _fsync = SessionRegistry.tick, os.fsync
_published: dict[str, int] = {}  # generation and version of the latest bundle, which the next update trains


def _noted_publish(self: Server, bundle: Bundle) -> None:
    _published.update(generation=bundle.generation, version=bundle.version)
    _publish(self, bundle)


def _recorded_update(
    self: PPO, batch: Batch, statistics: tuple[Tensor, Tensor], progress: float
) -> UpdateReport | None:
    """Train; then, before the trainer settles the batch, record what it held."""
    time.sleep(float(os.environ.get("CHAOS_UPDATE_SECONDS", "0")))
    report = _update(self, batch, statistics, progress)
    if report is not None and "TRAINED_FILE" in os.environ:
        names = batch.next_observation.numpy().astype(int)
        lanes = []
        for lane in range(names.shape[1]):
            (high, low), made = names[0, lane, :2], names[:, lane, 2]
            whole = (names[:, lane, :2] == (high, low)).all() and (made[1:] - made[:-1] == 1).all()
            lanes.append([f"{high}-{low}", int(made[0]), int(made[-1]), bool(whole)])
        row = {"time": time.time(), **_published, "lanes": lanes}
        with open(os.environ["TRAINED_FILE"], "a") as file:  # noqa: PTH123  # written lines survive a kill
            file.write(json.dumps(row) + "\n")
    return report


def _wedged(self: SessionRegistry, now: float) -> None:
    if self.scheduler.version >= 20:
        threading.Event().wait()
    _tick(self, now)


def _slow_fsync(descriptor: int) -> None:
    time.sleep(float(os.environ["CHAOS_FSYNC_SECONDS"]))  # lengthens the writing of a checkpoint
    _fsync(descriptor)


if __name__ == "__main__":
    Server.publish = _noted_publish  # type: ignore[method-assign]
    PPO.update = _recorded_update  # type: ignore[method-assign]
    if "CHAOS_WEDGE_SECONDS" in os.environ:
        end_seconds = float(os.environ["CHAOS_WEDGE_SECONDS"])
        watchdog.STALL_LIMITS["network"] = watchdog.StallLimits(end_seconds / 4, end_seconds)
        SessionRegistry.tick = _wedged  # type: ignore[method-assign]
    if "CHAOS_FSYNC_SECONDS" in os.environ:
        os.fsync = _slow_fsync  # type: ignore[assignment]  # the product passes descriptors only
    sys.exit(learner.main())
