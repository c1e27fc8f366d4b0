"""Sixteen sessions of one key that spoil the grants of a real learner, each in one of four ways."""

from __future__ import annotations

import dataclasses
import secrets
import time

import zmq

from common.config import RolloutConfig
from common.keys.curve import ActorKeys
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context
from tests.support.background import Background
from tests.support.protocol_peer import SessionPeer

SESSIONS = 16
_WAIT_SECONDS = 0.01  # for the messages of one session
_REPEAT_SECONDS = 1.0  # between two heartbeats or Hellos; a session that leaves holds its grant as long


class SpoilingPeer(SessionPeer):
    """A session that does not answer its grants with chunks of this generation."""

    def __init__(self, context: Context, endpoint: str, keys: ActorKeys, rollout: RolloutConfig) -> None:
        super().__init__(context, endpoint, keys)
        self._chunk_steps = rollout.chunk_steps
        self._next_at = 0.0
        self.grants = 0  # that it spoilt
        self.connect()

    def attack(self) -> None:
        """Read what has arrived, and send the next message if one is due."""
        while self.receive(_WAIT_SECONDS) is not None:
            pass
        if self.joined and self.credit - self.produced >= self._chunk_steps and self.spoil():
            self.grants += 1
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _REPEAT_SECONDS
            self.attempt(self.beat() if self.joined else self.hello())

    def spoil(self) -> bool:
        """Use a grant; return whether it was used."""
        return False

    def beat(self) -> m.Message:
        """The message that is sent each second."""
        return m.Heartbeat(sid=self.sid, generation=self.generation, produced=self.produced, stats={})

    def attempt(self, message: m.Message) -> bool:
        """Send a message, if there is a connection with room for it."""
        return bool(self.socket.raw.poll(0, zmq.POLLOUT)) and self.socket.send(codec.encode(message))


class LeavingPeer(SpoilingPeer):
    """Ends its session about a second after each grant, and begins another one at once."""

    def beat(self) -> m.Message:
        if self.credit == 0:
            return super().beat()
        self.attempt(m.Bye(sid=self.sid, produced=0))
        self.sid, self.joined, self.generation = secrets.token_bytes(16), False, -1
        self.received = self.settled = self.credit = 0
        self.grants += 1
        return self.hello()


class OtherGenerationPeer(SpoilingPeer):
    """Sends a chunk of the generation before for each grant."""

    def spoil(self) -> bool:
        chunk = m.ChunkMessage(
            sid=self.sid,
            generation=self.generation - 1,
            version=self.version,
            offset=self.produced,
            steps=self._chunk_steps,
            produced=self.produced + self._chunk_steps,
            fresh=True,
            truncations=0,
            observation_bytes=0,
            crc=0,
            body=b"",
        )
        sent = self.attempt(dataclasses.replace(chunk, crc=codec.checksum(chunk)))
        self.produced += self._chunk_steps if sent else 0
        return sent


class SkippingPeer(SpoilingPeer):
    """Sends a skip for each grant."""

    def spoil(self) -> bool:
        produced = self.produced + self._chunk_steps
        skip = m.Skip(
            sid=self.sid,
            generation=self.generation,
            offset=self.produced,
            steps=self._chunk_steps,
            produced=produced,
            reason="old_generation",
        )
        sent = self.attempt(skip)
        self.produced = produced if sent else self.produced
        return sent


class HostileFleet(Background):
    """Runs the sessions in its own thread during the block."""

    def __init__(self, endpoint: str, keys: ActorKeys, rollout: RolloutConfig) -> None:
        super().__init__()
        self._endpoint, self._keys, self._rollout = endpoint, keys, rollout
        self.peers: list[SpoilingPeer] = []

    def work(self) -> None:
        """Attack from every session in turn, and end the connections."""
        context = Context()
        try:
            kinds = (SpoilingPeer, LeavingPeer, OtherGenerationPeer, SkippingPeer)
            self.peers = [
                kinds[number % len(kinds)](context, self._endpoint, self._keys, self._rollout)
                for number in range(SESSIONS)
            ]
            while not self.stopped.is_set():
                for peer in self.peers:
                    peer.attack()
        finally:
            context.raw.destroy(linger=0)
