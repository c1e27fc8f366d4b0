"""A peer that offends is ignored for a while; one that errs at times, or sends much at once, is not."""

from __future__ import annotations

from learner.server.rate_limit import BAN_SECONDS, VIOLATION_SECONDS, VIOLATIONS_PER_BAN, PeerRateLimiter

A, B = b"a", b"b"


def test_ten_offences_within_a_minute_are_a_ban_of_a_minute() -> None:
    """Of the offender alone; afterwards the count begins anew."""
    limiter = PeerRateLimiter()
    outcomes = [limiter.record_violation(A, 100.0 + number) for number in range(VIOLATIONS_PER_BAN)]
    assert outcomes == [False] * (VIOLATIONS_PER_BAN - 1) + [True]
    last = 100.0 + VIOLATIONS_PER_BAN - 1
    assert limiter.classify_message(A, 10, last) == "banned"
    assert limiter.classify_message(A, 10, last + BAN_SECONDS - 0.01) == "banned"
    assert limiter.classify_message(B, 10, last) == "accepted"
    assert limiter.classify_message(A, 10, last + BAN_SECONDS) == "accepted"
    assert not limiter.record_violation(A, last + BAN_SECONDS)
    assert (limiter.bans, limiter.ignored_messages) == (1, 2)


def test_offences_far_apart_are_no_ban() -> None:
    """A line that damages a message now and then costs nobody his place."""
    limiter = PeerRateLimiter()
    step = VIOLATION_SECONDS / (VIOLATIONS_PER_BAN - 1) + 0.01
    assert not any(limiter.record_violation(A, number * step) for number in range(1_000))


def test_a_quota_lets_a_burst_pass_and_holds_a_flood() -> None:
    """In the long run 1,000 messages and 32 MiB a second; both use the same quota."""
    limiter = PeerRateLimiter()
    assert [limiter.classify_message(A, 0, 0.0) for _ in range(10_000)].count("accepted") == 10_000
    accepted = sum(limiter.classify_message(B, 2**20, second / 100) == "accepted" for second in range(6_000))
    assert 0.95 < accepted / (32 * (60 + 10) / (1 + 32 / 1_000)) < 1.05
    flood = [limiter.classify_message(A, 0, 20.0 + number / 20_000) for number in range(100_000)]
    assert 14_000 < flood.count("accepted") < 16_000
    assert flood.count("banned") == 0  # counting is the caller's


def test_a_message_larger_than_the_quota_still_passes() -> None:
    """It is paid for afterwards: a run with huge chunks is slow, not stuck."""
    limiter = PeerRateLimiter()
    assert limiter.classify_message(A, 2**30, 0.0) == "accepted"
    assert limiter.classify_message(A, 10, 0.0) == "excess"
    assert limiter.classify_message(A, 10, 23.0) == "accepted"


def test_weights_are_paced_without_offence() -> None:
    """A fleet behind one key may ask for more than its share; it gets the rest later."""
    limiter = PeerRateLimiter()
    sent = sum(limiter.allow_send(A, 2**20, second / 1_000) for second in range(20_000))
    assert 0.95 < sent / (256 * (20 + 10)) < 1.05
    assert limiter.classify_message(A, 10, 20.0) == "accepted"


def test_hellos_of_a_key_beyond_its_quota_wait_without_offence() -> None:
    """A fleet of any size joins: those that wait come back after the time that they are told."""
    limiter, now, waiting, joined = PeerRateLimiter(), 0.0, [0.0] * 20_000, 0
    while waiting:
        now = min(waiting)
        pauses = [limiter.allow_hello(A, now) for due in waiting if due <= now]
        joined += pauses.count(0.0)
        waiting = [due for due in waiting if due > now] + [now + pause for pause in pauses if pause]
    assert joined == 20_000
    assert now < 40.0  # 500 each second, and 5,000 at once
    assert limiter.bans == 0
    assert (
        limiter.classify_message(A, 10, now) == "accepted"
    )  # messages are not paid from the quota of Hellos


def test_memory_is_bounded_and_bans_outlive_strangers_that_rest() -> None:
    """A stranger with a new connection for each message does not wash out a ban."""
    limiter = PeerRateLimiter()
    for _ in range(VIOLATIONS_PER_BAN):
        limiter.record_violation(A, 0.0)
    for number in range(100_000):
        limiter.classify_message(str(number).encode(), 10, number / 2_000)
    assert limiter.classify_message(A, 10, 50.0) == "banned"
    assert len(limiter._usages) <= 32_768
