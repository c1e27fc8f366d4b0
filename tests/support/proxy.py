"""A TCP proxy between actors and learner that delays, holds, damages and cuts their traffic, from a seed.

It serves a pair of ports (data and weights). Any thread may replace `conditions` at any time. The seed, the
number of a connection and the direction determine the effect of the conditions on that connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BLOCK_BYTES = 16_384
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class NetworkConditions:
    """The faults of the network; up is from actor to learner. The default has none."""

    hold_up: bool = False  # nothing passes until the hold ends, as when packets are lost
    hold_down: bool = False
    delay_seconds: float = 0.0  # the least delay of a block; a random part of up to the same length is added
    bytes_per_second: float = 0.0
    cut_bytes: int = 0  # a connection breaks after about this number of bytes
    drop: float = 0.0  # probability that a block is omitted, which damages the stream
    flip: float = 0.0  # probability that one bit of a block flips


NO_FAULTS = NetworkConditions()
PARTITION = NetworkConditions(hold_up=True, hold_down=True)


@dataclass(frozen=True)
class Fault:
    """Network conditions for a time; None: the learner's ends close and the actors' ends stay open."""

    pause_seconds: float  # without faults, before this one
    seconds: float
    conditions: NetworkConditions | None


def schedule(
    seed: int, count: int, seconds: tuple[float, float], kinds: Sequence[NetworkConditions | None]
) -> list[Fault]:
    """`count` faults, of each kind in turn; the seed determines their lengths and pauses."""
    rng = random.Random(seed)
    return [
        Fault(rng.uniform(0.0, 2.0), rng.uniform(*seconds), kinds[number % len(kinds)])
        for number in range(count)
    ]


class FaultProxy:
    """Forwards (port, port + 1) to (target, target + 1) on the loopback address, in its own thread."""

    def __init__(self, port: int, target: int, seed: int = 0) -> None:
        self.port, self._target, self._seed = port, target, seed
        self.conditions = NO_FAULTS
        self.bytes_passed = self.connections = self.cuts = self.flips = self.drops = 0
        self._learner_ends: set[asyncio.StreamWriter] = set()
        self._half_open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._serving.wait(10)
        return self

    def __exit__(self, *unused: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @contextlib.contextmanager
    def during(self, conditions: NetworkConditions) -> Iterator[None]:
        """Apply the conditions during the block."""
        self.conditions = conditions
        try:
            yield
        finally:
            self.conditions = NO_FAULTS

    def half_open(self) -> None:
        """Abort the learner's end of every connection; the actor's end stays open."""

        async def abort() -> None:
            self._half_open |= self._learner_ends
            for writer in list(self._learner_ends):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = [
            self._loop.run_until_complete(
                asyncio.start_server(
                    functools.partial(self._connect, port=self._target + number),
                    "127.0.0.1",
                    self.port + number,
                )
            )
            for number in range(2)
        ]
        self._serving.set()
        self._loop.run_forever()
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.connections += 1
        rngs = [random.Random(f"{self._seed}/{self.connections}/{way}") for way in ("up", "down")]
        budget = [self.conditions.cut_bytes * rngs[0].uniform(0.5, 1.5)]
        try:
            while self.conditions.hold_up or self.conditions.hold_down:
                await asyncio.sleep(_POLL_SECONDS)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # no learner at present
            writer.transport.abort()
            return
        self._learner_ends.add(to_writer)
        up = asyncio.create_task(self._pump(reader, to_writer, True, rngs[0], budget))
        down = asyncio.create_task(self._pump(to_reader, writer, False, rngs[1], budget))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if to_writer in self._half_open:
                await up  # until the actor closes its end
        finally:
            up.cancel()
            down.cancel()
            self._learner_ends.discard(to_writer)
            self._half_open.discard(to_writer)
            writer.transport.abort()
            to_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: bool,
        rng: random.Random,
        budget: list[float],
    ) -> None:
        """Forward blocks until one end closes or the connection is cut."""
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK_BYTES):
                conditions = self.conditions
                while conditions.hold_up if up else conditions.hold_down:
                    await asyncio.sleep(_POLL_SECONDS)
                    conditions = self.conditions
                if conditions.delay_seconds:
                    await asyncio.sleep(conditions.delay_seconds * (1 + rng.random()))
                if conditions.bytes_per_second:
                    await asyncio.sleep(len(block) / conditions.bytes_per_second)
                if conditions.drop and rng.random() < conditions.drop:
                    self.drops += 1
                    continue
                if conditions.flip and rng.random() < conditions.flip:
                    self.flips += 1
                    damaged = bytearray(block)
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                    block = bytes(damaged)
                if not writer.transport.is_closing():  # the actor of a half-open connection still sends
                    writer.write(block)
                    await writer.drain()
                    self.bytes_passed += len(block)
                budget[0] -= len(block)
                if conditions.cut_bytes and budget[0] < 0:
                    self.cuts += 1
                    return
