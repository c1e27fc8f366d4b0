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
from typing import Any

from learner import __main__ as learner
from learner import watchdog
from learner.server.registry import SessionRegistry
from learner.training.batch_builder import BuiltBatch
from learner.training.trainer import Trainer

_train = Trainer._train
_tick = SessionRegistry.tick
_fsync = os.fsync


def _witnessed(self: Trainer, built: BuiltBatch) -> Any:
    time.sleep(float(os.environ.get("CHAOS_UPDATE_SECONDS", "0")))
    report = _train(self, built)
    if report is not None and "TRAINED_FILE" in os.environ:
        names = built.joined.observation[1:].astype(int)
        lanes = []
        for lane in range(names.shape[1]):
            (high, low), made = names[0, lane, :2], names[:, lane, 2]
            whole = (names[:, lane, :2] == (high, low)).all() and (made[1:] - made[:-1] == 1).all()
            lanes.append([f"{high}-{low}", int(made[0]), int(made[-1]), bool(whole)])
        row = {
            "time": time.time(),
            "generation": self._generation,
            "version": self.status.version,
            "lanes": lanes,
        }
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
    Trainer._train = _witnessed  # type: ignore[method-assign]
    if "CHAOS_WEDGE_SECONDS" in os.environ:
        end_seconds = float(os.environ["CHAOS_WEDGE_SECONDS"])
        watchdog.STALL_LIMITS["network"] = watchdog.StallLimits(end_seconds / 4, end_seconds)
        SessionRegistry.tick = _wedged  # type: ignore[method-assign]
    if "CHAOS_FSYNC_SECONDS" in os.environ:
        os.fsync = _slow_fsync  # type: ignore[assignment]  # the product passes descriptors only
    sys.exit(learner.main())
