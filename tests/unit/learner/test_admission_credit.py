"""Which sessions get credit, and for which batch."""

from __future__ import annotations

from dataclasses import replace

from tests.support.admission_harness import (
    CHUNK_STEPS,
    CONFIG,
    ONE_CHUNK_BATCH,
    OVERLAPPED,
    AdmissionHarness,
    last_ack,
    sid,
)


def test_credit_goes_to_the_least_recently_served_sessions() -> None:
    """Five sessions take turns at the three chunks of each batch."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c", "d", "e")
    served, offsets = [], dict.fromkeys("abcde", 0)
    for version in range(5):
        harness.open_batch(version)
        served.append("".join(sorted(harness.granted())))
        for name in harness.granted():
            harness.send_chunk(name, offsets[name], version)
            offsets[name] += CHUNK_STEPS
        harness.registry.settle([(sid(name), offset) for name, offset in harness.admitted()], "trained")
        harness.chunks.clear()
    assert served == ["abc", "ade", "bcd", "abe", "cde"]
    assert harness.dropped() == {}


def test_a_session_alone_fills_the_whole_batch_and_no_more() -> None:
    """Each chunk brings credit for the next one, until the batch is full."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    offsets = (0, CHUNK_STEPS, 2 * CHUNK_STEPS)
    credit = [last_ack(harness.send_chunk("a", offset)).credit for offset in offsets]
    assert credit == [2 * CHUNK_STEPS, 3 * CHUNK_STEPS, 3 * CHUNK_STEPS]
    assert harness.admitted() == [("a", offset) for offset in offsets]


def test_a_session_that_joins_late_gets_credit_for_the_open_batch() -> None:
    """While the batch has chunks without a grant."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.join("b", "c", "d")
    assert harness.granted() == {"a", "b", "c"}


def test_an_overdue_chunk_is_granted_to_one_other_session_and_is_surplus_when_it_arrives() -> None:
    """A grant is overdue after two seconds, not before."""
    harness = AdmissionHarness()
    harness.join("b", "c", "slow", "a")
    harness.open_batch()
    assert harness.granted() == {"b", "c", "slow"}
    harness.now += 0.5
    harness.send_chunk("b")
    harness.send_chunk("c")  # the median is half a second, so three medians are less than two seconds
    harness.wait(1.5)
    assert harness.granted() == {"slow"}
    harness.wait(0.25)
    assert harness.granted() == {"slow", "a"}
    harness.wait(1.0)
    assert harness.granted() == {"slow", "a"}  # neither "b" nor "c"
    harness.send_chunk("a")
    assert harness.admitted() == [("b", 0), ("c", 0), ("a", 0)]
    harness.send_chunk("slow")
    assert harness.dropped() == {"surplus": CHUNK_STEPS}


def test_a_grant_is_overdue_after_three_medians_of_the_chunk_time() -> None:
    """Where that is more than two seconds."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c", "d")
    harness.open_batch()
    harness.wait(2)
    for name in "ab":
        harness.send_chunk(name)
    harness.wait(3.75)
    assert harness.granted() == {"c"}
    harness.wait(0.5)
    assert len(harness.granted()) == 2


def test_a_chunk_goes_to_the_batch_that_it_was_granted_for() -> None:
    """Not to the batch of its version: with a lag, one version plays for several batches."""
    harness = AdmissionHarness(config=replace(ONE_CHUNK_BATCH, max_lag=1))
    harness.join("a", "b")
    harness.open_batch()
    harness.send_chunk("b")
    harness.send_chunk("a")
    assert [(chunk.slot, chunk.batch) for chunk in harness.chunks] == [(1, 1), (0, 0)]
    assert harness.dropped() == {}


def test_with_a_lag_of_1_the_fourth_chunk_is_of_the_next_batch_and_of_the_same_version() -> None:
    harness = AdmissionHarness(config=OVERLAPPED)
    harness.join("a", "b")
    harness.open_batch()
    for offset in (0, CHUNK_STEPS, 2 * CHUNK_STEPS):
        harness.send_chunk("a", offset)
        harness.send_chunk("b", offset)
    assert [chunk.batch for chunk in harness.chunks] == [0, 0, 0, 1, 1, 1]
    assert {chunk.message.version for chunk in harness.chunks} == {0}
    assert harness.granted() == set()
    assert harness.dropped() == {}


def test_a_chunk_of_the_version_before_is_admitted_with_a_lag_and_stale_without() -> None:
    for config, reason in ((CONFIG, "stale"), (OVERLAPPED, None)):
        harness = AdmissionHarness(config=config)
        harness.join("a")
        harness.open_batch(version=1)
        harness.send_chunk("a", version=0)
        assert harness.dropped() == ({reason: CHUNK_STEPS} if reason else {})
        assert [chunk.batch for chunk in harness.chunks] == ([] if reason else [1])


def test_after_a_failed_update_only_the_dropped_chunks_are_granted_again() -> None:
    """The rest of the batch waits for them."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c")
    harness.open_batch()
    for name in "abc":
        harness.send_chunk(name)
    harness.registry.settle([(sid("b"), 0)], "update_failed")
    harness.registry.reopen(1, harness.now)
    assert harness.granted() == {"a"}  # the session whose last grant is the oldest
    assert harness.dropped() == {"update_failed": CHUNK_STEPS}


def test_after_a_failed_update_the_whole_batch_is_granted_again() -> None:
    """For the same version."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c")
    harness.open_batch()
    for name in "abc":
        harness.send_chunk(name)
    assert harness.granted() == set()
    harness.registry.settle([(sid(name), 0) for name in "abc"], "update_failed")
    harness.registry.reopen(3, harness.now)
    assert harness.granted() == {"a", "b", "c"}
    for name in "abc":
        harness.send_chunk(name, CHUNK_STEPS)
    assert [chunk.batch for chunk in harness.chunks] == [0] * 6
    assert harness.dropped() == {"update_failed": 3 * CHUNK_STEPS}
