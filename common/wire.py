"""Messages as bytes and back: the only codec, with every limit; no I/O.

A message is one or two parts. The first is an 8-byte preamble (magic, protocol major, kind, length
of the second part) and a small msgpack map; the second, the body, is whatever grows. `decode`
returns a message or raises `WireError`, whatever the bytes. Arrays are decoded separately
(`decode_chunk`), against the shapes that the run's configuration allows and no others.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from common.chunk import Chunk, Spaces, layout, raw_bytes
from common.config import RolloutConfig
from common.messages import ArrayEntry, ChunkMessage, Message

PROTOCOL_MAJOR = 1
_MAGIC = b"OR"
_PREAMBLE = struct.Struct(">2sBBI")
_HEADER_BYTES = 4096
_INTEGER_LIMIT = 1 << 62
_TEXT_CHARACTERS = 256
_LIST_ITEMS = 64
_LEVEL = 2  # of zlib-ng: the streams are those of zlib, made in a quarter of its time and smaller here
_Table = tuple[tuple[str, str, tuple[int, ...]], ...]
_Check = Callable[[Any], bool]


def _check(hint: Any) -> _Check:
    """The test that a decoded value is of an annotated field type; the only types fields use."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return lambda value: type(value) is int and -1 <= value < _INTEGER_LIMIT
    if hint is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if hint in (str, bool, bytes):
        return lambda value: type(value) is hint
    if origin is Literal:
        return lambda value: type(value) is str and value in arguments
    if origin is Annotated:
        return lambda value: type(value) is bytes and len(value) == arguments[1]
    checks = [_check(argument) for argument in arguments]
    if origin is list:
        return lambda value: type(value) is list and all(map(checks[0], value))
    if origin is tuple:
        return lambda value: (
            type(value) is list
            and len(value) == len(checks)
            and all(check(item) for check, item in zip(checks, value, strict=True))
        )
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
    """Bytes that are not a message of this protocol; `reason` is one of a small closed set."""

    def __init__(self, reason: WireReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def message_limit_bytes(rollout: RolloutConfig, spaces: Spaces) -> int:
    """The largest legal message part: a raw chunk, 1 % and 64 KiB."""
    most = raw_bytes(layout(rollout, spaces, rollout.chunk_steps if not spaces.is_image else rollout.lanes))
    return math.ceil(most * 1.01) + 65_536


def encode(message: Message) -> list[bytes]:
    """Turn a message into its parts."""
    fields = {name: getattr(message, name) for name in _SCHEMAS[message.KIND]}
    body = fields.pop("body", None)
    header = msgpack.packb(fields)
    if len(header) > _HEADER_BYTES:
        raise ValueError(f"expected a header of at most {_HEADER_BYTES} bytes, got {len(header)}")
    preamble = _PREAMBLE.pack(_MAGIC, PROTOCOL_MAJOR, message.KIND, len(body or b""))
    return [preamble + header] if body is None else [preamble + header, body]


def decode(parts: Sequence[bytes]) -> Message:
    """Turn parts into a message.

    Raises:
        WireError: anything but a message of this protocol.
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
            "size", f"{kind.__name__}: header of {len(head)} bytes, body {len(body or b'')} of {length}"
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
            raise WireError("header", f"{kind.__name__}: field {name} is not {hint}")
    return kind(**{name: fields[name] for name in schema})


def _reject_extension(code: int, data: bytes) -> None:
    raise ValueError("extension types are refused")


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
        raise WireError(
            "header", f"{kind}: unreadable header ({type(error).__name__}), {header[:16].hex()}"
        ) from None
    if not isinstance(fields, dict):
        raise WireError("header", f"{kind}: expected a map, got {type(fields).__name__}")
    return fields


def encode_arrays(chunk: Chunk) -> tuple[list[ArrayEntry], bytes]:
    """Compress the arrays of a chunk; returns the table of contents and the body."""
    entries: list[ArrayEntry] = []
    blocks: list[bytes] = []
    for field in dataclasses.fields(chunk):
        array = getattr(chunk, field.name)
        data = _difference(array, chunk.done) if _is_video(field.name, array) else array
        block = zlib_ng.compress(np.ascontiguousarray(data).data, _LEVEL)
        entries.append((field.name, array.dtype.str, list(array.shape), len(block)))
        blocks.append(block)
    return entries, b"".join(blocks)


def decode_chunk(message: ChunkMessage, rollout: RolloutConfig, spaces: Spaces) -> Chunk:
    """Decompress and check the arrays of a chunk; they may be read-only.

    Raises:
        WireError: a name, dtype, shape or size other than the configuration's, a damaged or
            overlong stream, a value out of range or not finite.
    """
    table = tuple((name, dtype, tuple(shape)) for name, dtype, shape, _ in message.arrays)
    truncations = next((shape[0] for name, _, shape in table if name == "final_observation" and shape), 0)
    if not 0 <= truncations <= rollout.chunk_steps or any(size < 0 for *_, size in message.arrays):
        raise WireError(
            "array", f"expected sizes of a chunk, got {truncations} final observations or less than 0"
        )
    specs = layout(rollout, spaces, truncations)
    expected: _Table = tuple((name, dtype, shape) for name, (dtype, shape) in specs.items())
    if table != expected:
        odd = next(
            (pair for pair in zip(expected, table, strict=False) if pair[0] != pair[1]),
            (len(expected), len(table)),
        )
        raise WireError("array", f"expected array {odd[0]}, got {odd[1]}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for name, dtype, shape, size in message.arrays:
        arrays[name] = _inflate(message.body[start : start + size], np.dtype(dtype), tuple(shape), name)
        start += size
    if start != len(message.body):
        raise WireError("array", f"expected a body of {start} bytes, got {len(message.body)}")
    chunk = Chunk(**arrays)
    _check_values(chunk, spaces, truncations)
    if _is_video("observation", chunk.observation):
        return dataclasses.replace(chunk, observation=_accumulate(chunk.observation, chunk.done))
    return chunk


def _inflate(block: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    size = dtype.itemsize * math.prod(shape)
    stream = zlib_ng.decompressobj()
    try:
        data = stream.decompress(block, size + 1)
    except zlib_ng.error:  # type: ignore[misc]  # its stub calls it an instance
        raise WireError("array", f"{name}: expected a zlib stream, got damaged bytes") from None
    if len(data) != size or not stream.eof or stream.unused_data:
        raise WireError("array", f"{name}: expected {size} bytes, got another length")
    array = np.frombuffer(data, np.uint8)
    if dtype == np.bool_ and array.max(initial=0) > 1:
        raise WireError("array", f"{name}: expected 0 or 1")
    return array.view(dtype).reshape(shape)


def _check_values(chunk: Chunk, spaces: Spaces, truncations: int) -> None:
    arrays = [getattr(chunk, field.name) for field in dataclasses.fields(Chunk)]
    if not all(np.isfinite(array).all() for array in arrays if array.dtype == np.float32):
        raise WireError("array", "expected finite numbers")
    if not spaces.is_continuous:
        if (chunk.action < 0).any() or (chunk.action >= spaces.actions).any():  # type: ignore[operator]
            raise WireError("array", f"expected actions in [0, {spaces.actions})")
        if (chunk.log_prob > 1e-3).any():
            raise WireError("array", "expected log-probabilities of at most 0")
    if (chunk.bonus < 0).any():
        raise WireError("array", "expected bonuses of at least 0")
    if (chunk.terminated & chunk.truncated).any() or int(chunk.truncated.sum()) != truncations:
        raise WireError("array", f"expected one final observation per truncation, got {truncations}")


def _is_video(name: str, array: npt.NDArray[Any]) -> bool:
    return name == "observation" and array.dtype == np.uint8


def _keys(rows: int, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """bool [rows, B]: rows sent whole, because nothing relates them to the row before."""
    keys = np.zeros((rows, done.shape[1]), np.bool_)
    keys[0] = True
    keys[rows - len(done) :] |= done
    return keys


def _difference(video: npt.NDArray[np.uint8], done: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """XOR of each image with the one before it in its lane."""
    keys = _keys(len(video), done)
    delta = np.empty_like(video)
    np.bitwise_xor(video[1:], video[:-1], out=delta[1:])
    delta[keys] = video[keys]
    return delta


def _accumulate(delta: npt.NDArray[Any], done: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Undo `_difference`, eight bytes at a time."""
    video = np.empty_like(delta)
    source, words = (array.reshape(*delta.shape[:2], -1).view(np.uint64) for array in (delta, video))
    keys = _keys(len(delta), done)
    words[0] = before = source[0]
    some = np.logical_or.reduce(keys, axis=1)
    for sent, now, whole, any_whole in zip(source[1:], words[1:], keys[1:], some[1:], strict=True):
        np.bitwise_xor(sent, before, out=now)
        if any_whole:
            now[whole] = sent[whole]
        before = now
    return video
