"""Many violations ban a peer for a while; a few violations, or a burst of messages, do not."""

from __future__ import annotations

from learner.server.rate_limit import BAN_SECONDS, VIOLATION_SECONDS, VIOLATIONS_PER_BAN, PeerRateLimiter

A, B = b"a", b"b"


def test_ten_violations_within_a_minute_are_a_ban_of_a_minute() -> None:
    """The ban is of that peer alone; after it the count begins at 0."""
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


def test_violations_far_apart_are_no_ban() -> None:
    """A connection that damages a message at times does not lose its session."""
    limiter = PeerRateLimiter()
    step = VIOLATION_SECONDS / (VIOLATIONS_PER_BAN - 1) + 0.01
    assert not any(limiter.record_violation(A, number * step) for number in range(1_000))


def test_a_quota_accepts_a_burst_and_bounds_the_rate_of_a_flood() -> None:
    """The rate is 1,000 messages or 32 MiB a second; both use the same quota."""
    limiter = PeerRateLimiter()
    assert [limiter.classify_message(A, 0, 0.0) for _ in range(10_000)].count("accepted") == 10_000
    accepted = sum(limiter.classify_message(B, 2**20, second / 100) == "accepted" for second in range(6_000))
    assert 0.95 < accepted / (32 * (60 + 10) / (1 + 32 / 1_000)) < 1.05
    flood = [limiter.classify_message(A, 0, 20.0 + number / 20_000) for number in range(100_000)]
    assert 14_000 < flood.count("accepted") < 16_000
    assert flood.count("banned") == 0  # the caller decides which of them are violations


def test_a_message_larger_than_the_quota_is_accepted() -> None:
    """The next messages wait for it, so a run with very large chunks is slow, but it continues."""
    limiter = PeerRateLimiter()
    assert limiter.classify_message(A, 2**30, 0.0) == "accepted"
    assert limiter.classify_message(A, 10, 0.0) == "excess"
    assert limiter.classify_message(A, 10, 23.0) == "accepted"


def test_weights_beyond_the_quota_are_sent_later_without_a_violation() -> None:
    """A fleet that shares one key may request more than its quota; it gets the rest later."""
    limiter = PeerRateLimiter()
    sent = sum(limiter.allow_send(A, 2**20, second / 1_000) for second in range(20_000))
    assert 0.95 < sent / (256 * (20 + 10)) < 1.05
    assert limiter.classify_message(A, 10, 20.0) == "accepted"


def test_hellos_of_a_key_beyond_its_quota_wait_without_a_violation() -> None:
    """A fleet of any size joins: each actor that waits repeats its Hello after the time that it is told."""
    limiter, now, waiting, joined = PeerRateLimiter(), 0.0, [0.0] * 20_000, 0
    while waiting:
        now = min(waiting)
        pauses = [limiter.allow_hello(A, now) for due in waiting if due <= now]
        joined += pauses.count(0.0)
        waiting = [due for due in waiting if due > now] + [now + pause for pause in pauses if pause]
    assert joined == 20_000
    assert now < 40.0  # 500 each second, and 5,000 at once
    assert limiter.bans == 0
    assert limiter.classify_message(A, 10, now) == "accepted"  # Hellos have a quota of their own


def test_memory_is_bounded_and_a_ban_survives_many_new_connections() -> None:
    """A peer with a new connection for each message does not push a ban out of memory."""
    limiter = PeerRateLimiter()
    for _ in range(VIOLATIONS_PER_BAN):
        limiter.record_violation(A, 0.0)
    for number in range(100_000):
        limiter.classify_message(str(number).encode(), 10, number / 2_000)
    assert limiter.classify_message(A, 10, 50.0) == "banned"
    assert len(limiter._usages) <= 32_768
