"""Writes the files that record a run: TensorBoard events, episodes.csv and summary.json."""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import structlog

from common.files import write_atomically
from learner.monitoring import episode_file
from learner.monitoring.curve import Point, ThinnedCurve
from learner.monitoring.episode_file import EpisodeRow
from learner.training.episodes import Episode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own imports
    from torch.utils.tensorboard import SummaryWriter

log = structlog.get_logger()

_RETRY_SECONDS = 60.0


class RunLogger:
    """Writes into a run directory. Owned by the main thread.

    After a failed write, the file is closed, and opened again after a minute. Records in between are skipped.
    """

    def __init__(self, path: Path, env_steps: int) -> None:
        """Open episodes.csv; drop its rows beyond `env_steps`, whose updates a crash undid."""
        self._path, self._episodes_path = path, path / "episodes.csv"
        self._writer: SummaryWriter | None = None
        self._writer_retry_at = 0.0
        self._file: io.FileIO | None = None
        self._file_retry_at = 0.0
        self._recorded_steps = env_steps  # rows of later steps in the file are invalid
        self.curve = ThinnedCurve()  # for the live page
        self.curve.replay((row.env_steps, row.score) for row in self._open_episodes())

    def _open_episodes(self) -> list[EpisodeRow]:
        """Open episodes.csv for appending; drop unreadable and invalid rows, and return the others."""
        rows: list[EpisodeRow] = []
        self._file_retry_at = time.monotonic() + _RETRY_SECONDS
        with _log_disk_errors():
            if self._episodes_path.exists():
                rows, unreadable = episode_file.read(self._episodes_path)
                rows = [row for row in rows if row.env_steps <= self._recorded_steps]
                if unreadable:
                    log.warning("episode_rows_skipped", file=str(self._episodes_path), rows=unreadable)
            episode_file.replace(self._episodes_path, rows)
            self._file = episode_file.open_to_append(self._episodes_path)
        return rows

    def episodes(self, ended: Iterable[Episode], env_steps: int, frames: int, wall_seconds: float) -> None:
        """Append finished episodes; `env_steps` and `frames` are those at the end of their update."""
        if self._file is None and time.monotonic() >= self._file_retry_at:
            self._open_episodes()
        if self._file is None:
            return
        wall = round(wall_seconds, 1)
        rows = [
            EpisodeRow(env_steps, frames, wall, one.slot, one.lane, one.steps, one.score) for one in ended
        ]
        with _log_disk_errors():
            try:
                episode_file.append(self._file, rows)
                self._recorded_steps = env_steps
            except OSError:
                file, self._file = self._file, None
                with contextlib.suppress(OSError):  # the failed write is logged
                    file.close()  # opening it again drops a row that was written in part
                raise

    def scalars(self, values: Mapping[str, float], env_steps: int) -> None:
        """Write one point of each TensorBoard curve."""
        mean, bonus = values.get("episodes/return_mean_100"), values.get("train/intrinsic_reward_mean")
        self.curve.add(Point(env_steps, mean, bonus))
        if self._writer is None and time.monotonic() < self._writer_retry_at:
            return
        writer, self._writer = self._writer, None  # a writer that failed is not used again
        self._writer_retry_at = time.monotonic() + _RETRY_SECONDS
        with _log_disk_errors():
            # A crash undid the updates of points from `env_steps` on in earlier files.
            writer = writer or SummaryWriter(str(self._path), purge_step=env_steps)
            for name, value in values.items():
                writer.add_scalar(name, value, env_steps)
            self._writer = writer

    def summary(self, values: Mapping[str, object]) -> None:
        """Replace summary.json."""
        with _log_disk_errors():
            write_atomically(self._path / "summary.json", (json.dumps(values, indent=2) + "\n").encode())

    def close(self) -> None:
        """Close every file."""
        with _log_disk_errors():
            if self._writer is not None:
                self._writer.close()
        with _log_disk_errors():
            if self._file is not None:
                self._file.close()


@contextlib.contextmanager
def _log_disk_errors() -> Iterator[None]:
    """Log a failed write and continue: a full disk must not end a run."""
    try:
        yield
    except OSError as error:
        log.error("record_not_written", reason=str(error), next="training continues; the record is skipped")
