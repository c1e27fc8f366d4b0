"""`python -m tests.support.witness`, a learner whose training data is recorded.

A line per update goes to TRAINED_FILE: time, generation, version, and per lane the steps by the names that
`counted` gave them. With CHAOS_* in its environment it is also made to suffer.
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
from learner.server.admission import Admission
from learner.training.batch_builder import BuiltBatch
from learner.training.trainer import Trainer

_train = Trainer._train
_tick = Admission.tick
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
        with open(os.environ["TRAINED_FILE"], "a") as file:  # noqa: PTH123  # what is written survives a kill
            file.write(json.dumps(row) + "\n")
    return report


def _wedged(self: Admission, now: float) -> None:
    if self.credit.version >= 20:
        threading.Event().wait()
    _tick(self, now)


def _slow_fsync(descriptor: int) -> None:
    time.sleep(float(os.environ["CHAOS_FSYNC_SECONDS"]))  # a checkpoint is being written for that long
    _fsync(descriptor)


if __name__ == "__main__":
    Trainer._train = _witnessed  # type: ignore[method-assign]
    if "CHAOS_WEDGE_SECONDS" in os.environ:
        end_seconds = float(os.environ["CHAOS_WEDGE_SECONDS"])
        watchdog.PATIENCE["network"] = watchdog.StallLimits(end_seconds / 4, end_seconds)
        Admission.tick = _wedged  # type: ignore[method-assign]
    if "CHAOS_FSYNC_SECONDS" in os.environ:
        os.fsync = _slow_fsync  # type: ignore[assignment]  # we sync descriptors alone
    sys.exit(learner.main())
