"""A TCP proxy between actors and learner that does to the bytes what networks do, from a seed.

It serves a pair of ports (data and weights). `weather` may be replaced at any time; what a connection
suffers in it is drawn from the seed, the number of the connection and the direction.
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
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Weather:
    """What happens to bytes; up is from actor to learner. The default is a clear sky."""

    hold_up: bool = False  # nothing passes: it waits until the hold ends, as behind lost packets
    hold_down: bool = False
    delay_seconds: float = 0.0  # each block, and up to as much again at random
    bytes_per_second: float = 0.0
    cut_bytes: int = 0  # a connection breaks after so many
    drop: float = 0.0  # chance that a block is left out: the stream is damaged
    flip: float = 0.0  # chance that one bit of a block is turned over


CLEAR = Weather()
PARTITION = Weather(hold_up=True, hold_down=True)


@dataclass(frozen=True)
class Fault:
    """Weather for a time; without one the learner's ends vanish and the actors' stay open."""

    pause_seconds: float  # of clear sky before it
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
    """Forwards (port, port + 1) to (target, target + 1) on the loopback address, in a thread of its own."""

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
        """This weather for the block, clear afterwards."""
        self.weather = weather
        try:
            yield
        finally:
            self.weather = CLEAR

    def half_open(self) -> None:
        """Abort the learner's ends of all connections; the actors hear nothing of it."""

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
                await asyncio.sleep(_LOOK_SECONDS)
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
                await up  # until the actor gives up
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
        """Until one end closes or the connection is cut."""
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK_BYTES):
                weather = self.weather
                while weather.hold_up if up else weather.hold_down:
                    await asyncio.sleep(_LOOK_SECONDS)
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
                    turned = bytearray(block)
                    turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
                    block = bytes(turned)
                if not writer.transport.is_closing():  # a half-open one swallows what comes
                    writer.write(block)
                    await writer.drain()
                    self.bytes_passed += len(block)
                budget[0] -= len(block)
                if weather.cut_bytes and budget[0] < 0:
                    self.cuts += 1
                    return
