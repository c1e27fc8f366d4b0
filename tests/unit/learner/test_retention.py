"""Which checkpoints of a history are kept."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from learner.training.retention import CheckpointFacts, Reason, reasons_to_keep

Row = tuple[str, float | None, str]  # time of the save in days and hours, return, why it is kept
DAYS: list[Row] = [
    ("1 08:10", 1.0, ""),
    ("1 22:00", 9.0, ""),
    ("1 23:50", 2.0, "daily"),
    ("2 07:59", 9.0, "best"),
    ("2 08:01", 3.0, "hourly"),
    ("2 20:05", 4.0, ""),
    ("2 20:55", 5.0, "hourly daily"),
    ("3 07:40", 6.0, "newest"),
    ("3 07:50", 6.0, "newest hourly"),
    ("3 08:00", None, "newest hourly daily"),
]
HISTORIES: dict[str, list[Row]] = {
    "none": [],
    "one": [("1 00:00", None, "newest hourly daily")],
    "three": [
        ("1 05:00", 1.0, "newest best"),
        ("1 05:10", None, "newest"),
        ("1 05:20", 0.5, "newest hourly daily"),
    ],
    "days": DAYS,
    "no return": [(when, None, why.replace("best", "")) for when, _, why in DAYS],
    "one value": [
        ("1 05:00", 7.0, ""),
        ("1 05:10", 7.0, "newest"),
        ("1 05:20", 7.0, "newest"),
        ("1 05:30", 7.0, "newest best hourly daily"),
    ],
}


def seconds(when: str) -> float:
    day, _, clock = when.partition(" ")
    hour, minute = map(int, clock.split(":"))
    return datetime.datetime(2026, 1, int(day), hour, minute, tzinfo=datetime.UTC).timestamp()


def kept(history: Sequence[CheckpointFacts]) -> list[CheckpointFacts]:
    return [one for one, reasons in zip(history, reasons_to_keep(history), strict=True) if reasons]


def test_what_is_kept_of_a_history() -> None:
    """The order of the list does not matter."""
    order: tuple[Reason, ...] = ("newest", "best", "hourly", "daily")
    for name, rows in HISTORIES.items():
        history = [CheckpointFacts(10 * i, seconds(when), score) for i, (when, score, _) in enumerate(rows)]
        expected = [[reason for reason in order if reason in why.split()] for _, _, why in rows]
        assert reasons_to_keep(history) == expected, name
        assert reasons_to_keep(history[::-1]) == expected[::-1], name


@st.composite
def histories(draw: st.DrawFn) -> list[CheckpointFacts]:
    """Versions and times rise; pauses are between seconds and days."""
    pauses = st.one_of(st.integers(0, 60), st.integers(0, 7_200), st.integers(0, 200_000))
    scores = st.one_of(st.none(), st.integers(0, 5))
    rows = draw(st.lists(st.tuples(pauses, scores), max_size=60))
    history, now = list[CheckpointFacts](), float(draw(st.integers(0, 10**6)))
    for version, (pause, score) in enumerate(rows):
        now += pause
        history.append(CheckpointFacts(version, now, score))
    return history


@given(histories())
def test_deleting_after_every_save_keeps_the_same_as_one_decision_at_the_end(
    history: list[CheckpointFacts],
) -> None:
    left: list[CheckpointFacts] = []
    for one in history:
        left = kept([*left, one])
    assert left == kept(history)


@given(histories())
def test_every_hour_of_the_last_day_and_every_day_keep_their_last_checkpoint(
    history: list[CheckpointFacts],
) -> None:
    """The newest three and the best one remain, and there is no other one."""
    left = kept(history)
    assert left[-3:] == history[-3:]
    needed = {one.version for one in history[-3:]}
    best = max((one.mean_return for one in history if one.mean_return is not None), default=None)
    needed |= {max(one.version for one in history if one.mean_return == best)} if best is not None else set()
    for one in history:
        later = [other for other in history if other.version > one.version]
        same_hour = any(other.saved_at // 3_600 == one.saved_at // 3_600 for other in later)
        same_day = any(other.saved_at // 86_400 == one.saved_at // 86_400 for other in later)
        in_last_day = history[-1].saved_at - one.saved_at < 86_400
        needed |= {one.version} if (in_last_day and not same_hour) or not same_day else set()
    assert {one.version for one in left} == needed
