"""The codec of chunks: arrays survive a round trip, and other streams and values are refused."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from common.config import RolloutConfig
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.chunk import VALUE_LIMIT, Chunk
from common.spaces import Spaces
from tests.support.chunk_messages import IMAGES, TORQUES, VECTORS, chunk_message, same_arrays

ROLLOUT = RolloutConfig(steps=4, lanes=2, batch_lanes=2)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "continuous"])
def test_chunks_survive_the_wire_bit_for_bit(spaces: Spaces, make_chunk: Callable[..., Chunk]) -> None:
    """Terminations, truncations with their final observations, and history rows are unchanged."""
    chunk = make_chunk(4, 2, spaces, 1, terminated=[(0, 0), (3, 1)], truncated=[(1, 1), (1, 0), (3, 0)])
    before = chunk.observation.copy()
    message = codec.decode(codec.encode(chunk_message(chunk)))
    assert isinstance(message, m.ChunkMessage)
    assert same_arrays(codec.unpack(message, ROLLOUT, spaces), chunk)
    np.testing.assert_array_equal(chunk.observation, before)  # encoding does not change its input


def test_images_survive_where_their_words_do_not_fill_the_last_byte_of_bits(
    make_chunk: Callable[..., Chunk],
) -> None:
    """7 images have 6,174 words of eight bytes, and a bit for each."""
    chunk = make_chunk(3, 1, IMAGES, 1)
    rollout = RolloutConfig(steps=3, lanes=1, batch_lanes=1)
    assert chunk.observation.nbytes // 8 % 8 != 0
    assert same_arrays(codec.unpack(chunk_message(chunk), rollout, IMAGES), chunk)


def test_a_flipped_bit_of_any_part_of_a_chunk_message_is_found(make_chunk: Callable[..., Chunk]) -> None:
    """The message is refused, or its checksum differs, or its fields are those that were sent."""
    whole = chunk_message(make_chunk(4, 2, VECTORS, 1, truncated=[(1, 1)]))
    assert codec.checksum(whole) == whole.crc
    changed = 0
    for part, data in enumerate(parts := codec.encode(whole)):
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            try:
                message = codec.decode([*parts[:part], bytes(flipped), *parts[part + 1 :]])
            except codec.WireError:
                continue
            assert isinstance(message, m.ChunkMessage)
            assert codec.checksum(message) != message.crc or message == whole
            changed += message != whole
    assert changed > 8 * len(whole.body)  # bits of the body and of header fields


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(m.ChunkMessage) if field.name != "crc"]
)
def test_the_checksum_covers_each_field_of_a_chunk_message(
    field: str, make_chunk: Callable[..., Chunk]
) -> None:
    message = chunk_message(make_chunk(4, 2, VECTORS, 1))
    value: Any = getattr(message, field)
    other: Any = bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else type(value)(value ^ 1)
    assert codec.checksum(dataclasses.replace(message, **{field: other})) != message.crc


def test_repeated_images_need_almost_no_space(make_chunk: Callable[..., Chunk]) -> None:
    """An image that equals the previous one has no changed words, so it needs no bytes but its bits."""
    chunk = make_chunk(4, 2, IMAGES, 1)
    repeated = dataclasses.replace(chunk, observation=np.repeat(chunk.observation[:1], 8, axis=0))
    assert len(codec.pack(repeated).body) < 2 * 84 * 84 * 1.2 < len(codec.pack(chunk).body)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "continuous"])
def test_noise_stays_below_the_message_limit(spaces: Spaces, make_chunk: Callable[..., Chunk]) -> None:
    """Messages of data that does not compress also fit into the limit."""
    every = [(t, lane) for t in range(4) for lane in range(2)]
    chunk = make_chunk(4, 2, spaces, 2, truncated=every[:2] if spaces.is_image else every)
    limit = codec.message_limit_bytes(ROLLOUT, spaces)
    assert max(map(len, codec.encode(chunk_message(chunk)))) < limit


WORDS = 8 * 2 * 84 * 84 // 8  # of 8 rows (4 steps and a history of 4) and 2 lanes; a word is 8 bytes
BITS_BYTES = WORDS // 8  # a bit for each word
# The bytes of the other arrays, with one truncation, in their order.
SIZES_BYTES = {"final_observation": 84 * 84, "action": 32, "log_prob": 32, "reward": 32, "bonus": 32}
SIZES_BYTES |= dict.fromkeys(("terminated", "truncated", "life_lost", "room"), 8)


def rebuilt(message: m.ChunkMessage, observations: bytes | None, others: bytes | None) -> m.ChunkMessage:
    """Replace one or both streams of a message: the observations, and the other arrays."""
    length = message.observation_bytes
    observations = message.body[:length] if observations is None else observations
    others = message.body[length:] if others is None else others
    return dataclasses.replace(message, observation_bytes=len(observations), body=observations + others)


def changed(message: m.ChunkMessage, array: str, value: bytes) -> bytes:
    """The stream of the other arrays, with the first bytes of `array` replaced by `value`."""
    raw = bytearray(zlib.decompress(message.body[message.observation_bytes :]))
    assert len(raw) == sum(SIZES_BYTES.values())
    names = list(SIZES_BYTES)
    start = sum(SIZES_BYTES[name] for name in names[: names.index(array)])
    raw[start : start + len(value)] = value
    return zlib.compress(raw)


VALUES: list[tuple[str, str, bytes]] = [
    ("a termination flag of 2", "terminated", b"\2"),
    ("a truncation flag of 255", "truncated", b"\xff"),
    ("a lost-life flag of 2", "life_lost", b"\2"),
    ("an action out of range", "action", struct.pack("<i", 7)),
    ("a negative action", "action", struct.pack("<i", -1)),
    ("a reward that is not a number", "reward", struct.pack("<f", np.nan)),
    ("an infinite reward", "reward", struct.pack("<f", -np.inf)),
    ("a positive log-probability", "log_prob", struct.pack("<f", 0.1)),
    ("a negative bonus", "bonus", struct.pack("<f", -0.1)),
    ("a termination and a truncation of one step", "terminated", b"\0\1"),
    ("a truncation without a final observation", "truncated", b"\1"),
    ("a final observation without a truncation", "truncated", b"\0\0"),
]


@pytest.mark.parametrize(("array", "value"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_out_of_range_are_refused(array: str, value: bytes, make_chunk: Callable[..., Chunk]) -> None:
    message = chunk_message(make_chunk(4, 2, IMAGES, 3, truncated=[(0, 1)]))
    codec.unpack(rebuilt(message, None, changed(message, array, b"")), ROLLOUT, IMAGES)
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(rebuilt(message, None, changed(message, array, value)), ROLLOUT, IMAGES)
    assert caught.value.reason == "array"


OTHERS_BYTES = sum(SIZES_BYTES.values()) - SIZES_BYTES["final_observation"]
STREAMS: list[tuple[str, bytes | None, bytes | None]] = [
    ("no other arrays", None, b""),
    ("no observations", b"", None),
    ("a stream of another format", None, b"\x1f\x8b" + bytes(30)),
    ("too few bytes", None, zlib.compress(bytes(OTHERS_BYTES - 1))),
    ("too many bytes", None, zlib.compress(bytes(OTHERS_BYTES + 1))),
    ("a cut stream", None, zlib.compress(bytes(OTHERS_BYTES))[:-1]),
    ("bytes after the stream", None, zlib.compress(bytes(OTHERS_BYTES)) + b"x"),
    ("a cut stream of observations", zlib.compress(bytes(BITS_BYTES))[:-1], None),
    ("observations without some of their bits", zlib.compress(bytes(BITS_BYTES - 1)), None),
    ("a change without its word", zlib.compress(b"\x80" + bytes(BITS_BYTES - 1)), None),
    ("a word without its change", zlib.compress(bytes(8 + BITS_BYTES)), None),
    ("half a word", zlib.compress(bytes(4) + b"\x80" + bytes(BITS_BYTES - 1)), None),
]


@pytest.mark.parametrize(
    ("observations", "others"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS]
)
def test_damaged_streams_are_refused(
    observations: bytes | None, others: bytes | None, make_chunk: Callable[..., Chunk]
) -> None:
    message = chunk_message(make_chunk(4, 2, IMAGES, 3))
    codec.unpack(
        rebuilt(message, zlib.compress(bytes(BITS_BYTES)), zlib.compress(bytes(OTHERS_BYTES))),
        ROLLOUT,
        IMAGES,
    )
    with pytest.raises(codec.WireError) as caught:
        codec.unpack(rebuilt(message, observations, others), ROLLOUT, IMAGES)
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
    """One such number would make the mean and variance of the observations NaN or infinite."""
    chunk = make_chunk(4, 2, VECTORS, 3)
    chunk.observation[2, 1, 3] = np.nan
    with pytest.raises(codec.WireError, match="finite"):
        codec.unpack(chunk_message(chunk), ROLLOUT, VECTORS)


@pytest.mark.parametrize("value", [1.01e6, -3e38, np.inf, np.nan])
@pytest.mark.parametrize("name", ["observation", "final_observation", "log_prob", "reward", "bonus"])
def test_numbers_beyond_the_limit_are_refused(
    name: str, value: float, make_chunk: Callable[..., Chunk]
) -> None:
    """Their squares or exponentials would make the update of the whole batch infinite."""
    message = chunk_message(with_value(make_chunk(4, 2, TORQUES, 3, truncated=[(0, 1)]), name, value))
    with pytest.raises(codec.WireError, match=f"within 1e\\+06 in {name}"):
        codec.unpack(message, ROLLOUT, TORQUES)


@pytest.mark.parametrize("name", ["observation", "final_observation", "log_prob", "reward", "bonus"])
def test_numbers_at_the_limit_are_accepted(name: str, make_chunk: Callable[..., Chunk]) -> None:
    chunk = with_value(make_chunk(4, 2, TORQUES, 3, truncated=[(0, 1)]), name, VALUE_LIMIT)
    assert same_arrays(codec.unpack(chunk_message(chunk), ROLLOUT, TORQUES), chunk)


def with_value(chunk: Chunk, name: str, value: float) -> Chunk:
    """The chunk with `value` as the last number of one array."""
    getattr(chunk, name).reshape(-1)[-1] = value
    return chunk


def test_continuous_actions_may_be_any_finite_numbers_and_a_density_may_exceed_1(
    make_chunk: Callable[..., Chunk],
) -> None:
    """Actions are sent as sampled, also beyond the bounds; wide bounds make the density of a draw small."""
    chunk = make_chunk(4, 2, TORQUES, 3)
    chunk.action[1, 0] = [-1e9, 2.5, 0.0]
    chunk.log_prob[1, :] = [7.5, -17 * np.log(2e3)]
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


@pytest.mark.parametrize("stream", ["observations", "others"])
def test_a_zip_bomb_is_not_decompressed_whole(stream: str, make_chunk: Callable[..., Chunk]) -> None:
    """Decompression stops at the size of the arrays."""
    message = chunk_message(make_chunk(4, 2, IMAGES, 3))
    bomb = rebuilt(
        message, **{"observations": None, "others": None} | {stream: zlib.compress(bytes(1 << 25), 1)}
    )
    tracemalloc.start()
    try:
        with pytest.raises(codec.WireError):
            codec.unpack(bomb, ROLLOUT, IMAGES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
