"""Makes messages of sessions that are partly false, from what the learner told these sessions."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import get_args

from common.protocol import codec
from common.protocol import messages as m
from tests.support.run_model import ModelSession, RunModel

_HUGE = (1 << 62) - 1
_FALSE_FIELD = 0.08  # probability that a number of a message is false
_CONNECTIONS = 3


class LyingActor:
    """Makes messages of sessions of one key, over a few connections."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key
        self.peers = [f"{name}.{number}".encode() for number in range(_CONNECTIONS)]
        self._sids: list[bytes] = []

    def message(
        self, rng: random.Random, model: RunModel, others: Sequence[bytes]
    ) -> tuple[bytes, m.Message]:
        """Make a message and choose its connection; `others` are sessions of other keys."""
        live = [sid for sid in self._sids if sid in model.sessions and not model.sessions[sid].closed]
        connected = [sid for sid in live if model.sessions[sid].peer is not None]
        if not connected or rng.random() < 0.2:
            hello = self._hello(rng, model, live, others)
            session = model.sessions.get(hello.sid)
            peer = session.peer if session is not None and session.key == self.key else None
            free = [one for one in self.peers if all(model.sessions[sid].peer != one for sid in live)]
            return peer if peer and rng.random() < 0.3 else rng.choice(free or self.peers), hello
        sid = rng.choice(connected)
        session = model.sessions[sid]
        message = self._progress(rng, model, sid, session)
        if rng.random() < 0.03 and not isinstance(message, m.Resend):
            message = dataclasses.replace(message, sid=rng.choice([*self._sids, *others]))
        peer = session.peer
        assert peer is not None
        return peer if rng.random() < 0.95 else rng.choice(self.peers), message

    def _hello(
        self, rng: random.Random, model: RunModel, live: list[bytes], others: Sequence[bytes]
    ) -> m.Hello:
        """A Hello of a new session, or of one of its sessions."""
        own = self._sids[-6:]
        if live and rng.random() < 0.5:
            sid = rng.choice(live)
        elif own and rng.random() < 0.3:
            sid = rng.choice(own)
        elif others and rng.random() < 0.05:
            sid = rng.choice(others)
        else:
            sid = f"{self.name} {len(self._sids)}".ljust(16).encode()
            self._sids.append(sid)
        session = model.sessions.get(sid)
        generation, base, produced, chunk = -1, 0, 0, model.chunk_steps
        if session is not None:
            base, produced = session.settled, session.produced
            generation = model.generation if session.peer is not None else max(-1, model.generation - 1)
        limit = model.limit_steps
        counts = [0, 1, chunk, chunk, 3 * chunk, limit, limit + 1, _HUGE]
        numbers = rng.choices([0, 1, 2, 17], [70, 20, 9, 1])[0]
        names = [
            rng.choice([*own, *others[:1], bytes([255]) * 15 + bytes([rng.randrange(4)])])
            if numbers < 17
            else bytes([number]) * 16
            for number in range(numbers)
        ]
        return m.Hello(
            sid=sid,
            generation=_maybe(rng, generation, [-1, 0, model.generation, model.generation + 1]),
            host="host",
            pid=1,
            software="0",
            base=_maybe(rng, base, [-1, base + 1, produced, produced + chunk, limit]),
            produced=_maybe(
                rng, produced, [0, chunk, chunk + 1, produced + chunk, produced + 3 * chunk, limit, limit + 1]
            ),
            former={name: rng.choice(counts) for name in names},
        )

    def _progress(
        self, rng: random.Random, model: RunModel, sid: bytes, session: ModelSession
    ) -> m.ChunkMessage | m.Skip | m.Heartbeat | m.Bye | m.Resend | m.Reject:
        received, produced, chunk = session.received, session.produced, model.chunk_steps
        claims = [0, received, produced + 1, produced + chunk, session.credit, _HUGE]
        for known in (session.credit, session.joined_steps):
            claims += [known + chunk, known + chunk + 1]
        offset = _maybe(rng, received, [-1, 0, received - 1, received + 1, session.credit, _HUGE])
        steps = _maybe(rng, chunk, [-1, 0, 1, chunk - 1, chunk + 1, 2 * chunk, _HUGE])
        generations = [-1, 0, model.generation - 1, model.generation - 1, model.generation + 1]
        generation = _maybe(rng, model.generation, generations)
        stop = min(_HUGE, max(0, offset + steps))
        match rng.choices(["chunk", "skip", "heartbeat", "bye", "other"], [60, 18, 12, 6, 4])[0]:
            case "chunk":
                return self._chunk(rng, model, sid, offset, steps, generation, _maybe(rng, stop, claims))
            case "skip":
                return m.Skip(
                    sid=sid,
                    generation=generation,
                    offset=offset,
                    steps=rng.choice([1, 5, steps]),
                    produced=_maybe(rng, stop, claims),
                    reason=rng.choice(get_args(m.SkipReason)),
                )
            case "heartbeat":
                stats = {"phase_env": 1.0}
                produced = rng.choice([produced, produced, *claims])
                return m.Heartbeat(sid=sid, generation=generation, produced=produced, stats=stats)
            case "bye":
                return m.Bye(sid=sid, produced=rng.choice([produced, produced, *claims]))
        return m.Resend(offset=0) if rng.random() < 0.5 else m.Reject(code="full", text="", sid=sid)

    def _chunk(
        self,
        rng: random.Random,
        model: RunModel,
        sid: bytes,
        offset: int,
        steps: int,
        generation: int,
        produced: int,
    ) -> m.ChunkMessage:
        version, session = model.version, model.sessions[sid]
        chunk = m.ChunkMessage(
            sid=sid,
            generation=generation,
            version=_maybe(rng, version, [-1, version - 1, version - 2, version + 1, version + 7]),
            offset=offset,
            steps=steps,
            produced=produced,
            fresh=True,
            truncations=0,
            observation_bytes=0,
            crc=0,
        )
        damaged = rng.random() < (0.6 if session.damaged_copies else _FALSE_FIELD)  # often several times
        return dataclasses.replace(chunk, crc=codec.checksum(chunk) ^ damaged)


def _maybe(rng: random.Random, truth: int, lies: Sequence[int]) -> int:
    """The truth, or sometimes a lie that a decoder accepts."""
    lie = rng.choice(lies)
    return truth if rng.random() > _FALSE_FIELD else max(-1, min(_HUGE, lie))
