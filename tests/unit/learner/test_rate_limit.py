"""A peer that offends is ignored for a while; one that errs at times, or sends much at once, is not."""

from __future__ import annotations

from learner.server.rate_limit import BAN_SECONDS, STRIKE_SECONDS, STRIKES, PeerRateLimiter

A, B = b"a", b"b"


def test_ten_offences_within_a_minute_are_a_ban_of_a_minute() -> None:
    """Of the offender alone; afterwards the count begins anew."""
    conduct = PeerRateLimiter()
    outcomes = [conduct.record_violation(A, 100.0 + number) for number in range(STRIKES)]
    assert outcomes == [False] * (STRIKES - 1) + [True]
    last = 100.0 + STRIKES - 1
    assert conduct.classify_message(A, 10, last) == "banned"
    assert conduct.classify_message(A, 10, last + BAN_SECONDS - 0.01) == "banned"
    assert conduct.classify_message(B, 10, last) == "heard"
    assert conduct.classify_message(A, 10, last + BAN_SECONDS) == "heard"
    assert not conduct.record_violation(A, last + BAN_SECONDS)
    assert (conduct.bans, conduct.unheard) == (1, 2)


def test_offences_far_apart_are_no_ban() -> None:
    """A line that damages a message now and then costs nobody his place."""
    conduct = PeerRateLimiter()
    step = STRIKE_SECONDS / (STRIKES - 1) + 0.01
    assert not any(conduct.record_violation(A, number * step) for number in range(1_000))


def test_a_quota_lets_a_burst_pass_and_holds_a_flood() -> None:
    """In the long run 1,000 messages and 32 MiB a second; both use the same quota."""
    conduct = PeerRateLimiter()
    assert [conduct.classify_message(A, 0, 0.0) for _ in range(10_000)].count("heard") == 10_000
    heard = sum(conduct.classify_message(B, 2**20, second / 100) == "heard" for second in range(6_000))
    assert 0.95 < heard / (32 * (60 + 10) / (1 + 32 / 1_000)) < 1.05
    flood = [conduct.classify_message(A, 0, 20.0 + number / 20_000) for number in range(100_000)]
    assert 14_000 < flood.count("heard") < 16_000
    assert flood.count("banned") == 0  # counting is the caller's


def test_a_message_larger_than_the_quota_still_passes() -> None:
    """It is paid for afterwards: a run with huge chunks is slow, not stuck."""
    conduct = PeerRateLimiter()
    assert conduct.classify_message(A, 2**30, 0.0) == "heard"
    assert conduct.classify_message(A, 10, 0.0) == "excess"
    assert conduct.classify_message(A, 10, 23.0) == "heard"


def test_weights_are_paced_without_offence() -> None:
    """A fleet behind one key may ask for more than its share; it gets the rest later."""
    conduct = PeerRateLimiter()
    sent = sum(conduct.allow_send(A, 2**20, second / 1_000) for second in range(20_000))
    assert 0.95 < sent / (256 * (20 + 10)) < 1.05
    assert conduct.classify_message(A, 10, 20.0) == "heard"


def test_hellos_of_a_key_beyond_its_quota_wait_without_offence() -> None:
    """A fleet of any size joins: those that wait come back after the time that they are told."""
    conduct, now, waiting, joined = PeerRateLimiter(), 0.0, [0.0] * 20_000, 0
    while waiting:
        now = min(waiting)
        pauses = [conduct.allow_hello(A, now) for due in waiting if due <= now]
        joined += pauses.count(0.0)
        waiting = [due for due in waiting if due > now] + [now + pause for pause in pauses if pause]
    assert joined == 20_000
    assert now < 40.0  # 500 each second, and 5,000 at once
    assert conduct.bans == 0
    assert conduct.classify_message(A, 10, now) == "heard"  # messages are not paid from the quota of Hellos


def test_memory_is_bounded_and_bans_outlive_strangers_that_rest() -> None:
    """A stranger with a new connection for each message does not wash out a ban."""
    conduct = PeerRateLimiter()
    for _ in range(STRIKES):
        conduct.record_violation(A, 0.0)
    for number in range(100_000):
        conduct.classify_message(str(number).encode(), 10, number / 2_000)
    assert conduct.classify_message(A, 10, 50.0) == "banned"
    assert len(conduct._records) <= 32_768
