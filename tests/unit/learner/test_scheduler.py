"""Which batches are open, which chunks they admit, and which session gets the next grant."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from common.config import Config, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import WARMUP_VERSION
from learner.server.scheduler import GrantScheduler

CONFIG = Config(
    total_steps=20 * 30,  # 20 updates
    rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=6),
    ppo=PPOConfig(minibatches=3),
    rnd=RNDConfig(warmup_steps=65),  # 7 chunks
)
BATCH_CHUNKS, UPDATES = 3, 20


def scheduler_of(max_lag: int, version: int | None = None) -> GrantScheduler:
    """A scheduler; that version is published, if there is one."""
    scheduler = GrantScheduler(replace(CONFIG, max_lag=max_lag))
    if version is not None:
        scheduler.open(version)
    return scheduler


def add_all(scheduler: GrantScheduler, count: int) -> list[bytes]:
    """Add idle sessions; the name of each is its slot."""
    sids = [bytes([slot]) for slot in range(count)]
    for slot, sid in enumerate(sids):
        scheduler.add(sid, slot)
    return sids


def granted(scheduler: GrantScheduler, now: float = 0.0) -> list[tuple[int, int]]:
    """(slot, batch) of each new grant."""
    return [(sid[0], scheduler.batch_of(sid)) for sid in scheduler.grant(now)]


def chunk_admitted(scheduler: GrantScheduler, sid: bytes, now: float) -> None:
    """The chunk of a session's grant arrives and is admitted."""
    assert scheduler.is_collecting(sid)
    scheduler.end_grant(sid, True, now)


@pytest.mark.parametrize("max_lag", [0, 1, 3])
@pytest.mark.parametrize("version", [0, 7])
def test_publishing_a_version_opens_its_batch_and_as_many_more_as_may_lag(version: int, max_lag: int) -> None:
    scheduler = scheduler_of(max_lag, version)
    assert list(scheduler.batches) == list(range(version, version + max_lag + 1))
    assert {batch.size for batch in scheduler.batches.values()} == {BATCH_CHUNKS}
    add_all(scheduler, 50)
    assert Counter(batch for _, batch in granted(scheduler)) == dict.fromkeys(scheduler.batches, BATCH_CHUNKS)


@pytest.mark.parametrize("version", [UPDATES - 3, UPDATES - 2, UPDATES - 1])
def test_no_batch_is_opened_beyond_the_last_update(version: int) -> None:
    assert list(scheduler_of(2, version).batches) == list(range(version, UPDATES))
    assert list(scheduler_of(64, version).batches) == list(range(version, UPDATES))


def test_the_warm_up_opens_its_own_chunks_and_no_other_batch() -> None:
    scheduler = scheduler_of(3, WARMUP_VERSION)
    assert {number: batch.size for number, batch in scheduler.batches.items()} == {WARMUP_VERSION: 7}
    for _ in range(7):
        assert scheduler.admit(WARMUP_VERSION, WARMUP_VERSION) is None
    assert scheduler.admit(WARMUP_VERSION, WARMUP_VERSION) == "surplus"
    scheduler.open(0)
    assert list(scheduler.batches) == [0, 1, 2, 3]


def test_the_oldest_batch_is_filled_first() -> None:
    """Idle sessions get grants for it until each of its chunks is granted or admitted."""
    scheduler = scheduler_of(2, 4)
    sids = add_all(scheduler, 7)
    assert [batch for _, batch in granted(scheduler)] == [4, 4, 4, 5, 5, 5, 6]
    for sid in sids[3:]:  # the chunks of the later batches arrive first
        assert scheduler.admit(scheduler.batch_of(sid), 4) is None
        chunk_admitted(scheduler, sid, 1.0)
    assert [batch for _, batch in granted(scheduler, 1.0)] == [6, 6]
    assert [batch.admitted for batch in scheduler.batches.values()] == [0, 3, 1]


def test_chunks_that_were_admitted_early_still_count_when_the_next_version_is_published() -> None:
    scheduler = scheduler_of(1, 0)
    for batch in (0, 1, 0, 1, 0):
        assert scheduler.admit(batch, 0) is None
    scheduler.open(1)
    assert {number: batch.admitted for number, batch in scheduler.batches.items()} == {1: 2, 2: 0}
    add_all(scheduler, 50)
    assert Counter(batch for _, batch in granted(scheduler)) == {1: 1, 2: BATCH_CHUNKS}


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_a_chunk_too_old_for_its_batch_or_from_the_future_is_stale(max_lag: int) -> None:
    newest = 7
    for batch in range(newest, newest + max_lag + 1):
        for version in range(newest + 2):
            reason = None if batch - max_lag <= version <= newest else "stale"
            assert scheduler_of(max_lag, newest).admit(batch, version) == reason


def test_a_chunk_for_a_batch_that_is_not_open_is_stale() -> None:
    scheduler = scheduler_of(1, 7)
    assert [scheduler.admit(batch, 7) for batch in (6, 9, WARMUP_VERSION)] == ["stale"] * 3
    scheduler.close()
    assert scheduler.admit(7, 7) == "stale"
    add_all(scheduler, 3)
    assert granted(scheduler) == []


def test_a_chunk_beyond_the_size_of_its_batch_is_surplus() -> None:
    scheduler = scheduler_of(1, 0)
    assert [scheduler.admit(0, 0) for _ in range(BATCH_CHUNKS + 1)] == [None] * BATCH_CHUNKS + ["surplus"]
    assert scheduler.admit(1, 0) is None


def test_a_withdrawn_chunk_is_granted_and_admitted_again() -> None:
    scheduler = scheduler_of(1, 0)
    add_all(scheduler, 1)
    for batch in (0, 1):
        for _ in range(BATCH_CHUNKS):
            scheduler.admit(batch, 0)
    assert granted(scheduler) == []
    scheduler.withdraw(1)
    assert granted(scheduler) == [(0, 1)]
    assert scheduler.admit(1, 0) is None
    assert scheduler.admit(1, 0) == "surplus"
    scheduler.withdraw(99)  # a batch that is not open
    assert list(scheduler.batches) == [0, 1]


def test_chunks_that_a_failed_update_drops_are_granted_again_and_no_others() -> None:
    scheduler = scheduler_of(1, 3)
    for batch in (3, 3, 3, 4):
        scheduler.admit(batch, 3)
    scheduler.withdraw(3, 2)
    assert {number: batch.admitted for number, batch in scheduler.batches.items()} == {3: 1, 4: 1}
    add_all(scheduler, 50)
    assert [batch for _, batch in granted(scheduler)] == [3] * 2 + [4] * (BATCH_CHUNKS - 1)


def test_grants_go_to_the_least_recently_served_of_the_connected_sessions() -> None:
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, 5)
    scheduler.remove(sids[1])
    assert granted(scheduler) == [(0, 0), (2, 0), (3, 0)]
    assert granted(scheduler) == []  # one grant each, and no more than the batch takes
    for sid in (sids[3], sids[0], sids[2]):
        scheduler.admit(0, 0)
        chunk_admitted(scheduler, sid, 1.0)
    scheduler.open(1)
    assert granted(scheduler, 1.0) == [(4, 1), (0, 1), (2, 1)]


def test_an_overdue_chunk_of_any_batch_is_granted_to_another_session() -> None:
    scheduler = scheduler_of(1, 0)
    sids = add_all(scheduler, 7)
    assert [batch for _, batch in granted(scheduler)] == [0, 0, 0, 1, 1, 1]
    for sid in sids[:2] + sids[3:5]:
        scheduler.admit(scheduler.batch_of(sid), 0)
        chunk_admitted(scheduler, sid, 0.5)  # chunks take half a second
    for sid in (sids[0], sids[1], sids[3]):
        scheduler.remove(sid)
    assert granted(scheduler, 1.9) == []
    assert granted(scheduler, 2.1) == [(6, 0), (4, 1)]
    assert granted(scheduler, 2.2) == []


def test_one_slow_chunk_does_not_delay_the_next_overdue_grant() -> None:
    """The usual time is the median: of 0.5, 0.5 and 60 seconds it is 0.5, so a grant is overdue after 2."""
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, BATCH_CHUNKS + 1)
    scheduler.grant(0.0)
    for sid, seconds in zip(sids, (0.5, 0.5, 60.0), strict=False):
        scheduler.admit(0, 0)
        chunk_admitted(scheduler, sid, seconds)
    scheduler.open(1)
    assert granted(scheduler, 60.0) == [(3, 1), (0, 1), (1, 1)]
    assert granted(scheduler, 61.9) == []
    assert granted(scheduler, 62.1) == [(2, 1)]


def test_a_grant_is_overdue_after_a_minute_however_long_chunks_usually_take() -> None:
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, BATCH_CHUNKS + 1)
    scheduler.grant(0.0)
    for sid in sids[:BATCH_CHUNKS]:
        scheduler.admit(0, 0)
        chunk_admitted(scheduler, sid, 50.0)
    scheduler.open(1)
    assert granted(scheduler, 50.0) == [(3, 1), (0, 1), (1, 1)]
    assert granted(scheduler, 109.9) == []
    assert granted(scheduler, 110.1) == [(2, 1)]


def test_a_chunk_that_is_not_admitted_does_not_change_the_usual_time() -> None:
    """A second chunk of a session answers no grant."""
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, 1)
    scheduler.grant(0.0)
    scheduler.end_grant(sids[0], False, 40.0)
    scheduler.end_grant(sids[0], True, 41.0)
    assert scheduler.keys.median_chunk_seconds is None


@pytest.mark.parametrize("max_lag", [1, 3])
def test_with_as_many_sessions_as_chunks_of_a_batch_each_plays_one_chunk_of_every_batch(max_lag: int) -> None:
    """The order of their chunks does not matter, while no session is a whole chunk ahead."""
    scheduler = scheduler_of(max_lag)
    sids = add_all(scheduler, BATCH_CHUNKS)
    played: Counter[tuple[int, int]] = Counter()
    orders = itertools.cycle(itertools.permutations(sids))
    rounds = iter(range(1_000))
    scheduler.open(0)
    scheduler.grant(0.0)
    for version in range(UPDATES):
        while scheduler.batches[version].admitted < BATCH_CHUNKS:
            now = float(next(rounds))
            for sid in next(orders):
                if scheduler.is_collecting(sid):
                    played[sid[0], scheduler.batch_of(sid)] += 1
                    assert scheduler.admit(scheduler.batch_of(sid), version) is None
                    chunk_admitted(scheduler, sid, now)
                    scheduler.grant(now)
        if version + 1 < UPDATES:
            scheduler.open(version + 1)
            scheduler.grant(now)
    assert played == dict.fromkeys(itertools.product(range(BATCH_CHUNKS), range(UPDATES)), 1)


def test_a_fast_session_gets_no_second_chunk_of_a_batch_while_there_are_enough_sessions() -> None:
    scheduler = scheduler_of(1, 0)
    sids = add_all(scheduler, BATCH_CHUNKS)
    scheduler.grant(0.0)
    for now in (1.0, 2.0):  # slot 0 sends two chunks before the others send one
        scheduler.admit(scheduler.batch_of(sids[0]), 0)
        chunk_admitted(scheduler, sids[0], now)
        again = granted(scheduler, now)
    assert again == []


def test_the_chunk_of_a_session_that_left_is_granted_again() -> None:
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, BATCH_CHUNKS + 1)
    assert granted(scheduler) == [(0, 0), (1, 0), (2, 0)]
    scheduler.remove(sids[1])
    assert granted(scheduler) == [(BATCH_CHUNKS, 0)]


def test_a_second_connection_gives_no_second_grant() -> None:
    scheduler = scheduler_of(1, 0)
    sids = add_all(scheduler, 1)
    assert granted(scheduler) == [(0, 0)]
    scheduler.add(sids[0], 0)
    assert granted(scheduler) == []


def test_the_late_chunk_of_an_overdue_grant_makes_its_session_idle_once() -> None:
    scheduler = scheduler_of(0, 0)
    sids = add_all(scheduler, BATCH_CHUNKS + 1)
    scheduler.grant(0.0)
    scheduler.admit(0, 0)
    chunk_admitted(scheduler, sids[0], 0.5)
    assert granted(scheduler, 2.1) == [(BATCH_CHUNKS, 0), (0, 0)]  # the overdue chunks of slots 1 and 2
    chunk_admitted(scheduler, sids[1], 2.2)
    assert scheduler.admit(0, 0) is None
    assert granted(scheduler, 2.2) == []  # every chunk is granted or admitted
