"""Deliberate defects of the codec, each of which makes the named test fail."""

from __future__ import annotations

from functools import partial

import pytest

from common.protocol import chunk, codec
from tests.support.chunk_messages import IMAGES
from tests.support.mutation import Fact, Mutant, check_noticed
from tests.unit.common import test_codec, test_codec_chunks


def refused_message(case: str) -> Fact:
    """The test of a message that `decode` must refuse."""
    parts, reason = next(entry[1:] for entry in test_codec.REFUSED if entry[0] == case)
    return partial(test_codec.test_foreign_bytes_are_refused_with_a_reason, parts, reason)


def false_value(case: str) -> Fact:
    """The test of a value that `unpack` must refuse."""
    array, value = next(entry[1:] for entry in test_codec_chunks.VALUES if entry[0] == case)
    return partial(test_codec_chunks.test_values_out_of_range_are_refused, array, value)


def damaged_stream(case: str) -> Fact:
    """The test of a compressed stream that `unpack` must refuse."""
    seen, others = next(entry[1:] for entry in test_codec_chunks.STREAMS if entry[0] == case)
    return partial(test_codec_chunks.test_damaged_streams_are_refused, seen, others)


MUTANTS = [
    Mutant(
        "a body may be longer than its header says",
        codec.decode,
        'length != len(body or b"")',
        'length > len(body or b"")',
        refused_message("a body longer than announced"),
    ),
    Mutant(
        "a header may have any size",
        codec.decode,
        "len(head) > _PREAMBLE.size + _HEADER_BYTES or length",
        "length",
        refused_message("a header beyond 4 KiB"),
    ),
    Mutant(
        "messages of an older protocol are read",
        codec.decode,
        "major != PROTOCOL_MAJOR",
        "major > PROTOCOL_MAJOR",
        refused_message("an older major version"),
    ),
    Mutant(
        "an empty body is no body",
        codec.decode,
        "elif body is not None",
        "elif body",
        refused_message("an empty body of a kind without one"),
    ),
    Mutant(
        "fields of a later version are refused",
        codec.decode,
        "schema.keys() <= fields.keys()",
        "schema.keys() == fields.keys()",
        test_codec.test_unknown_fields_are_ignored,
        codec.WireError,
    ),
    Mutant(
        "maps are bounded by the header alone",
        codec._unpack,
        "max_map_len=_LIST_ITEMS",
        "max_map_len=_HEADER_BYTES",
        refused_message("a map of 65"),
    ),
    Mutant(
        "text is bounded by the header alone",
        codec._unpack,
        "max_str_len=_TEXT_CHARACTERS",
        "max_str_len=_HEADER_BYTES",
        refused_message("text beyond 256 characters"),
    ),
    Mutant(
        "the checksum covers the body alone",
        codec.checksum,
        "msgpack.packb([getattr(message, name) for name in names])",
        'b""',
        test_codec_chunks.test_a_flipped_bit_of_any_part_of_a_chunk_message_is_found,
    ),
    Mutant(
        "the checksum covers the header alone",
        codec.checksum,
        ", zlib.crc32(message.body))",
        ")",
        test_codec_chunks.test_a_flipped_bit_of_any_part_of_a_chunk_message_is_found,
    ),
    Mutant(
        "images are changed by packing",
        codec._changes,
        "words.copy()",
        "words",
        partial(test_codec_chunks.test_chunks_survive_the_wire_bit_for_bit, IMAGES),
    ),
    Mutant(
        "the bits of the last words are missing",
        codec._video,
        "-(-words // 8)",
        "words // 8",
        test_codec_chunks.test_images_survive_where_their_words_do_not_fill_the_last_byte_of_bits,
        codec.WireError,
    ),
    Mutant(
        "an action may be one too high",
        chunk.value_error,
        "chunk.action >= spaces.actions",
        "chunk.action > spaces.actions",
        false_value("an action out of range"),
    ),
    Mutant(
        "one bonus of at least 0 is enough",
        chunk.value_error,
        "(chunk.bonus < 0).any()",
        "(chunk.bonus < 0).all()",
        false_value("a negative bonus"),
    ),
    Mutant(
        "log-probabilities have no limit",
        chunk.value_error,
        "for name in _LIMITED:",
        'for name in set(_LIMITED) - {"log_prob"}:',
        partial(test_codec_chunks.test_numbers_beyond_the_limit_are_refused, "log_prob", -3e38),
    ),
    Mutant(
        "final observations may be too many",
        chunk.value_error,
        "int(chunk.truncated.sum()) != truncations",
        "int(chunk.truncated.sum()) > truncations",
        false_value("a final observation without a truncation"),
    ),
    Mutant(
        "a compressed stream may be cut",
        codec._inflate_most,
        "len(data) > most_bytes or not stream.eof",
        "len(data) > most_bytes",
        damaged_stream("a cut stream"),
    ),
    Mutant(
        "bytes may follow a compressed stream",
        codec._inflate_most,
        "not stream.eof or stream.unused_data",
        "not stream.eof",
        damaged_stream("bytes after the stream"),
    ),
    Mutant(
        "a whole stream is unpacked before its size is checked",
        codec._inflate_most,
        "stream.decompress(block, most_bytes + 1)",
        "stream.decompress(block)",
        partial(test_codec_chunks.test_a_zip_bomb_is_not_decompressed_whole, "others"),
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
