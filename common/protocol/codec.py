"""Encodes and decodes messages and checks every size limit. No I/O.

A message has one or two parts. The first is an 8-byte preamble (magic, protocol major, kind, length of the
second part) and a small msgpack map, the header. The second part, the body, holds the large data. `decode`
returns a message or raises `WireError` for any bytes. `unpack` decodes the arrays of a chunk; it accepts
only the shapes of the run's configuration.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import typing
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from common.config import RolloutConfig
from common.protocol.chunk import Chunk, largest_raw_bytes, layout, value_error
from common.protocol.messages import ChunkMessage, Message
from common.spaces import Spaces

PROTOCOL_MAJOR = 4
_MAGIC = b"OR"
_PREAMBLE = struct.Struct(">2sBBI")
_HEADER_BYTES = 4096
_INTEGER_LIMIT = 1 << 62
_TEXT_CHARACTERS = 256
_LIST_ITEMS = 64
_WORD_BYTES = 8  # divides the bytes of an 84 x 84 image
_LEVEL = 2  # of zlib-ng, which writes zlib streams in a quarter of the time of zlib, and smaller ones here
_Check = Callable[[Any], bool]


def _check(hint: Any) -> _Check:
    """Make the function that checks whether a decoded value has the annotated type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return lambda value: type(value) is int and -1 <= value < _INTEGER_LIMIT
    if hint is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if hint in (str, bool, bytes):  # text must be printable, because logs and terminals show it
        return lambda value: type(value) is hint and (hint is not str or value.isprintable())
    if origin is Literal:
        return lambda value: type(value) is str and value in arguments
    if origin is Annotated:
        return lambda value: type(value) is bytes and len(value) == arguments[1]
    checks = [_check(argument) for argument in arguments]  # of the keys and of the values of a map
    return lambda value: (
        type(value) is dict and all(map(checks[0], value)) and all(map(checks[1], value.values()))
    )


_KINDS: dict[int, type[Message]] = {kind.KIND: kind for kind in typing.get_args(Message)}
_SCHEMAS: dict[int, dict[str, tuple[Any, _Check]]] = {
    kind.KIND: {
        name: (hint, _check(hint))
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
        if name != "KIND"
    }
    for kind in _KINDS.values()
}

WireReason = Literal["frames", "version", "kind", "size", "header", "array"]


class WireError(Exception):
    """Bytes are not a valid message of this protocol; `reason` classifies the error."""

    def __init__(self, reason: WireReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def message_limit_bytes(rollout: RolloutConfig, spaces: Spaces) -> int:
    """The size limit of a message part: an uncompressed chunk, plus 1 % and 64 KiB."""
    return math.ceil(largest_raw_bytes(rollout, spaces) * 1.01) + 65_536


def encode(message: Message) -> list[bytes]:
    """Encode a message as its one or two parts."""
    fields = {name: getattr(message, name) for name in _SCHEMAS[message.KIND]}
    body = fields.pop("body", None)
    header = msgpack.packb(fields)
    if len(header) > _HEADER_BYTES:
        raise ValueError(f"expected a header of at most {_HEADER_BYTES} bytes, got {len(header)}")
    preamble = _PREAMBLE.pack(_MAGIC, PROTOCOL_MAJOR, message.KIND, len(body or b""))
    return [preamble + header] if body is None else [preamble + header, body]


def decode(parts: Sequence[bytes]) -> Message:
    """Decode the parts of a message.

    Raises:
        WireError: the parts are not a valid message of this protocol.
    """
    if not 1 <= len(parts) <= 2:
        raise WireError("frames", f"expected 1 or 2 parts, got {len(parts)}")
    head, body = parts[0], parts[1] if len(parts) == 2 else None
    if len(head) < _PREAMBLE.size or head[:2] != _MAGIC:
        raise WireError("frames", f"expected a preamble, got {head[:16].hex()}")
    _, major, number, length = _PREAMBLE.unpack_from(head)
    if major != PROTOCOL_MAJOR:
        raise WireError("version", f"expected protocol {PROTOCOL_MAJOR}, got {major}: update the older side")
    kind = _KINDS.get(number)
    if kind is None:
        raise WireError("kind", f"expected a known message kind, got {number}")
    if len(head) > _PREAMBLE.size + _HEADER_BYTES or length != len(body or b""):
        raise WireError(
            "size",
            f"{kind.__name__}: expected a header of at most {_HEADER_BYTES} bytes and a body of {length}, "
            f"got {len(head) - _PREAMBLE.size} and {len(body or b'')}",
        )
    schema = _SCHEMAS[kind.KIND]
    fields = _unpack(head[_PREAMBLE.size :], kind.__name__)
    if "body" in schema:
        if body is None:
            raise WireError("frames", f"{kind.__name__}: expected a body, got none")
        fields["body"] = body
    elif body is not None:
        raise WireError("frames", f"{kind.__name__}: expected no body, got {len(body)} bytes")
    if not schema.keys() <= fields.keys():
        raise WireError("header", f"{kind.__name__}: missing {sorted(schema.keys() - fields.keys())}")
    for name, (hint, check) in schema.items():
        if not check(fields[name]):
            raise WireError("header", f"{kind.__name__}: expected {hint} in field {name}, got another value")
    return kind(**{name: fields[name] for name in schema})


def _reject_extension(code: int, data: bytes) -> None:
    raise ValueError("expected no extension type")


def _unpack(header: bytes, kind: str) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            ext_hook=_reject_extension,
            max_str_len=_TEXT_CHARACTERS,
            max_bin_len=64,
            max_array_len=_LIST_ITEMS,
            max_map_len=_LIST_ITEMS,
            max_ext_len=0,
        )
    except Exception as error:  # noqa: BLE001  # msgpack raises at least six kinds on hostile input
        text = f"{kind}: expected a header in msgpack, got {header[:16].hex()} ({type(error).__name__})"
        raise WireError("header", text) from None
    if not isinstance(fields, dict):
        raise WireError("header", f"{kind}: expected a map, got {type(fields).__name__}")
    return fields


@dataclass(frozen=True, slots=True)
class Packed:
    """The compressed arrays of a chunk, and the fields of a `ChunkMessage` that describe them."""

    truncations: int
    observation_bytes: int
    body: bytes

    def message(
        self,
        *,
        sid: bytes,
        generation: int,
        version: int,
        offset: int,
        steps: int,
        produced: int,
        fresh: bool,
    ) -> ChunkMessage:
        """The message of the chunk as steps [offset, offset + steps) of a session."""
        message = ChunkMessage(
            sid=sid,
            generation=generation,
            version=version,
            offset=offset,
            steps=steps,
            produced=produced,
            fresh=fresh,
            truncations=self.truncations,
            observation_bytes=self.observation_bytes,
            crc=0,
            body=self.body,
        )
        return dataclasses.replace(message, crc=checksum(message))


def checksum(message: ChunkMessage) -> int:
    """The CRC-32 of the body and of all other fields except `crc`; it detects damage, not forgery."""
    names = (name for name in _SCHEMAS[ChunkMessage.KIND] if name not in ("crc", "body"))
    return zlib.crc32(msgpack.packb([getattr(message, name) for name in names]), zlib.crc32(message.body))


def pack(chunk: Chunk) -> Packed:
    """Compress the arrays of a chunk."""
    video = chunk.observation.dtype == np.uint8
    seen = zlib_ng.compress(_changes(chunk.observation) if video else chunk.observation.tobytes(), _LEVEL)
    others = (getattr(chunk, field.name).tobytes() for field in dataclasses.fields(chunk)[1:])
    body = seen + zlib_ng.compress(b"".join(others), _LEVEL)
    return Packed(len(chunk.final_observation), len(seen), body)


def unpack(message: ChunkMessage, rollout: RolloutConfig, spaces: Spaces) -> Chunk:
    """Decompress and validate the arrays of a chunk; they may be read-only.

    Raises:
        WireError: a size differs from the configuration's, a stream is damaged or too long, or a value is
            out of range (see `chunk.value_error`).
    """
    truncations, length = message.truncations, message.observation_bytes
    if not (0 <= truncations <= rollout.chunk_steps and 0 <= length <= len(message.body)):
        raise WireError("array", f"expected sizes of a chunk, got {truncations} and {length}")
    specs = layout(rollout, spaces, truncations)
    sizes = {name: np.dtype(dtype).itemsize * math.prod(shape) for name, (dtype, shape) in specs.items()}
    seen, size = message.body[:length], sizes.pop("observation")
    rows = specs["observation"][1][0]
    raw = {"observation": _video(seen, rows, size) if spaces.is_image else _inflate(seen, size)}
    others = _inflate(message.body[length:], sum(sizes.values()))
    for name, size in sizes.items():
        raw[name], others = others[:size], others[size:]
    if max(raw[name].max() for name, (dtype, _) in specs.items() if dtype == "|b1") > 1:
        raise WireError("array", "expected terminated, truncated and life_lost to be 0 or 1")
    chunk = Chunk(**{name: raw[name].view(dtype).reshape(shape) for name, (dtype, shape) in specs.items()})
    error = value_error(chunk, spaces)
    if error is not None:
        raise WireError("array", error)
    return chunk


def _inflate(block: bytes, size: int) -> npt.NDArray[np.uint8]:
    array = _inflate_most(block, size)
    if len(array) != size:
        raise WireError("array", f"expected {size} bytes, got {len(array)}")
    return array


def _inflate_most(block: bytes, most_bytes: int) -> npt.NDArray[np.uint8]:
    stream = zlib_ng.decompressobj()
    try:
        data = stream.decompress(block, most_bytes + 1)
    except zlib_ng.error:  # type: ignore[misc]  # its stub calls it an instance
        raise WireError("array", "expected a zlib stream, got damaged bytes") from None
    if len(data) > most_bytes or not stream.eof or stream.unused_data:
        raise WireError("array", f"expected one complete stream of at most {most_bytes} bytes, got another")
    return np.frombuffer(data, np.uint8)


# Most of an image equals the image one step before. Therefore images are compared in words of 8 bytes: a
# message holds, for each word that changed, its XOR with the same word one step before, then one bit per word
# that tells whether it changed. A tenth of the bytes remain to be compressed and decompressed.


def _changes(video: npt.NDArray[Any]) -> bytes:
    """The changed words, then a bit for each word; the image before row 0 is all zeros."""
    words = video.reshape(len(video), -1).view(np.uint64)
    delta = words.copy()
    delta[1:] ^= words[:-1]
    changed = delta != 0
    return b"".join((delta[changed].data, np.packbits(changed).data))


def _video(block: bytes, rows: int, size: int) -> npt.NDArray[np.uint8]:
    """The inverse of `_changes`, from its compressed result: the images as bytes."""
    words = size // _WORD_BYTES
    bits = -(-words // 8)
    data = _inflate_most(block, size + bits)
    changed = np.unpackbits(data[-bits:], count=words).view(np.bool_)
    if len(data) != np.count_nonzero(changed) * _WORD_BYTES + bits:
        raise WireError("array", f"expected a word for each changed bit, got {len(data)} bytes")
    video = np.zeros(words, np.uint64)
    video[changed] = data[:-bits].view(np.uint64)
    for before, now in pairwise(video.reshape(rows, -1)):
        now ^= before
    return video.view(np.uint8)
