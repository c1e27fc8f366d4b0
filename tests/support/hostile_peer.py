"""An authorised peer that attacks a learner with false claims, damaged messages and floods, from a seed.

It keeps one connection: a new one would have the same key, so a ban would apply to it as well.
"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import DealerSocket
from learner.server.rate_limit import BAN_SECONDS
from tests.support.attacking_peer import WAIT_SECONDS, AttackingPeer
from tests.support.protocol_peer import MESSAGE_BYTES
from tests.support.wire_fuzz import CORPUS, hello, mutant


class HostilePeer(AttackingPeer):
    """Joins, makes false claims until it is banned, and then floods."""

    def __init__(self, data_endpoint: str, weights_endpoint: str, seed: int) -> None:
        super().__init__(data_endpoint)
        self._weights_endpoint, self._rng = weights_endpoint, random.Random(seed)
        self.bans = 0
        self.chunks = 0  # unreadable chunks that it sent or tried to send
        self.banned = False

    def on_message(self, message: m.Message) -> None:
        """Record also the rejection that begins a ban."""
        super().on_message(message)
        if isinstance(message, m.Reject) and message.code == "lost":
            self.banned = True
            self.bans += 1

    def attack(self) -> None:
        """Attack both ports until it is stopped."""
        data = self.connect()
        weights = DealerSocket(self.context, self._weights_endpoint, MESSAGE_BYTES)
        try:
            while not self.stopped.is_set():
                self._attack(data, weights)
        finally:
            weights.close()

    def _attack(self, data: DealerSocket, weights: DealerSocket) -> None:
        """Join with a valid Hello, send false claims until the ban, then flood until the ban ends."""
        rng = self._rng
        self.sid, self.banned = secrets.token_bytes(16), False
        self.generation, self.received, self.credit = 0, 0, 0
        while not self.attempt(data, hello(self.sid)) and not self.stopped.is_set():
            pass  # not connected yet
        while not self.banned and not self.stopped.is_set():
            while self.receive(WAIT_SECONDS) is not None:
                pass
            for _ in range(4):
                message = rng.choice(CORPUS)
                self.attempt(rng.choice([data, weights]), mutant(message, codec.encode(message), rng))
                claim = rng.choice(FALSE_CLAIMS).message(
                    rng, self.sid, self.generation, self.received, self.credit
                )
                self.attempt(data, claim)
                self.chunks += sum(isinstance(one, m.ChunkMessage) for one in (message, claim))
            self.attempt(
                weights, m.WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=1 << 40)
            )
        heartbeat = m.Heartbeat(sid=self.sid, generation=self.generation, produced=self.received, stats={})
        until = time.monotonic() + BAN_SECONDS
        while time.monotonic() < until and not self.stopped.is_set():
            self.attempt(data, heartbeat)


def false_heartbeat(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A heartbeat with more steps than any credit allows."""
    return m.Heartbeat(sid=sid, generation=generation, produced=1 << 60, stats={"phase_" + "x" * 200: 1e308})


def false_skip(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A skip of more steps than any credit allows."""
    return m.Skip(
        sid=sid,
        generation=generation,
        offset=offset,
        steps=1 << 60,
        produced=1 << 60,
        reason="old_generation",
    )


def second_hello(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """The first Hello of another session on the same connection."""
    return dataclasses.replace(hello(os.urandom(16)), host="x" * 256, software="x" * 256)


def unreadable_chunk(
    rng: random.Random, sid: bytes, generation: int, offset: int, credit: int
) -> m.ChunkMessage:
    """A chunk whose body is noise with a valid checksum; it uses a grant until it is decoded."""
    body, steps = rng.randbytes(500), max(1, credit - offset)
    chunk = m.ChunkMessage(
        sid=sid,
        generation=generation,
        version=0,
        offset=offset,
        steps=steps,
        produced=offset + steps,
        fresh=True,
        truncations=0,
        observation_bytes=100,
        crc=0,
        body=body,
    )
    return dataclasses.replace(chunk, crc=codec.checksum(chunk))


def damaged_chunk(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A chunk whose body does not match its checksum."""
    return dataclasses.replace(unreadable_chunk(rng, sid, generation, offset, credit), crc=1)


class FalseClaim(NamedTuple):
    """A well-formed message with a false claim, and the beginning of the learner's refusal."""

    message: Callable[
        [random.Random, bytes, int, int, int], m.Message
    ]  # rng, sid, generation, offset, credit
    reason: str


FALSE_CLAIMS = (
    FalseClaim(false_heartbeat, "expected at most"),
    FalseClaim(false_skip, "expected at most"),
    FalseClaim(second_hello, "expected one session on a connection, got a second"),
    FalseClaim(unreadable_chunk, "expected a chunk of this run, got an unreadable one"),
    FalseClaim(damaged_chunk, "expected an undamaged, full chunk within its credit, got another"),
)
