"""The codec of messages: every message survives a round trip, and other bytes are refused."""

from __future__ import annotations

import typing

import msgpack
import pytest

from common.protocol import codec
from common.protocol import messages as m
from tests.support.wire_fuzz import CORPUS, SID, header_of, part


def test_the_corpus_knows_every_kind() -> None:
    """Therefore the tests below cover every kind of message."""
    assert [type(message) for message in CORPUS] == list(typing.get_args(m.Message))


@pytest.mark.parametrize("message", CORPUS, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: m.Message) -> None:
    """Decoding what was encoded gives an equal value."""
    parts = codec.encode(message)
    decoded = codec.decode(parts)
    assert codec.encode(decoded) == parts
    assert decoded == message


UNPRINTABLE = {
    "escape": "\x1b[2J",
    "line feed": "a\nlearner: stopped",
    "carriage return": "a\rb",
    "null": "\0",
    "delete": "\x7f",
    "C1 control sequence": "\x9b2J",
    "right-to-left override": "a\u202eb",
    "line separator": "a\u2028b",
}
TEXTS = [  # every field of text that a peer supplies
    (type(message), name)
    for message in CORPUS
    for name, hint in typing.get_type_hints(type(message), include_extras=True).items()
    if hint is str or hint == dict[str, float]
]


def test_the_texts_of_peers_are_known() -> None:
    fields = {(kind.__name__, name) for kind, name in TEXTS}
    assert fields == {
        *(("Hello", "host"), ("Hello", "software"), ("Welcome", "software")),
        *(("Reject", "text"), ("Heartbeat", "stats")),
    }


@pytest.mark.parametrize("text", UNPRINTABLE.values(), ids=UNPRINTABLE)
@pytest.mark.parametrize(("kind", "field"), TEXTS, ids=lambda value: getattr(value, "__name__", value))
def test_text_that_is_not_printable_is_refused_and_the_refusal_is_printable(
    kind: type[m.Message], field: str, text: str
) -> None:
    """Such text could move the cursor of a terminal, hide lines or forge lines of a log."""
    [message] = [message for message in CORPUS if type(message) is kind]
    for sent, accepted in (("Zürich 1", True), (text, False)):
        value = {sent: 1.0} if field == "stats" else sent
        parts = [part(kind.KIND, header_of(message) | {field: value}, len(getattr(message, "body", b"")))]
        parts += [message.body] if hasattr(message, "body") else []
        if accepted:
            assert getattr(codec.decode(parts), field) == value
            continue
        with pytest.raises(codec.WireError, match=f"in field {field}") as refused:
            codec.decode(parts)
        assert refused.value.reason == "header" and str(refused.value).isprintable()


REJECT = header_of(CORPUS[2])
ACK = header_of(CORPUS[5])
HEARTBEAT = header_of(CORPUS[8])
NESTED = b"\x81\xaageneration" + b"\x91" * 3000 + b"\xc0"
NOT_UTF8 = msgpack.packb(REJECT | {"text": "x"}).replace(b"\xa1x", b"\xa1\xff")
REFUSED: list[tuple[str, list[bytes], str]] = [
    ("no part", [], "frames"),
    ("three parts", [part(6, ACK), b"", b""], "frames"),
    ("an empty part", [b""], "frames"),
    ("half a preamble", [b"OR\1"], "frames"),
    ("foreign magic", [part(6, ACK, magic=b"RL")], "frames"),
    ("another major version", [part(6, ACK, major=codec.PROTOCOL_MAJOR + 1)], "version"),
    ("an older major version", [part(6, ACK, major=codec.PROTOCOL_MAJOR - 1)], "version"),
    ("an unknown kind", [part(99, ACK)], "kind"),
    ("an announced body that is absent", [part(19, {"name": "bundle"}, body_bytes=3)], "size"),
    ("a body longer than announced", [part(18, header_of(CORPUS[14]), 8), b"\0" * 9], "size"),
    ("a header beyond 4 KiB", [part(6, ACK | {"pad": ["x" * 250] * 20})], "size"),
    ("a missing body", [part(18, header_of(CORPUS[14]))], "frames"),
    ("a body of a kind without one", [part(6, ACK, 1), b"x"], "frames"),
    ("an empty body of a kind without one", [part(6, ACK), b""], "frames"),
    ("no header", [part(6, b"")], "header"),
    ("a header that is no map", [part(6, [1, 2, 3])], "header"),
    ("bytes after the header", [part(6, msgpack.packb(ACK) + b"\0")], "header"),
    ("a cut header", [part(6, msgpack.packb(ACK)[:-1])], "header"),
    ("a missing field", [part(6, {k: v for k, v in ACK.items() if k != "credit"})], "header"),
    ("text for an integer", [part(6, ACK | {"credit": "9"})], "header"),
    ("a bool for an integer", [part(6, ACK | {"credit": True})], "header"),
    ("a float for an integer", [part(6, ACK | {"credit": 1.0})], "header"),
    ("nil for an integer", [part(6, ACK | {"credit": None})], "header"),
    ("an integer below -1", [part(6, ACK | {"version": -2})], "header"),
    ("a huge integer", [part(6, ACK | {"credit": (1 << 64) - 1})], "header"),
    ("an integer for a bool", [part(12, {"finished": 1})], "header"),
    ("a short session name", [part(10, {"sid": SID[:15], "produced": 0})], "header"),
    ("text for a session name", [part(10, {"sid": "x" * 16, "produced": 0})], "header"),
    ("text that is not one of the choices", [part(19, {"name": "policy"})], "header"),
    ("text beyond 256 characters", [part(3, REJECT | {"text": "x" * 257})], "header"),
    ("text that is not UTF-8", [part(3, NOT_UTF8)], "header"),
    ("not a number", [part(9, HEARTBEAT | {"stats": {"a": float("nan")}})], "header"),
    ("infinity", [part(9, HEARTBEAT | {"stats": {"a": float("inf")}})], "header"),
    ("a map of text", [part(9, HEARTBEAT | {"stats": {"a": "b"}})], "header"),
    ("a list for a map", [part(9, HEARTBEAT | {"stats": []})], "header"),
    ("a map of 65", [part(9, HEARTBEAT | {"stats": {str(i): i for i in range(65)}})], "header"),
    ("integer keys", [part(9, {1: 2})], "header"),
    ("deep nesting", [part(6, NESTED)], "header"),
    ("an extension type", [part(6, ACK | {"credit": msgpack.ExtType(5, b"")})], "header"),
    ("a timestamp", [part(6, ACK | {"credit": msgpack.Timestamp(1)})], "header"),
    ("a list for an integer", [part(4, header_of(CORPUS[3]) | {"truncations": []}, 1), b"x"], "header"),
]


@pytest.mark.parametrize(
    ("parts", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_foreign_bytes_are_refused_with_a_reason(parts: list[bytes], reason: str) -> None:
    with pytest.raises(codec.WireError) as caught:
        codec.decode(parts)
    assert caught.value.reason == reason, caught.value


def test_only_the_header_without_a_field_is_refused_for_a_missing_field() -> None:
    """A header of another case that lacked a field would be refused for that reason alone."""
    for name, parts, _ in REFUSED:
        with pytest.raises(codec.WireError) as caught:
            codec.decode(parts)
        assert ("missing" in str(caught.value)) == (name == "a missing field"), name


def test_unknown_fields_are_ignored() -> None:
    """A newer minor version may add fields."""
    assert codec.decode([part(6, ACK | {"later": [1]})]) == CORPUS[5]


def test_a_repeated_key_has_one_value() -> None:
    """The last value counts, as in msgpack."""
    twice = b"\x82" + msgpack.packb("offset") + b"\x05" + msgpack.packb("offset") + b"\x07"
    assert codec.decode([part(7, twice)]) == m.Resend(offset=7)


def test_an_overlong_header_is_not_sent() -> None:
    """The encoder refuses what the decoder would refuse."""
    with pytest.raises(ValueError, match="4096"):
        codec.encode(
            m.Heartbeat(sid=SID, generation=0, produced=0, stats={"x" * 250 + str(i): 1.0 for i in range(20)})
        )
