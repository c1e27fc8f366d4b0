"""Message handling before admission: limits, decoding and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs

from common.config import Config
from common.protocol import codec, messages
from learner.server.admission import Admission
from learner.server.message_handler import MessageHandler
from learner.server.rate_limit import VIOLATIONS_PER_BAN, Sender
from learner.server.registry import Replies
from learner.server.scheduler import AdmittedChunk
from tests.support.wire_fuzz import header_of, hello, part

SID, PEER = bytes(range(16)), b"peer"
SENDER = Sender(PEER)
NAMED = Sender(b"hostile peer", key="public key", name="hostile")
GARBAGE = [b"garbage"]


class Handler(MessageHandler):
    """A message handler with its outbox and its admitted chunks."""

    def __init__(self) -> None:
        self.outbox: Replies = []
        self.chunks: list[AdmittedChunk] = []
        self.admission = Admission(Config(), 0, bytes(32))
        super().__init__(self.admission, self.outbox.extend, self.chunks.append)

    def send(self, *sent: messages.Message, sender: Sender = SENDER) -> None:
        for message in sent:
            assert self.handle(sender, codec.encode(message), now=0.0) == 0


@pytest.fixture
def handler() -> Handler:
    return Handler()


def other_version() -> list[bytes]:
    message = hello(SID)
    return [part(message.KIND, header_of(message), major=codec.PROTOCOL_MAJOR + 1)]


def test_replies_leave_in_the_order_of_the_messages_that_they_answer(handler: Handler) -> None:
    handler.send(hello(SID))
    handler.handle(Sender(b"other"), other_version(), 0.0)
    handler.send(messages.Heartbeat(sid=bytes(16), generation=0, produced=0, stats={}))
    assert [(peer, type(reply)) for peer, reply in handler.outbox] == [
        (PEER, messages.Welcome),
        (b"other", messages.Reject),
        (PEER, messages.HelloRequired),
    ]


def test_the_host_name_of_an_actor_writes_no_control_characters_to_the_log(
    handler: Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the log is a terminal, whose renderer does not escape text."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(colors=False)])
    try:
        handler.send(replace(hello(SID), host="\x1b]0;learner stopped\x07\x1b[2J"))
    finally:
        structlog.reset_defaults()
    shown = capsys.readouterr()
    assert "message_refused" in shown.out
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
    assert len(handler.admission.registry.sessions) == 0 and handler.wire_errors["header"] == 1


def test_messages_and_bytes_are_counted_by_kind(handler: Handler) -> None:
    heartbeat = messages.Heartbeat(sid=SID, generation=0, produced=0, stats={})
    handler.send(hello(SID), heartbeat, heartbeat)
    assert {kind: count for kind, count in handler.messages.items() if count} == {"hello": 1, "heartbeat": 2}
    sent = [codec.encode(message) for message in (hello(SID), heartbeat, heartbeat)]
    assert handler.received_bytes == sum(len(frame) for parts in sent for frame in parts)


def test_the_violation_that_exceeds_the_limit_bans_the_connection_and_ends_its_session(
    handler: Handler,
) -> None:
    handler.send(hello(SID))
    handler.outbox.clear()
    for _ in range(VIOLATIONS_PER_BAN):
        assert len(handler.admission.registry.sessions) == 1
        assert handler.handle(SENDER, GARBAGE, 0.0) == 0
    assert handler.wire_errors.total() == VIOLATIONS_PER_BAN and handler.rate_limiter.bans == 1
    assert len(handler.admission.registry.sessions) == 0
    assert handler.handle(SENDER, codec.encode(hello(SID)), 1.0) > 0  # counts as ignored bytes
    assert handler.messages["hello"] == 1
    handler.send(hello(bytes(16)), sender=Sender(b"another connection of the key"))
    assert len(handler.admission.registry.sessions) == 1


def test_a_message_of_another_version_is_answered_and_is_no_violation(handler: Handler) -> None:
    """Its sender may be an honest actor of another release."""
    for _ in range(2 * VIOLATIONS_PER_BAN):
        assert handler.handle(SENDER, other_version(), 0.0) == 0
    assert handler.rate_limiter.bans == 0
    ((peer, reply), *rest) = handler.outbox
    assert peer == PEER and isinstance(reply, messages.Reject) and reply.code == "protocol"
    assert len(rest) == 2 * VIOLATIONS_PER_BAN - 1


def test_only_a_request_for_weights_is_a_message_of_the_weights_port(handler: Handler) -> None:
    request = messages.WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=1)
    assert handler.handle_request(SENDER, codec.encode(request), 0.0) == request
    assert handler.handle_request(SENDER, codec.encode(hello(SID)), 0.0) == 0
    assert handler.wire_errors["kind"] == 1


def test_a_message_of_too_many_parts_is_one_violation_and_uses_the_quota_of_its_sender(
    handler: Handler,
) -> None:
    """Each discarded part counts as a message, so the learner ignores what follows."""
    parts = codec.encode(messages.Heartbeat(sid=SID, generation=0, produced=0, stats={}))
    with capture_logs() as logged:
        assert handler.handle(NAMED, parts, 0.0, excess_parts=50_000, excess_bytes=7) == 0
        assert handler.handle(NAMED, parts, 30.0) > 0
    assert handler.wire_errors["frames"] == 1 and handler.messages["heartbeat"] == 0
    assert [(row["reason"], row["key"]) for row in logged] == [("frames", "hostile"), ("quota", "hostile")]
    assert logged[0]["text"] == "expected 1 or 2 parts, got 50001"
    assert +handler.violations == {"hostile": 2}
    assert handler.received_bytes == 2 * len(parts[0]) + 7
    assert handler.handle(NAMED, parts, 50.0) == 0  # the quota is free again


def test_requests_for_weights_have_the_same_limit_of_parts(handler: Handler) -> None:
    request = messages.WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=1)
    parts = codec.encode(request)
    assert handler.handle_request(SENDER, parts, 0.0, excess_parts=50_000) == 0
    assert handler.wire_errors["frames"] == 1
    assert handler.handle_request(SENDER, parts, 30.0) != request
    assert handler.handle_request(SENDER, parts, 50.0) == request


def test_ignored_messages_of_many_parts_make_the_caller_pause(handler: Handler) -> None:
    """Parts of no bytes also take time."""
    assert handler.handle(SENDER, [b"", b""], 0.0, excess_parts=50_000) == 0
    few, many = (handler.handle(SENDER, [b"", b""], 0.0, excess_parts=parts) for parts in (1, 1_000))
    assert 0 < few < many
    assert many >= 1_000 * 2**12


def test_skips_use_the_quota_of_their_connection_and_an_honest_number_is_accepted(handler: Handler) -> None:
    """A flood of skips of one step each ends with a ban after about a hundred."""
    handler.send(hello(SID), sender=NAMED)
    for number in range(1_000):
        skip = messages.Skip(
            sid=SID, generation=0, offset=number, steps=1, produced=number + 1, reason="oversize"
        )
        handler.handle(NAMED, codec.encode(skip), 0.0)
        if number == 50:
            assert +handler.violations == {}
    assert handler.admission.registry.ledger.totals().produced <= 101
    assert handler.rate_limiter.bans == 1 and +handler.violations == {"hostile": VIOLATIONS_PER_BAN}


def test_ten_skips_a_second_use_no_more_than_the_quota(handler: Handler) -> None:
    """No honest actor drops whole chunks at a higher rate for long."""
    handler.send(hello(SID))
    for number in range(1_000):
        skip = messages.Skip(
            sid=SID, generation=0, offset=number, steps=1, produced=number + 1, reason="oversize"
        )
        handler.handle(SENDER, codec.encode(skip), number * 0.102)
    assert +handler.violations == {}
    assert handler.admission.registry.ledger.totals().dropped == {"oversize": 1_000}


def test_hellos_beyond_the_quota_of_a_key_are_told_when_to_return(handler: Handler) -> None:
    """They are no violation, because a fleet that shares one key may restart at once."""
    refused: list[messages.Reject] = []
    for number in range(20_000):
        sender = Sender(b"%d" % number, key="one key", name="fleet")
        handler.handle(sender, codec.encode(hello(number.to_bytes(16, "big"))), 0.0)
        refused += [reply for _, reply in handler.outbox if isinstance(reply, messages.Reject)]
        handler.outbox.clear()
        if refused:
            break
    (reject,) = refused
    assert reject.code == "full" and reject.retry_after_ms >= 1_000
    assert handler.rate_limiter.bans == 0 and handler.admission.registry.events["full"] == 1
