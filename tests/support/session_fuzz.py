"""Random sequences of events of actors, trainer and time, and a search for those that break a rule.

Each event draws its random numbers from its own seed, so it keeps its meaning when others are removed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from tests.support.fuzz_world import FuzzWorld

_EVENTS = {  # weights
    "play": 26,
    "deliver": 12,
    "lie": 46,
    "wait": 6,
    "wait long": 1,
    "stall": 1,
    "train": 10,
    "unreadable chunk": 2,
    "damage": 2,
    "break": 2,
    "heal": 2,
    "checkpoint": 4,
    "restart": 2,
    "revoke": 1,
    "expel": 1,
}
_EVENTS_PER_SEQUENCE = 70
_TRACE_LINES = 60  # that a failure shows


class Event(NamedTuple):
    """One event; its seed decides the rest."""

    kind: str
    seed: int


class BrokenRuleError(AssertionError):
    """A sequence broke a rule, or made the product raise an exception; `trace` is what happened."""

    def __init__(self, text: str, trace: list[str]) -> None:
        super().__init__(text)
        self.trace = trace


def sequence(seed: int) -> list[Event]:
    """The events of a seed."""
    rng = random.Random(seed)
    kinds = rng.choices(list(_EVENTS), list(_EVENTS.values()), k=_EVENTS_PER_SEQUENCE)
    return [Event(kind, rng.getrandbits(32)) for kind in kinds]


def run(world: FuzzWorld, event: Event) -> None:
    """Run one event."""
    rng = world.random
    rng.seed(event.seed)
    world.note(event.kind)
    actor, liar = rng.choice(world.actors), rng.choice(world.liars)
    match event.kind:
        case "play" if not actor.stopped:
            for _ in range(rng.randint(1, 4)):
                actor.run()
        case "deliver":
            world.deliver(rng.randint(1, 8))
        case "lie":
            world.lie(liar)
        case "wait" | "wait long":
            for _ in range(rng.randint(1, 6) if event.kind == "wait" else rng.randint(10, 150)):
                world.loop()
        case "stall":
            world.loop(rng.choice([1.5, 20.0, 300.0]))
        case "train":
            world.train()
        case "unreadable chunk":
            world.reject_chunk()
        case "damage":
            world.damage_next_chunk()
        case "break":
            actor.connected, actor.stopped = rng.choice([(True, True), (False, False)])
        case "heal":
            actor.connected, actor.stopped = True, False
        case "checkpoint":
            world.save()
        case "restart":
            world.start()
        case "revoke":
            world.revoke(liar.key)
        case "expel":
            world.expel(rng.choice(liar.peers))


def play(events: Iterable[Event]) -> Counter[str]:
    """Run a sequence to its end; return what it reached, each with its number.

    Raises:
        BrokenRuleError: it broke a rule.
    """
    with pytest.MonkeyPatch.context() as patch, capture_logs():
        world = FuzzWorld(patch)
        try:
            for event in events:
                run(world, event)
            world.note("end")
            world.end()
        except Exception as error:  # also one that the product raises
            raise BrokenRuleError(f"{type(error).__name__}: {error}", world.trace) from error
    return world.reached


def fails(events: Iterable[Event]) -> bool:
    """Whether a sequence breaks a rule."""
    try:
        play(events)
    except BrokenRuleError:
        return True
    return False


def shortest(events: list[Event]) -> list[Event]:
    """Remove events from a failing sequence as long as it fails."""
    size = len(events) // 2
    while size:
        at = 0
        while at < len(events):
            rest = events[:at] + events[at + size :]
            if fails(rest):
                events = rest
            else:
                at += size
        size //= 2
    return events


def check(seed: int) -> Counter[str]:
    """Run the sequence of a seed; return what it reached.

    Raises:
        BrokenRuleError: it broke a rule; the text has the shortest part that does, and its messages.
    """
    with suppress(BrokenRuleError):
        return play(sequence(seed))
    events = shortest(sequence(seed))
    try:
        return play(events)
    except BrokenRuleError as error:
        lines = [f"seed {seed}: {error}", *events, *error.trace[-_TRACE_LINES:]]
        raise BrokenRuleError("\n".join(map(str, lines)), error.trace) from error
