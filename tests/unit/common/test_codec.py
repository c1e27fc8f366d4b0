"""The codec: every message survives a round trip, and other bytes are refused."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
import typing
import zlib
from collections.abc import Callable

import msgpack
import numpy as np
import pytest

from common.config import RolloutConfig
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from tests.support.wire_fuzz import CORPUS, SID, header_of, part

ROLLOUT = RolloutConfig(steps=4, lanes=2, batch_lanes=2)
IMAGES, VECTORS = Spaces((84, 84), 4, 7), Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 3, ((-2.0, 2.0),) * 3)


def chunk_message(chunk: Chunk) -> m.ChunkMessage:
    """The message of a chunk, as an actor makes it."""
    return codec.pack(chunk).message(
        sid=SID,
        generation=0,
        version=0,
        offset=0,
        steps=chunk.reward.size,
        produced=chunk.reward.size,
        fresh=True,
    )


def same_arrays(one: Chunk, other: Chunk) -> bool:
    """Whether types, shapes and bits are equal."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Chunk)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_corpus_knows_every_kind() -> None:
    """So the tests below cover every kind of message."""
    assert [type(message) for message in CORPUS] == list(typing.get_args(m.Message))


@pytest.mark.parametrize("message", CORPUS, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: m.Message) -> None:
    """Decoding what was encoded gives an equal value."""
    parts = codec.encode(message)
    decoded = codec.decode(parts)
    assert codec.encode(decoded) == parts
    assert decoded == message


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "continuous"])
def test_chunks_survive_the_wire_bit_for_bit(spaces: Spaces, make_chunk: Callable[..., Chunk]) -> None:
    """Terminations, truncations with their final observations, and history rows are unchanged."""
    chunk = make_chunk(4, 2, spaces, 1, terminated=[(0, 0), (3, 1)], truncated=[(1, 1), (1, 0), (3, 0)])
    before = chunk.observation.copy()
    message = codec.decode(codec.encode(chunk_message(chunk)))
    assert isinstance(message, m.ChunkMessage)
    assert same_arrays(codec.unpack(message, ROLLOUT, spaces), chunk)
    np.testing.assert_array_equal(chunk.observation, before)  # encoding does not touch its input


def test_images_survive_where_their_words_do_not_fill_the_last_byte_of_bits(
    make_chunk: Callable[..., Chunk],
) -> None:
    """7 images have 6,174 words of eight bytes, and a bit for each."""
    chunk = make_chunk(3, 1, IMAGES, 1)
    rollout = RolloutConfig(steps=3, lanes=1, batch_lanes=1)
    assert chunk.observation.nbytes // 8 % 8 != 0
    assert same_arrays(codec.unpack(chunk_message(chunk), rollout, IMAGES), chunk)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "continuous"])
def test_the_checksum_covers_the_whole_body(spaces: Spaces, make_chunk: Callable[..., Chunk]) -> None:
    packed = codec.pack(make_chunk(4, 2, spaces, 1))
    assert packed.crc == zlib.crc32(packed.body)


def test_still_images_cost_almost_nothing(make_chunk: Callable[..., Chunk]) -> None:
    """An image that equals the one before it has no changed words, so a still lane costs about one image."""
    chunk = make_chunk(4, 2, IMAGES, 1)
    still = dataclasses.replace(chunk, observation=np.repeat(chunk.observation[:1], 8, axis=0))
    assert len(codec.pack(still).body) < 2 * 84 * 84 * 1.2 < len(codec.pack(chunk).body)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "continuous"])
def test_noise_stays_below_the_message_limit(spaces: Spaces, make_chunk: Callable[..., Chunk]) -> None:
    """Data that does not compress fits into the limit, too."""
    every = [(t, lane) for t in range(4) for lane in range(2)]
    chunk = make_chunk(4, 2, spaces, 2, truncated=every[:2] if spaces.is_image else every)
    limit = codec.message_limit_bytes(ROLLOUT, spaces)
    assert max(map(len, codec.encode(chunk_message(chunk)))) < limit


REJECT = header_of(CORPUS[2])
ACK = header_of(CORPUS[5])
BEAT = header_of(CORPUS[8])
NESTED = b"\x81\xa5epoch" + b"\x91" * 3000 + b"\xc0"
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
    ("a length that lies", [part(19, {"name": "bundle"}, body_bytes=3)], "size"),
    ("a body longer than told", [part(18, header_of(CORPUS[14]), 8), b"\0" * 9], "size"),
    ("a header beyond 4 KiB", [part(6, ACK | {"pad": ["x" * 250] * 20})], "size"),
    ("no body where one belongs", [part(18, header_of(CORPUS[14]))], "frames"),
    ("a body where none belongs", [part(6, ACK, 1), b"x"], "frames"),
    ("an empty body where none belongs", [part(6, ACK), b""], "frames"),
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
    ("a choice not offered", [part(19, {"name": "policy"})], "header"),
    ("text beyond 256 characters", [part(3, REJECT | {"text": "x" * 257})], "header"),
    ("text that is not UTF-8", [part(3, NOT_UTF8)], "header"),
    ("not a number", [part(9, BEAT | {"stats": {"a": float("nan")}})], "header"),
    ("infinity", [part(9, BEAT | {"stats": {"a": float("inf")}})], "header"),
    ("a map of text", [part(9, BEAT | {"stats": {"a": "b"}})], "header"),
    ("a list for a map", [part(9, BEAT | {"stats": []})], "header"),
    ("a map of 65", [part(9, BEAT | {"stats": {str(i): i for i in range(65)}})], "header"),
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
    """The reason tells what is wrong."""
    with pytest.raises(codec.WireError) as caught:
        codec.decode(parts)
    assert caught.value.reason == reason, caught.value


def test_no_header_is_refused_only_for_a_field_that_it_lacks() -> None:
    """Otherwise a case above would not test what its name says."""
    for name, parts, _ in REFUSED:
        with pytest.raises(codec.WireError) as caught:
            codec.decode(parts)
        assert ("missing" in str(caught.value)) == (name == "a missing field"), name


def test_unknown_fields_are_ignored() -> None:
    """A newer minor version may add fields."""
    assert codec.decode([part(6, ACK | {"later": [1]})]) == CORPUS[5]


def test_a_repeated_key_has_one_value() -> None:
    """The last one, as in msgpack."""
    twice = b"\x82" + msgpack.packb("offset") + b"\x05" + msgpack.packb("offset") + b"\x07"
    assert codec.decode([part(7, twice)]) == m.Resend(offset=7)


def test_an_overlong_header_is_not_sent() -> None:
    """The encoder refuses what the decoder would refuse."""
    with pytest.raises(ValueError, match="4096"):
        codec.encode(
            m.Heartbeat(sid=SID, generation=0, produced=0, stats={"x" * 250 + str(i): 1.0 for i in range(20)})
        )


SEEN = 8 * 2 * 84 * 84  # bytes of the 8 rows, 2 lanes that 4 steps and a stack of 4 make
BITS = SEEN // 64
OTHERS = {"final_observation": 84 * 84, "action": 32, "log_prob": 32, "reward": 32, "bonus": 32}
OTHERS |= {"terminated": 8, "truncated": 8}  # bytes of each with one truncation, in this order


def rebuilt(message: m.ChunkMessage, seen: bytes | None, others: bytes | None) -> m.ChunkMessage:
    """The message with one or both streams replaced."""
    length = message.observation_bytes
    seen = message.body[:length] if seen is None else seen
    others = message.body[length:] if others is None else others
    return dataclasses.replace(message, observation_bytes=len(seen), body=seen + others)


def changed(message: m.ChunkMessage, array: str, value: bytes) -> bytes:
    """The stream of the other arrays; `array` begins with the bytes `value`."""
    raw = bytearray(zlib.decompress(message.body[message.observation_bytes :]))
    assert len(raw) == sum(OTHERS.values())
    names = list(OTHERS)
    start = sum(OTHERS[name] for name in names[: names.index(array)])
    raw[start : start + len(value)] = value
    return zlib.compress(raw)


VALUES: list[tuple[str, str, bytes]] = [
    ("an end of 2", "terminated", b"\2"),
    ("a cut of 255", "truncated", b"\xff"),
    ("an action out of range", "action", struct.pack("<i", 7)),
    ("a negative action", "action", struct.pack("<i", -1)),
    ("a reward that is no number", "reward", struct.pack("<f", np.nan)),
    ("an infinite reward", "reward", struct.pack("<f", -np.inf)),
    ("a positive log-probability", "log_prob", struct.pack("<f", 0.1)),
    ("a negative bonus", "bonus", struct.pack("<f", -0.1)),
    ("both ends at once", "terminated", b"\0\1"),
    ("an end without its observation", "truncated", b"\1"),
    ("a final observation without its end", "truncated", b"\0\0"),
]


@pytest.mark.parametrize(("array", "value"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_that_lie_are_refused(array: str, value: bytes, make_chunk: Callable[..., Chunk]) -> None:
    """Values outside of their range are refused."""
    message = chunk_message(make_chunk(4, 2, IMAGES, 3, truncated=[(0, 1)]))
    codec.unpack(rebuilt(message, None, changed(message, array, b"")), ROLLOUT, IMAGES)
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(rebuilt(message, None, changed(message, array, value)), ROLLOUT, IMAGES)
    assert caught.value.reason == "array"


WHOLE = sum(OTHERS.values()) - OTHERS["final_observation"]
STREAMS: list[tuple[str, bytes | None, bytes | None]] = [
    ("no stream", None, b""),
    ("no video", b"", None),
    ("a stream of another format", None, b"\x1f\x8b" + bytes(30)),
    ("too few bytes", None, zlib.compress(bytes(WHOLE - 1))),
    ("too many bytes", None, zlib.compress(bytes(WHOLE + 1))),
    ("a cut stream", None, zlib.compress(bytes(WHOLE))[:-1]),
    ("bytes after the stream", None, zlib.compress(bytes(WHOLE)) + b"x"),
    ("a cut video", zlib.compress(bytes(BITS))[:-1], None),
    ("a video without some of its bits", zlib.compress(bytes(BITS - 1)), None),
    ("a change without its word", zlib.compress(b"\x80" + bytes(BITS - 1)), None),
    ("a word without its change", zlib.compress(bytes(8 + BITS)), None),
    ("half a word", zlib.compress(bytes(4) + b"\x80" + bytes(BITS - 1)), None),
]


@pytest.mark.parametrize(
    ("seen", "others"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS]
)
def test_streams_that_lie_are_refused(
    seen: bytes | None, others: bytes | None, make_chunk: Callable[..., Chunk]
) -> None:
    """Damaged streams and streams of another length are refused."""
    message = chunk_message(make_chunk(4, 2, IMAGES, 3))
    codec.unpack(rebuilt(message, zlib.compress(bytes(BITS)), zlib.compress(bytes(WHOLE))), ROLLOUT, IMAGES)
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(rebuilt(message, seen, others), ROLLOUT, IMAGES)
    assert caught.value.reason == "array"


@pytest.mark.parametrize("truncations", [-1, 0, 2, 8, 9, 1 << 40])
@pytest.mark.parametrize("spaces", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_another_count_of_final_observations_is_refused(
    truncations: int, spaces: Spaces, make_chunk: Callable[..., Chunk]
) -> None:
    """There is one final observation for each truncation in the arrays."""
    message = chunk_message(make_chunk(4, 2, spaces, 3, truncated=[(0, 1)]))
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(dataclasses.replace(message, truncations=truncations), ROLLOUT, spaces)
    assert caught.value.reason == "array"


@pytest.mark.parametrize("length", [-1, 0, 40, 1 << 40])
@pytest.mark.parametrize("spaces", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_another_length_of_the_observations_is_refused(
    length: int, spaces: Spaces, make_chunk: Callable[..., Chunk]
) -> None:
    """The header tells where the first stream of the body ends."""
    message = chunk_message(make_chunk(4, 2, spaces, 3))
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(dataclasses.replace(message, observation_bytes=length), ROLLOUT, spaces)
    assert caught.value.reason == "array"


def test_a_chunk_of_other_spaces_is_refused(make_chunk: Callable[..., Chunk]) -> None:
    """Sizes come from the configuration, never from the message."""
    message = chunk_message(make_chunk(4, 2, VECTORS, 3))
    for spaces in (dataclasses.replace(VECTORS, observation=(6,)), IMAGES):
        with pytest.raises(codec.WireError) as caught:
            codec.unpack(message, ROLLOUT, spaces)
        assert caught.value.reason == "array"


def test_vectors_that_are_not_finite_are_refused(make_chunk: Callable[..., Chunk]) -> None:
    """One such number would make the observation statistics useless."""
    chunk = make_chunk(4, 2, VECTORS, 3)
    chunk.observation[2, 1, 3] = np.nan
    with pytest.raises(codec.WireError, match="finite"):
        codec.unpack(chunk_message(chunk), ROLLOUT, VECTORS)


def test_continuous_actions_may_be_any_finite_number_of_any_density(make_chunk: Callable[..., Chunk]) -> None:
    """Actions are sent as sampled, also beyond the bounds, and a density may exceed 1."""
    chunk = make_chunk(4, 2, TORQUES, 3)
    chunk.action[1, 0] = [-1e6, 2.5, 0.0]
    chunk.log_prob[1, 0] = 7.5
    assert same_arrays(codec.unpack(chunk_message(chunk), ROLLOUT, TORQUES), chunk)
    for name in ("action", "log_prob"):
        for bad in (np.nan, np.inf):
            chunk = make_chunk(4, 2, TORQUES, 3)
            getattr(chunk, name)[2, 1] = bad
            with pytest.raises(codec.WireError, match="finite"):
                codec.unpack(chunk_message(chunk), ROLLOUT, TORQUES)


@pytest.mark.parametrize(("ours", "theirs"), [(VECTORS, TORQUES), (TORQUES, VECTORS)])
def test_actions_of_the_other_kind_are_refused(
    ours: Spaces, theirs: Spaces, make_chunk: Callable[..., Chunk]
) -> None:
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(chunk_message(make_chunk(4, 2, theirs, 3)), ROLLOUT, ours)
    assert caught.value.reason == "array"


@pytest.mark.parametrize("stream", ["seen", "others"])
def test_a_zip_bomb_does_not_go_off(stream: str, make_chunk: Callable[..., Chunk]) -> None:
    """Decompression stops at the size of the arrays."""
    message = chunk_message(make_chunk(4, 2, IMAGES, 3))
    bomb = rebuilt(message, **{"seen": None, "others": None} | {stream: zlib.compress(bytes(1 << 25), 1)})
    tracemalloc.start()
    try:
        with pytest.raises(codec.WireError):
            codec.unpack(bomb, ROLLOUT, IMAGES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
