"""Messages as nobody honest sends them: one of each kind, and seeded damage to it."""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Sequence

import msgpack

from common import messages as m
from common import wire

SID, DIGEST = bytes(range(16)), bytes(range(32))
CORPUS: list[m.Message] = [
    m.Hello(SID, -1, "wirt-ü", 4711, "0.1.0", 10, 23),
    m.Welcome(SID, 2, 1, 3, 40, 30, 50, -1, DIGEST, 2000, 10_000, b'{"a": 1}'),
    m.Reject("lost", "begin a new one"),
    m.ChunkMessage(SID, 2, 5, 40, 15, 57, 1, 3, 0xFFFFFFFF, b"body"),
    m.Skip(SID, 2, 55, 2, 57, "actor_shutdown"),
    m.Ack(2, 57, 40, 72, 6),
    m.Resend(40),
    m.Rehello(3),
    m.Heartbeat(SID, 2, 57, {"steps_per_second": 3.5, "phase_env": 1}),
    m.Bye(SID, 57),
    m.ByeOk(),
    m.Drain(True),
    m.WeightsRequest("bundle", 2, 5, 0, 4),
    m.WeightsMeta("target", 0, 0, 1 << 40, 7, DIGEST),
    m.WeightsPiece("bundle", 2, 5, 3, b"\0" * 9),
    m.WeightsSame("target"),
]


def header_of(message: m.Message) -> dict[str, object]:
    """The header fields of a message, as the wire carries them."""
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "body"}


def part(
    kind: int,
    header: object,
    body_bytes: int = 0,
    magic: bytes = b"OR",
    major: int = wire.PROTOCOL_MAJOR,
) -> bytes:
    """A first part, honest or not; `header` is bytes or packed here."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack(">2sBBI", magic, major, kind, body_bytes) + packed


def nested(depth: int) -> object:
    """Lists in lists."""
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


_NASTY: list[object] = [
    *(
        None,
        True,
        -1,
        -2,
        1 << 62,
        (1 << 63) - 1,
        (1 << 64) - 1,
        -(1 << 63),
        0.5,
        float("nan"),
        float("-inf"),
    ),
    *("", "lost", "x" * 256, "x" * 300, b"", SID, bytes(64), bytes(65), [], [[]], {}, {1: 1}, {"a": {}}),
    *([{}] * 64, [[[]] * 64] * 16, [0] * 65, nested(200), nested(900), {"a": float("inf")}, {b"a": 1}),
    *([["a", -1]], [["a", [1 << 61] * 64]] * 64),
    *(msgpack.ExtType(5, b""), msgpack.Timestamp(1), {str(i): i for i in range(64)}),
]
_SIZES = (-1, 0, 1, 2, 5, 17, 1 << 31, 1 << 40, (1 << 62) - 1)
_BOMB = zlib.compress(bytes(1 << 24), 9)  # 16 MiB in 16 KB
_VALUES = [struct.pack("<f", x) for x in (float("nan"), float("inf"), -1e30, 0.1, -1.0)] + [
    struct.pack("<i", x) for x in (-1, 1, 7, 1 << 30, -(1 << 31))
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four random edits: flipped bits, foreign bytes, deletions, insertions, cuts."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                del out[at : at + rng.randrange(1, 9)]
            case 3:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4 if rng.random() < 0.2:
                del out[at:]
    return bytes(out)


def mutant(message: m.Message, parts: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """The parts of a message with one kind of damage; `parts` are the intact ones."""
    out = list(parts)
    match rng.randrange(6):
        case 0:  # anywhere
            at = rng.randrange(len(out))
            out[at] = mutated(out[at], rng)
        case 1:  # behind an intact preamble
            out[0] = out[0][:8] + mutated(out[0][8:], rng)
        case 2:  # the preamble
            out[0] = mutated(out[0][:8], rng)[:8].ljust(8, b"\0") + out[0][8:]
        case 3 | 4:  # a well-formed header with one wrong value, or one too many
            fields = header_of(message)
            fields[rng.choice([*fields, "later"])] = rng.choice(_NASTY)
            out[0] = part(message.KIND, fields, len(b"".join(out[1:])))
        case 5:  # parts of different messages
            out = [out[0], *wire.encode(rng.choice(CORPUS))][: rng.randrange(1, 4)]
    return out


def mutant_chunk(message: m.ChunkMessage, rng: random.Random) -> m.ChunkMessage:
    """A chunk whose header is in order, and whose sizes, streams or values are not."""
    blocks = [message.body[: message.observation_bytes], message.body[message.observation_bytes :]]
    truncations, length = message.truncations, None
    at = rng.randrange(2)
    match rng.randrange(6):
        case 0:
            blocks = [mutated(message.body, rng), b""]
            length = message.observation_bytes
        case 1:
            truncations = rng.choice([*_SIZES, truncations - 1, truncations + 1])
        case 2:
            length = rng.choice([*_SIZES, len(blocks[0]) - 1, len(blocks[0]) + 1, len(message.body)])
        case 3:
            blocks.reverse()
        case 4:
            block = blocks[at]
            blocks[at] = rng.choice([b"", _BOMB, block * 2, block + b"\0", block[:-4], zlib.compress(b"")])
        case _:
            raw = bytearray(zlib.decompress(blocks[at]))
            place = 4 * rng.randrange(max(1, len(raw) // 4))
            raw[place : place + 4] = rng.choice(_VALUES)
            blocks[at] = zlib.compress(raw, 1)
    return dataclasses.replace(
        message,
        truncations=truncations,
        observation_bytes=len(blocks[0]) if length is None else length,
        body=b"".join(blocks),
        crc=zlib.crc32(b"".join(blocks)),
    )
