"""What a run leaves behind: TensorBoard events, episodes.csv, summary.json."""

from __future__ import annotations

import contextlib
import csv
import json
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import structlog

from common.checkpoint import write_atomically
from learner.curve import Curve, Point
from learner.episodes import Episode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own imports
    from torch.utils.tensorboard import SummaryWriter

log = structlog.get_logger()

_RETRY_SECONDS = 60.0
_COLUMNS = ("env_steps", "frames", "wall_seconds", "slot", "lane", "steps", "score")


class Recorder:
    """Writes into a run directory. Owned by the trainer's thread."""

    def __init__(self, path: Path, env_steps: int) -> None:
        """Open the files; rows of episodes beyond `env_steps`, lost with a crash, are dropped."""
        self._path = path
        self._writer: SummaryWriter | None = SummaryWriter(str(path), purge_step=env_steps or None)
        self._retry_at = 0.0
        file = path / "episodes.csv"
        rows: list[dict[str, str]] = []
        self.curve = Curve()  # to look at while the run goes on
        if file.exists():
            with file.open(newline="") as old:
                rows = [row for row in csv.DictReader(old) if int(row["env_steps"]) <= env_steps]
        self._file = file.open("w", newline="")
        self._rows = csv.DictWriter(self._file, _COLUMNS)
        self._rows.writeheader()
        self._rows.writerows(rows)
        self.curve.replay((int(row["env_steps"]), float(row["score"])) for row in rows)

    def episodes(self, ended: Iterable[Episode], env_steps: int, frames: int, wall_seconds: float) -> None:
        """Append finished games; `env_steps` and `frames` as of the end of their update."""
        with _whatever_the_disk():
            for episode in ended:
                row = (
                    env_steps,
                    frames,
                    round(wall_seconds, 1),
                    episode.slot,
                    episode.lane,
                    episode.steps,
                    episode.score,
                )
                self._rows.writerow(dict(zip(_COLUMNS, row, strict=True)))
            self._file.flush()

    def scalars(self, values: Mapping[str, float], env_steps: int) -> None:
        """Write one point of each curve."""
        mean, bonus = values.get("episodes/return_mean_100"), values.get("train/intrinsic_reward_mean")
        self.curve.add(Point(env_steps, mean, bonus))
        if self._writer is None and time.monotonic() < self._retry_at:
            return
        writer, self._writer = self._writer, None  # one that failed does not write again
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        with _whatever_the_disk():
            writer = writer or SummaryWriter(str(self._path))
            for name, value in values.items():
                writer.add_scalar(name, value, env_steps)
            self._writer = writer

    def summary(self, values: Mapping[str, object]) -> None:
        """Replace summary.json."""
        with _whatever_the_disk():
            write_atomically(self._path / "summary.json", (json.dumps(values, indent=2) + "\n").encode())

    def close(self) -> None:
        """Close every file."""
        with _whatever_the_disk():
            if self._writer is not None:
                self._writer.close()
        with _whatever_the_disk():
            self._file.close()


@contextlib.contextmanager
def _whatever_the_disk() -> Iterator[None]:
    """A record that cannot be written is said and left out: training is worth more."""
    try:
        yield
    except OSError as error:
        log.error("record_not_written", reason=str(error), next="training goes on")
