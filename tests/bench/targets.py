"""The targets of the benchmarks, and whether the results meet them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.markdown import ABSENT, number

Results = Mapping[str, dict[str, Any]]  # by file name, without its ending


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the targets: how figures are read from the results, and their bounds.

    `aim` is a second, stricter bound of the first figure.
    """

    what: str
    read: Callable[[Results], tuple[float, ...]]  # raises KeyError if a figure was not measured
    bounds: tuple[float, ...]
    aim: float | None = None
    at_most: bool = False  # whether the bounds are upper bounds

    def row(self, results: Results) -> list[str]:
        """The row of the table."""
        sign = "<=" if self.at_most else ">="
        wanted = [f"{sign} {number(x)}" for x in self.bounds]
        target = ", ".join(wanted) + (f" (aim {number(self.aim)})" if self.aim is not None else "")
        try:
            values = self.read(results)
        except KeyError:
            return [self.what, ABSENT, target, ABSENT]
        return [self.what, ", ".join(map(number, values)), target, self.verdict(values)]

    def verdict(self, values: Sequence[float]) -> str:
        """Return "met" only if every value is within its bound."""
        pairs = zip(values, self.bounds, strict=True)
        met = all(value <= bound if self.at_most else value >= bound for value, bound in pairs)
        if met and self.aim is not None:
            reached = values[0] <= self.aim if self.at_most else values[0] >= self.aim
            return "met, with its aim" if reached else "met"
        return "met" if met else "missed"


def _miscounted(results: Results, name: str) -> float:
    """The steps out of balance in the learner's ledger, plus those by which the actors' counts differ."""
    fleet = results[name]
    return float(abs(fleet["imbalance_steps"]) + abs(fleet["miscounted_steps"]))


TARGETS = (
    Target(
        "`actor`, ratio to the bare emulator (Gravitar)",
        lambda r: (r["actor"]["gravitar"]["ratio"],),
        (0.60,),
        0.75,
    ),
    Target("`learner`, ratio to the plain float32 loop", lambda r: (r["learner"]["ratio"],), (5,), 7),
    Target(
        "`train`, fraction of the machine's limit",
        lambda r: (r["train"]["fraction_of_limit"],),
        (0.45,),
        0.60,
    ),
    Target(
        "`wire`, bytes per step, mean of ten games",
        lambda r: (r["wire"]["bytes_per_step"],),
        (300,),
        200,
        at_most=True,
    ),
    Target(
        "`wire`, decode on one core, chunks/s",
        lambda r: (r["wire"]["decode_chunks_per_second"],),
        (800,),
        1600,
    ),
    Target(
        "`damage`, messages per thousand that took over 5 ms of processor time; slowest to a valid chunk",
        lambda r: (
            1000 * r["damage"]["cases_over_5_ms"] / r["damage"]["cases"],
            r["damage"]["slowest_to_legal_ratio"],
        ),
        (1, 2),
        at_most=True,
    ),
    Target("`fleet`, 256 actors, chunks/s", lambda r: (r["fleet-256"]["chunks_per_second"],), (500,), 800),
    Target(
        "`fleet`, 256 actors: steps out of balance; memory slope, MB/min",
        lambda r: (_miscounted(r, "fleet-256"), r["fleet-256"]["memory_slope_mb_per_minute"]),
        (0, 1),
        at_most=True,
    ),
    Target(
        "`fleet`, 2,000 actors: not served; p99 acknowledgement, ms",
        lambda r: (
            r["fleet-2000"]["actors"] - r["fleet-2000"]["actors_served"],
            r["fleet-2000"]["ack_p99_ms"],
        ),
        (0, 1000),
        at_most=True,
    ),
    Target(
        "`weights`, 64 pullers: p99, s",
        lambda r: (r["weights"]["puller_per_actor"]["pull_p99_seconds"],),
        (5,),
        2,
        at_most=True,
    ),
    Target(
        "`weights`, data round trip during pulls: p99, ms",
        lambda r: (r["weights"]["puller_per_actor"]["round_trip_p99_ms"],),
        (100,),
        at_most=True,
    ),
    Target(
        "32 containers, `up` to the first update, s",
        lambda r: (r["containers"]["up_to_first_update_seconds"],),
        (180,),
        at_most=True,
    ),
    Target(
        "2,000 sessions of one key rejoin a restarted learner, s",
        lambda r: (r["rejoin"]["rejoined_seconds"],),
        (60,),
        at_most=True,
    ),
    Target(
        "32 containers, memory of the largest actor, MiB",
        lambda r: (r["containers"]["largest_actor_mib"],),
        (400,),
        at_most=True,
    ),
    Target(
        "one GPU, E = 1,024, T = 128, keep 1/32: env steps/s of updates",
        lambda r: (r["learner-cuda"]["large"]["env_steps_per_second"],),
        (100_000,),
        300_000,
    ),
)
