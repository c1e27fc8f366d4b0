"""Messages for tests: a Hello, one message of each kind, and seeded damage to them."""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Sequence

import msgpack

from common.protocol import codec
from common.protocol import messages as m

SID, DIGEST = bytes(range(16)), bytes(range(32))
CORPUS: list[m.Message] = [
    m.Hello(
        sid=SID,
        generation=-1,
        host="wirt-ü",
        pid=4711,
        software="0.1.0",
        base=10,
        produced=23,
        former={DIGEST[:16]: 7},
    ),
    m.Welcome(
        sid=SID,
        generation=2,
        slot=1,
        incarnation=3,
        received=40,
        settled=30,
        credit=50,
        version=-1,
        target=DIGEST,
        heartbeat_ms=2000,
        lease_ms=10_000,
        software="0.1.0",
        body=b'{"a": 1}',
    ),
    m.Reject(code="lost", text="start a new session"),
    m.ChunkMessage(
        sid=SID,
        generation=2,
        version=5,
        offset=40,
        steps=15,
        produced=57,
        fresh=True,
        truncations=1,
        observation_bytes=3,
        crc=0xFFFFFFFF,
        body=b"body",
    ),
    m.Skip(sid=SID, generation=2, offset=55, steps=2, produced=57, reason="actor_shutdown"),
    m.Ack(generation=2, received=57, settled=40, credit=72, version=6),
    m.Resend(offset=40),
    m.HelloRequired(generation=3),
    m.Heartbeat(sid=SID, generation=2, produced=57, stats={"steps_per_second": 3.5, "phase_env": 1}),
    m.Bye(sid=SID, produced=57),
    m.ByeAck(),
    m.Drain(finished=True),
    m.WeightsRequest(name="bundle", generation=2, version=5, piece=0, count=4),
    m.WeightsMeta(name="target", generation=0, version=0, size=1 << 40, pieces=7, digest=DIGEST),
    m.WeightsPiece(name="bundle", generation=2, version=5, piece=3, body=b"\0" * 9),
    m.WeightsUnchanged(name="target"),
]


def hello(sid: bytes, generation: int = -1, base: int = 0, produced: int = 0) -> m.Hello:
    """The Hello of a new session, or of one that rejoins with `generation`, `base` and `produced`."""
    return m.Hello(
        sid=sid,
        generation=generation,
        host="host",
        pid=1,
        software="0",
        base=base,
        produced=produced,
        former={},
    )


def header_of(message: m.Message) -> dict[str, object]:
    """The fields of a message that its header contains."""
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "body"}


def part(
    kind: int,
    header: object,
    body_bytes: int = 0,
    magic: bytes = b"OR",
    major: int = codec.PROTOCOL_MAJOR,
) -> bytes:
    """A first message part, valid or not; a `header` that is not bytes is packed."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack(">2sBBI", magic, major, kind, body_bytes) + packed


def nested(depth: int) -> object:
    """Lists in lists, `depth` levels deep."""
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


_HOSTILE_VALUES: list[object] = [
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
    """The parts of a message with one kind of damage; `parts` are the undamaged parts."""
    out = list(parts)
    match rng.randrange(6):
        case 0:  # anywhere
            at = rng.randrange(len(out))
            out[at] = mutated(out[at], rng)
        case 1:  # after an intact preamble
            out[0] = out[0][:8] + mutated(out[0][8:], rng)
        case 2:  # the preamble
            out[0] = mutated(out[0][:8], rng)[:8].ljust(8, b"\0") + out[0][8:]
        case 3 | 4:  # a well-formed header with one wrong value, or one too many
            fields = header_of(message)
            fields[rng.choice([*fields, "later"])] = rng.choice(_HOSTILE_VALUES)
            out[0] = part(message.KIND, fields, len(b"".join(out[1:])))
        case 5:  # parts of different messages
            out = [out[0], *codec.encode(rng.choice(CORPUS))][: rng.randrange(1, 4)]
    return out


def mutant_chunk(message: m.ChunkMessage, rng: random.Random) -> m.ChunkMessage:
    """A chunk with a valid header and damaged sizes, streams or values."""
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
    changed = dataclasses.replace(
        message,
        truncations=truncations,
        observation_bytes=len(blocks[0]) if length is None else length,
        body=b"".join(blocks),
    )
    return dataclasses.replace(changed, crc=codec.checksum(changed))
