"""A TCP proxy between actors and learner that delays, holds, damages and cuts their traffic, from a seed.

It serves a pair of ports (data and weights). `weather` may be replaced at any time; its effect on a
connection is drawn from the seed, the number of the connection and the direction.
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
class Weather:
    """The faults of the network; up is from actor to learner. The default has none."""

    hold_up: bool = False  # nothing passes until the hold ends, as behind lost packets
    hold_down: bool = False
    delay_seconds: float = 0.0  # of each block, plus up to as much at random
    bytes_per_second: float = 0.0
    cut_bytes: int = 0  # a connection breaks after about so many
    drop: float = 0.0  # probability that a block is left out, which damages the stream
    flip: float = 0.0  # probability that one bit of a block flips


CLEAR = Weather()
PARTITION = Weather(hold_up=True, hold_down=True)


@dataclass(frozen=True)
class Fault:
    """Weather for a time; None means that the learner's ends close and the actors' ends stay open."""

    pause_seconds: float  # before the fault, without weather
    seconds: float
    weather: Weather | None


def schedule(
    seed: int, count: int, seconds: tuple[float, float], kinds: Sequence[Weather | None]
) -> list[Fault]:
    """Faults of each kind in turn, with lengths and pauses drawn from the seed."""
    chance = random.Random(seed)
    return [
        Fault(chance.uniform(0.0, 2.0), chance.uniform(*seconds), kinds[number % len(kinds)])
        for number in range(count)
    ]


class FaultProxy:
    """Forwards (port, port + 1) to (target, target + 1) on the loopback address, in its own thread."""

    def __init__(self, port: int, target: int, seed: int = 0) -> None:
        self.port, self._target, self._seed = port, target, seed
        self.weather = CLEAR
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
    def during(self, weather: Weather) -> Iterator[None]:
        """Set the weather for the block."""
        self.weather = weather
        try:
            yield
        finally:
            self.weather = CLEAR

    def half_open(self) -> None:
        """Abort the learner's ends of all connections; the actors' ends stay open."""

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
        chances = [random.Random(f"{self._seed}/{self.connections}/{way}") for way in ("up", "down")]
        budget = [self.weather.cut_bytes * chances[0].uniform(0.5, 1.5)]
        try:
            while self.weather.hold_up or self.weather.hold_down:
                await asyncio.sleep(_POLL_SECONDS)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # no learner at present
            writer.transport.abort()
            return
        self._learner_ends.add(to_writer)
        up = asyncio.create_task(self._pump(reader, to_writer, True, chances[0], budget))
        down = asyncio.create_task(self._pump(to_reader, writer, False, chances[1], budget))
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
        chance: random.Random,
        budget: list[float],
    ) -> None:
        """Forward blocks until one end closes or the connection is cut."""
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK_BYTES):
                weather = self.weather
                while weather.hold_up if up else weather.hold_down:
                    await asyncio.sleep(_POLL_SECONDS)
                    weather = self.weather
                if weather.delay_seconds:
                    await asyncio.sleep(weather.delay_seconds * (1 + chance.random()))
                if weather.bytes_per_second:
                    await asyncio.sleep(len(block) / weather.bytes_per_second)
                if weather.drop and chance.random() < weather.drop:
                    self.drops += 1
                    continue
                if weather.flip and chance.random() < weather.flip:
                    self.flips += 1
                    damaged = bytearray(block)
                    damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
                    block = bytes(damaged)
                if not writer.transport.is_closing():  # the actor of a half-open connection still sends
                    writer.write(block)
                    await writer.drain()
                    self.bytes_passed += len(block)
                budget[0] -= len(block)
                if weather.cut_bytes and budget[0] < 0:
                    self.cuts += 1
                    return
