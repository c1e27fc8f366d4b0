"""Which batches are open, which chunks fill them, and who gets the next place."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from common.config import Config, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import WARMUP_VERSION
from learner.server.scheduler import GrantScheduler
from learner.server.sessions import SessionRecord

CONFIG = Config(
    total_steps=20 * 30,  # 20 updates
    rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=6),
    ppo=PPOConfig(minibatches=3),
    rnd=RNDConfig(warmup_steps=65),  # 7 chunks
)
PLACES, UPDATES = 3, 20


def credit_of(max_lag: int, version: int | None = None) -> GrantScheduler:
    """With that version published, if any."""
    credit = GrantScheduler(replace(CONFIG, max_lag=max_lag))
    if version is not None:
        credit.open(version)
    return credit


def seat_all(credit: GrantScheduler, count: int) -> list[SessionRecord]:
    """Sessions that are connected and idle."""
    seats = [SessionRecord(bytes([slot]) * 16, "", slot, 0, 0.0, peer=bytes([slot])) for slot in range(count)]
    for seat in seats:
        credit.seated(seat)
    return seats


def granted(credit: GrantScheduler, now: float = 0.0) -> list[tuple[int, int]]:
    """(slot, batch) of each new grant."""
    return [(seat.slot, seat.batch) for seat in credit.grant(now)]


@pytest.mark.parametrize("max_lag", [0, 1, 3])
@pytest.mark.parametrize("version", [0, 7])
def test_publishing_a_version_opens_its_batch_and_as_many_more_as_may_lag(version: int, max_lag: int) -> None:
    credit = credit_of(max_lag, version)
    assert list(credit.batches) == list(range(version, version + max_lag + 1))
    assert {places.total for places in credit.batches.values()} == {PLACES}
    seat_all(credit, 50)
    assert Counter(batch for _, batch in granted(credit)) == dict.fromkeys(credit.batches, PLACES)


@pytest.mark.parametrize("version", [UPDATES - 3, UPDATES - 2, UPDATES - 1])
def test_no_batch_is_opened_beyond_the_last_update(version: int) -> None:
    assert list(credit_of(2, version).batches) == list(range(version, UPDATES))
    assert list(credit_of(64, version).batches) == list(range(version, UPDATES))


def test_warming_up_opens_its_own_places_and_no_batch() -> None:
    credit = credit_of(3, WARMUP_VERSION)
    assert {number: places.total for number, places in credit.batches.items()} == {WARMUP_VERSION: 7}
    for _ in range(7):
        assert credit.admit(WARMUP_VERSION, WARMUP_VERSION) is None
    assert credit.admit(WARMUP_VERSION, WARMUP_VERSION) == "surplus"
    credit.open(0)
    assert list(credit.batches) == [0, 1, 2, 3]


def test_the_oldest_batch_is_filled_first() -> None:
    """Whoever is idle plays for it until all of its places are held or filled."""
    credit = credit_of(2, 4)
    seats = seat_all(credit, 7)
    assert [batch for _, batch in granted(credit)] == [4, 4, 4, 5, 5, 5, 6]
    for seat in seats[3:]:  # the younger batches' chunks come first, and go into them
        assert credit.admit(seat.batch, 4) is None
        credit.chunk_received(seat, 1.0)
    assert [batch for _, batch in granted(credit, 1.0)] == [6, 6]
    assert [places.filled for places in credit.batches.values()] == [0, 3, 1]


def test_what_filled_a_place_early_still_fills_it_when_the_next_version_is_published() -> None:
    credit = credit_of(1, 0)
    for batch in (0, 1, 0, 1, 0):
        assert credit.admit(batch, 0) is None
    credit.open(1)
    assert {number: places.filled for number, places in credit.batches.items()} == {1: 2, 2: 0}
    seat_all(credit, 50)
    assert Counter(batch for _, batch in granted(credit)) == {1: 1, 2: PLACES}


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_a_chunk_too_old_for_its_batch_or_from_the_future_is_stale(max_lag: int) -> None:
    newest = 7
    for batch in range(newest, newest + max_lag + 1):
        for version in range(newest + 2):
            reason = None if batch - max_lag <= version <= newest else "stale"
            assert credit_of(max_lag, newest).admit(batch, version) == reason


def test_a_chunk_for_a_batch_that_is_not_open_is_stale() -> None:
    credit = credit_of(1, 7)
    assert [credit.admit(batch, 7) for batch in (6, 9, WARMUP_VERSION)] == ["stale"] * 3
    credit.close()
    assert credit.admit(7, 7) == "stale"
    seat_all(credit, 3)
    assert granted(credit) == []


def test_a_chunk_beyond_the_places_of_its_batch_is_surplus() -> None:
    credit = credit_of(1, 0)
    assert [credit.admit(0, 0) for _ in range(PLACES + 1)] == [None] * PLACES + ["surplus"]
    assert credit.admit(1, 0) is None


def test_a_refused_chunk_frees_its_place() -> None:
    credit = credit_of(1, 0)
    seat_all(credit, 1)
    for batch in (0, 1):
        for _ in range(PLACES):
            credit.admit(batch, 0)
    assert granted(credit) == []
    credit.refuse(1)
    assert granted(credit) == [(0, 1)]
    assert credit.admit(1, 0) is None
    assert credit.admit(1, 0) == "surplus"
    credit.refuse(99)  # long gone: nobody is waiting for it
    assert list(credit.batches) == [0, 1]


def test_reopening_asks_for_the_whole_batch_again_and_for_no_other() -> None:
    credit = credit_of(1, 3)
    for batch in (3, 3, 3, 4):
        credit.admit(batch, 3)
    credit.reopen()
    assert {number: places.filled for number, places in credit.batches.items()} == {3: 0, 4: 1}
    seat_all(credit, 50)
    assert [batch for _, batch in granted(credit)] == [3] * PLACES + [4] * (PLACES - 1)


def test_places_go_to_the_least_recently_served_of_those_who_are_here() -> None:
    credit = credit_of(0, 0)
    seats = seat_all(credit, 5)
    credit.remove(seats[1])
    assert granted(credit) == [(0, 0), (2, 0), (3, 0)]
    assert granted(credit) == []  # one grant each, and no more than there are places
    for seat in (seats[3], seats[0], seats[2]):
        credit.admit(0, 0)
        credit.chunk_received(seat, 1.0)
    credit.open(1)
    assert granted(credit, 1.0) == [(4, 1), (0, 1), (2, 1)]


def test_an_overdue_place_of_any_batch_is_offered_to_another_session() -> None:
    credit = credit_of(1, 0)
    seats = seat_all(credit, 7)
    assert [batch for _, batch in granted(credit)] == [0, 0, 0, 1, 1, 1]
    for seat in seats[:2] + seats[3:5]:
        credit.admit(seat.batch, 0)
        credit.chunk_received(seat, 0.5)  # chunks take half a second
    for seat in (seats[0], seats[1], seats[3]):
        credit.remove(seat)
    assert granted(credit, 1.9) == []
    assert granted(credit, 2.1) == [(6, 0), (4, 1)]
    assert granted(credit, 2.2) == []


def test_one_slow_chunk_does_not_delay_the_next_offer_of_a_place() -> None:
    """The usual time is the median: of 0.5, 0.5 and 60 seconds it is 0.5, so a grant is overdue after 2."""
    credit = credit_of(0, 0)
    seats = seat_all(credit, PLACES + 1)
    credit.grant(0.0)
    for seat, seconds in zip(seats, (0.5, 0.5, 60.0), strict=False):
        credit.admit(0, 0)
        credit.chunk_received(seat, seconds)
    credit.open(1)
    assert granted(credit, 60.0) == [(3, 1), (0, 1), (1, 1)]
    assert granted(credit, 61.9) == []
    assert granted(credit, 62.1) == [(2, 1)]


@pytest.mark.parametrize("max_lag", [1, 3])
def test_with_as_many_sessions_as_places_each_plays_one_chunk_of_every_batch(max_lag: int) -> None:
    """In whatever order they answer, while nobody is a whole chunk ahead: who plays what is known."""
    credit = credit_of(max_lag)
    seats = seat_all(credit, PLACES)
    played: Counter[tuple[int, int]] = Counter()
    orders = itertools.cycle(itertools.permutations(seats))
    rounds = iter(range(1_000))
    credit.open(0)
    credit.grant(0.0)
    for version in range(UPDATES):
        while credit.batches[version].filled < PLACES:
            now = float(next(rounds))
            for seat in next(orders):
                if seat.granted_at is not None:
                    played[seat.slot, seat.batch] += 1
                    assert credit.admit(seat.batch, version) is None
                    credit.chunk_received(seat, now)
                    credit.grant(now)
        if version + 1 < UPDATES:
            credit.open(version + 1)
            credit.grant(now)
    assert played == dict.fromkeys(itertools.product(range(PLACES), range(UPDATES)), 1)


def test_a_fast_session_takes_no_second_place_of_a_batch_from_as_many_sessions_as_places() -> None:
    credit = credit_of(1, 0)
    seats = seat_all(credit, PLACES)
    credit.grant(0.0)
    for now in (1.0, 2.0):  # slot 0 answers twice before the others do once
        credit.admit(seats[0].batch, 0)
        credit.chunk_received(seats[0], now)
        again = granted(credit, now)
    assert again == []


def test_the_place_of_a_session_that_left_is_open_again() -> None:
    credit = credit_of(0, 0)
    seats = seat_all(credit, PLACES + 1)
    assert granted(credit) == [(0, 0), (1, 0), (2, 0)]
    credit.remove(seats[1])
    assert granted(credit) == [(PLACES, 0)]


def test_a_connection_made_anew_gives_no_second_grant() -> None:
    credit = credit_of(1, 0)
    seats = seat_all(credit, 1)
    assert granted(credit) == [(0, 0)]
    credit.seated(seats[0])
    assert granted(credit) == []


def test_a_late_answer_of_an_overdue_grant_makes_its_session_idle_once() -> None:
    credit = credit_of(0, 0)
    seats = seat_all(credit, PLACES + 1)
    credit.grant(0.0)
    credit.admit(0, 0)
    credit.chunk_received(seats[0], 0.5)
    assert granted(credit, 2.1) == [(PLACES, 0), (0, 0)]  # places of slots 1 and 2, who take too long
    credit.chunk_received(seats[1], 2.2)
    assert credit.admit(0, 0) is None
    assert granted(credit, 2.2) == []  # both open places are held
