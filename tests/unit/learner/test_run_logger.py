"""The files of a run after crashes and on a full disk."""

from __future__ import annotations

import contextlib
import errno
import io
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from learner.monitoring import episode_file, run_logger
from learner.monitoring.run_logger import RunLogger
from learner.training.episodes import Episode
from tests.support.clock import Clock

BATCH_STEPS = 640
UPDATES = 200
LANES = 3


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Writes beyond this size of a file fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def record_updates(logger: RunLogger, first: int, last: int) -> None:
    """Record three finished episodes in each of these updates."""
    for update in range(first, last + 1):
        steps = update * BATCH_STEPS
        ended = [Episode(0, lane, 50 + lane, float(update)) for lane in range(LANES)]
        logger.episodes(ended, steps, 4 * steps, 1.5 * update)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of `RunLogger`."""
    clock = Clock()
    monkeypatch.setattr(run_logger, "time", clock)
    return clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """episodes.csv as a learner leaves it after 200 updates."""
    logger = RunLogger(tmp_path, 0)
    record_updates(logger, 1, UPDATES)
    logger.close()
    return tmp_path / "episodes.csv"


def updates(file: Path) -> list[int]:
    """The update of each row, from its first column."""
    return [int(line.partition(",")[0]) // BATCH_STEPS for line in file.read_text().splitlines()[1:]]


def expected(last: int) -> list[int]:
    return [update for update in range(1, last + 1) for _ in range(LANES)]


def test_a_resume_drops_the_rows_that_a_crash_lost_and_appends(file: Path) -> None:
    whole = file.read_bytes()
    logger = RunLogger(file.parent, 150 * BATCH_STEPS)
    assert updates(file) == expected(150)
    record_updates(logger, 151, UPDATES)
    logger.close()
    assert file.read_bytes() == whole


def test_a_resume_on_a_full_disk_keeps_every_row_and_does_not_end_the_run(file: Path) -> None:
    before = file.read_bytes()
    with file_size_limit(len(before) // 4), capture_logs() as logged:
        logger = RunLogger(file.parent, 150 * BATCH_STEPS)
        record_updates(logger, 151, 152)
    logger.close()
    assert file.read_bytes() == before
    assert [entry["event"] for entry in logged] == ["record_not_written"]


def test_rows_are_appended_when_the_disk_has_room_again(file: Path, clock: Clock) -> None:
    with file_size_limit(1000):
        logger = RunLogger(file.parent, 150 * BATCH_STEPS)
        clock.now += 60.0
        record_updates(logger, 151, 152)
    clock.now += 60.0
    record_updates(logger, 153, 154)
    logger.close()
    assert updates(file) == expected(150) + [153] * LANES + [154] * LANES


def test_a_row_that_was_written_in_part_is_not_joined_with_the_next(file: Path, clock: Clock) -> None:
    logger = RunLogger(file.parent, UPDATES * BATCH_STEPS)
    with file_size_limit(file.stat().st_size + 9):
        record_updates(logger, UPDATES + 1, UPDATES + 1)
    clock.now += 60.0
    record_updates(logger, UPDATES + 2, UPDATES + 2)
    logger.close()
    assert updates(file) == expected(UPDATES) + [UPDATES + 2] * LANES


class FailsAtClose(io.FileIO):
    """A file of a server over a network, which reports at the end that a write failed."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")


class FailsAtWriteAndClose(FailsAtClose):
    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.closed:
            return super().write(data)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_close_that_fails_does_not_end_a_finished_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_file, "open_to_append", lambda file: FailsAtClose(file, "ab"))
    logger = RunLogger(file.parent, UPDATES * BATCH_STEPS)
    with capture_logs() as logged:
        logger.close()
    assert [entry["event"] for entry in logged] == ["record_not_written"]


def test_rows_are_appended_after_a_write_and_a_close_that_fail(
    file: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(episode_file, "open_to_append", lambda file: FailsAtWriteAndClose(file, "ab"))
        logger = RunLogger(file.parent, UPDATES * BATCH_STEPS)
    record_updates(logger, UPDATES + 1, UPDATES + 1)
    clock.now += 59.0
    record_updates(logger, UPDATES + 2, UPDATES + 2)
    clock.now += 1.0
    record_updates(logger, UPDATES + 3, UPDATES + 3)
    logger.close()
    assert updates(file) == expected(UPDATES) + [UPDATES + 3] * LANES


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (b"128640,514560,301.5,0,1,5", 1),  # cut off by a crash; its last cell is a number
        (b"128640,514", 1),
        (b"\0\0\0\0\0\0\0\0", 1),
        (b"\xff\xfe,1\r\n", 1),
        (b'"unclosed,1\r\nwords,in,place,of,all,the,numbers\r\n', 2),
        (b"1,2,3,4,5,6,7,8\r\n", 1),
    ],
)
def test_unreadable_rows_are_skipped_with_one_warning_that_counts_them(
    file: Path, damage: bytes, count: int
) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + damage)
    with capture_logs() as logged:
        logger = RunLogger(file.parent, (UPDATES + 1) * BATCH_STEPS)
    logger.close()
    assert file.read_bytes() == whole
    assert [(entry["event"], entry["rows"]) for entry in logged] == [("episode_rows_skipped", count)]


def test_an_intact_file_gives_no_warning(file: Path) -> None:
    with capture_logs() as logged:
        RunLogger(file.parent, UPDATES * BATCH_STEPS).close()
    assert logged == []


def test_the_curve_of_a_resumed_run_begins_with_its_earlier_episodes(file: Path) -> None:
    logger = RunLogger(file.parent, 2 * BATCH_STEPS)
    logger.close()
    assert logger.curve.points[0].return_mean == 1.0
    assert {point.env_steps for point in logger.curve.points} == {BATCH_STEPS, 2 * BATCH_STEPS}
