"""docs/benchmarks.md from docs/benchmarks/*.json: tables and verdicts; the only prose is the template's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "benchmarks"
_HERE = Path(__file__).parent
_ABSENT = "not measured"

Results = Mapping[str, dict[str, Any]]  # by file name, without its ending


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the targets: how a figure is read from the results, and what it should be."""

    what: str
    read: Callable[[Results], tuple[float, ...]]  # raises KeyError where it was not measured
    least: tuple[float, ...]
    aim: float | None = None
    unit: str = ""
    at_most: bool = False  # for all of them

    def row(self, results: Results) -> list[str]:
        """Its line of the table."""
        sign = "<=" if self.at_most else ">="
        wanted = [f"{sign} {_number(x)}" for x in self.least]
        target = ", ".join(wanted) + (f" (aim {_number(self.aim)})" if self.aim is not None else "")
        try:
            values = self.read(results)
        except KeyError:
            return [self.what, _ABSENT, target, _ABSENT]
        measured = ", ".join(map(_number, values)) + (f" {self.unit}" if self.unit else "")
        return [self.what, measured, target, self.verdict(values)]

    def verdict(self, values: Sequence[float]) -> str:
        """Met only if every value keeps its bound."""
        pairs = zip(values, self.least, strict=True)
        met = all(value <= bound if self.at_most else value >= bound for value, bound in pairs)
        if met and self.aim is not None:
            reached = values[0] <= self.aim if self.at_most else values[0] >= self.aim
            return "met, with its aim" if reached else "met"
        return "met" if met else "missed"


def _books(results: Results, name: str) -> float:
    """Steps that the books of a fleet lost or counted twice, by the learner's count and by the fakes'."""
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
        "`damage`, messages per thousand that took over 5 ms of processor time; slowest to a legal chunk",
        lambda r: (
            1000 * r["damage"]["cases_over_5_ms"] / r["damage"]["cases"],
            r["damage"]["slowest_to_legal_ratio"],
        ),
        (1, 2),
        at_most=True,
    ),
    Target("`fleet`, 256 peers, chunks/s", lambda r: (r["fleet-256"]["chunks_per_second"],), (500,), 800),
    Target(
        "`fleet`, 256 peers: steps out of balance; memory slope, MB/min",
        lambda r: (_books(r, "fleet-256"), r["fleet-256"]["memory_slope_mb_per_minute"]),
        (0, 1),
        at_most=True,
    ),
    Target(
        "`fleet`, 2,000 peers: not served; p99 acknowledgement, ms",
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
        "`weights`, data round trip meanwhile: p99, ms",
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


def render(results: Results, template: str, shortfalls: str) -> str:
    """The page."""
    headings = ["what", "measured", "target", "verdict"]
    return template.format(
        hardware=_hardware(results),
        targets=table(headings, [target.row(results) for target in TARGETS]),
        actor=_actor(results),
        learner=_columns(results, ("learner", "learner-cuda"), _LEARNER),
        train=_columns(results, ("train",), _TRAIN),
        wire=_wire(results),
        damage=_columns(results, ("damage",), _DAMAGE),
        fleet=_columns(results, ("fleet-256", "fleet-2000"), _FLEET),
        lag=_ways(results, "lag"),
        weights=_ways(results, "weights"),
        growth=_growth(results),
        containers=_columns(results, ("containers",), _CONTAINERS),
        shortfalls=shortfalls.strip(),
    )


def page() -> str:
    """docs/benchmarks.md, from the results at hand."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return render(results, (_HERE / "template.md").read_text(), (_HERE / "shortfalls.md").read_text())


def write() -> None:
    """Replace docs/benchmarks.md."""
    (DOCS / "benchmarks.md").write_text(page())


_LEARNER = (
    "device",
    "precision",
    "update_seconds",
    "samples_per_second",
    "naive_samples_per_second",
    "ratio",
    "ratio_rounds",
    "gflops",
    "matrix_ceiling_gflops",
    "fraction_of_ceiling",
    "peak_memory_mb",
    "cores_used_by_others",
)
_TRAIN = (
    "steps_per_second",
    "steps_per_second_runs",
    "emulator_steps_per_second_core",
    "matrix_ceiling_gflops",
    "mflop_per_step",
    "limit_steps_per_second",
    "fraction_of_limit",
    "held_back_by",
    "learner_busy_share",
    "actors_busy_share",
    "learner_phase_seconds",
    "actor_phase_seconds",
    "wire_bytes_per_step",
    "cores_used_by_others",
)
_DAMAGE = (
    "cases",
    "cases_over_5_ms",
    "legal_chunk_ms",
    "slowest_ms",
    "slowest_to_legal_ratio",
    "cores_used_by_others",
)
_FLEET = (
    "actors",
    "seconds",
    "chunks_per_second",
    "steps_per_second",
    "mb_per_second",
    "bytes_per_step",
    "ack_p50_ms",
    "ack_p99_ms",
    "ack_max_ms",
    "cpu_ms_per_chunk",
    "cpu_ms_per_chunk_by_thread",
    "cpu_cores",
    "memory_mb",
    "memory_slope_mb_per_minute",
    "session_kib",
    "actors_served",
    "imbalance_steps",
    "miscounted_steps",
    "invalid_chunks",
    "reconnects",
    "left_cleanly",
    "cores_used_by_others",
)

_CONTAINERS = (
    "actors",
    "actor_image_mb",
    "learner_image_mb",
    "up_to_first_update_seconds",
    "largest_actor_mib",
    "learner_mib",
    "two_updates_after_kill_of_16_seconds",
    "stop_seconds",
    "imbalance_steps",
)


def _hardware(results: Results) -> str:
    seen = {
        f"{x['processor']}, {x['cores']} cores, torch {x['torch']}, "
        f"bfloat16 {'native' if x['bfloat16'] else 'not native'}"
        for x in results.values()
    }
    return "Hardware: " + ("; ".join(sorted(seen)) or _ABSENT) + "."


def _columns(results: Results, names: Sequence[str], figures: Sequence[str]) -> str:
    """Results side by side, a row for each figure."""
    found = [name for name in names if name in results]
    rows = [[words(figure), *(value(results[name].get(figure)) for name in found)] for figure in figures]
    return table(["", *found], rows) if found else _ABSENT + "."


def _actor(results: Results) -> str:
    if "actor" not in results:
        return _ABSENT + "."
    games = {name: x for name, x in results["actor"].items() if isinstance(x, dict)}
    figures = ("emulator_steps_per_second", "steps_per_second", "ratio", "phase_shares", "bytes_per_step")
    rows = [[game, *(value(x[figure]) for figure in figures)] for game, x in games.items()]
    return table(["game", *map(words, figures)], rows) + _others(results["actor"])


def _wire(results: Results) -> str:
    if "wire" not in results:
        return _ABSENT + "."
    wire = results["wire"]
    figures = (
        "bytes_per_step",
        "zlib_alone_bytes_per_step",
        "encode_ms_per_chunk",
        "decode_ms_per_chunk",
        "inflate_ms_per_chunk",
    )
    rows = [[game, "random", *(value(x[figure]) for figure in figures)] for game, x in wire["random"].items()]
    if isinstance(wire["trained"], dict):
        for game, x in wire["trained"].items():
            rows.append([game, f"{x['env_steps']:,} steps", *(value(x[figure]) for figure in figures)])
    else:
        rows.append(["trained play", wire["trained"], *([""] * len(figures))])
    rows.append(["**mean of random**", "", *(value(wire[figure]) for figure in figures)])
    return table(["game", "policy", *map(words, figures)], rows) + _others(wire)


def _ways(results: Results, name: str) -> str:
    """One result that did the same in several ways, side by side."""
    if name not in results:
        return _ABSENT + "."
    ways = {way: x for way, x in results[name].items() if isinstance(x, dict)}
    figures = list(next(iter(ways.values())))
    rows = [[words(figure), *(value(x[figure]) for x in ways.values())] for figure in figures]
    return table(["", *map(words, ways)], rows) + _others(results[name])


def _growth(results: Results) -> str:
    if "growth" not in results:
        return _ABSENT + "."
    sizes = results["growth"]["sizes"]
    figures = list(next(iter(sizes.values())))
    rows = [[words(figure), *(value(x[figure]) for x in sizes.values())] for figure in figures]
    return table(["sessions", *(f"{int(size):,}" for size in sizes)], rows) + _others(results["growth"])


def _others(result: Mapping[str, Any]) -> str:
    return f"\n\nCores used by other processes meanwhile: {value(result.get('cores_used_by_others'))}."


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def words(name: str) -> str:
    """Of the name of a figure."""
    return name.replace("_", " ")


def value(x: object) -> str:
    """Of a result, for a reader."""
    if isinstance(x, dict):
        return ", ".join(f"{name} {value(part)}" for name, part in x.items())
    if isinstance(x, list):
        apart = "; " if any(isinstance(part, list) for part in x) else ", "
        return apart.join(map(value, x))
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return _number(x)
    return _ABSENT if x is None else str(x)


def _number(value: float) -> str:
    return (
        f"{value:,.0f}"
        if float(value).is_integer()
        else f"{value:,.4g}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )
