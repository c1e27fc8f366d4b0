"""Makes docs/benchmarks.md from docs/benchmarks/*.json and template.md: its tables and verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.markdown import ABSENT, table, value, words
from tests.bench.targets import TARGETS, Results

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "benchmarks"
_HERE = Path(__file__).parent


def render(results: Results, template: str, shortfalls: str) -> str:
    """The text of the page: the template with the tables of the results."""
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
        lag=_variants(results, "lag"),
        weights=_variants(results, "weights"),
        growth=_growth(results),
        containers=_columns(results, ("containers",), _CONTAINERS),
        shortfalls=shortfalls.strip(),
    )


def page() -> str:
    """The text of docs/benchmarks.md, from the stored results."""
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
    "bottleneck",
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
    return "Hardware: " + ("; ".join(sorted(seen)) or ABSENT) + "."


def _columns(results: Results, names: Sequence[str], figures: Sequence[str]) -> str:
    """A table with a column for each result and a row for each figure."""
    found = [name for name in names if name in results]
    rows = [[words(figure), *(value(results[name].get(figure)) for name in found)] for figure in figures]
    return table(["", *found], rows) if found else ABSENT + "."


def _actor(results: Results) -> str:
    if "actor" not in results:
        return ABSENT + "."
    games = {name: x for name, x in results["actor"].items() if isinstance(x, dict)}
    figures = ("emulator_steps_per_second", "steps_per_second", "ratio", "phase_shares", "bytes_per_step")
    rows = [[game, *(value(x[figure]) for figure in figures)] for game, x in games.items()]
    return table(["game", *map(words, figures)], rows) + _load(results["actor"])


def _wire(results: Results) -> str:
    if "wire" not in results:
        return ABSENT + "."
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
        rows.append(["trained policies", wire["trained"], *([""] * len(figures))])
    rows.append(["**mean of random**", "", *(value(wire[figure]) for figure in figures)])
    return table(["game", "policy", *map(words, figures)], rows) + _load(wire)


def _variants(results: Results, name: str) -> str:
    """A table with a column for each variant of one benchmark and a row for each figure."""
    if name not in results:
        return ABSENT + "."
    variants = {variant: x for variant, x in results[name].items() if isinstance(x, dict)}
    figures = list(next(iter(variants.values())))
    rows = [[words(figure), *(value(x[figure]) for x in variants.values())] for figure in figures]
    return table(["", *map(words, variants)], rows) + _load(results[name])


def _growth(results: Results) -> str:
    if "growth" not in results:
        return ABSENT + "."
    sizes = results["growth"]["sizes"]
    figures = list(next(iter(sizes.values())))
    rows = [[words(figure), *(value(x[figure]) for x in sizes.values())] for figure in figures]
    return table(["sessions", *(f"{int(size):,}" for size in sizes)], rows) + _load(results["growth"])


def _load(result: Mapping[str, Any]) -> str:
    return f"\n\nCores used by other processes: {value(result.get('cores_used_by_others'))}."
