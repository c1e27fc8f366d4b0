"""`python -m tests.ci.reliability_report`: makes docs/reliability.md from docs/reliability/*.json.

These commands write the results:

    export FIGURES_DIR=$PWD/docs/reliability
    pytest tests/unit tests/integration/test_hostile.py
    pytest -m chaos
    python -m tests.chaos.attack --pairs 6 --seconds 60
    python -m tests.chaos.soak --minutes 30
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.bench.markdown import table, value, words
from tests.bench.report import DOCS, RESULTS
from tests.bench.targets import Results, Target

RESULT_FILES = DOCS / "reliability"
_STRAGGLER_SECONDS = 3.0  # 2 s until the learner grants the chunk to another actor, 1 s to collect it


def _parts(results: Results, prefix: str, figure: str) -> list[float]:
    """The values of a figure in the parts of a test.

    Raises:
        KeyError: there is no result of any part.
    """
    parts = [x[figure] for name, x in results.items() if name.startswith(prefix)]
    if not parts:
        raise KeyError(prefix)
    return parts


def _accounting_errors(results: Results, name: str) -> tuple[float, float]:
    """The steps out of balance and the steps trained twice in a scenario."""
    return results[name]["imbalance_steps"], results[name]["trained_twice_steps"]


TARGETS = (
    Target("kills of actors that made steps", lambda r: (r["B1-killed-actors"]["kills"],), (150,)),
    Target("kills of the learner, each resumed", lambda r: (r["B2-killed-learners"]["resumed"],), (20,)),
    Target(
        "the same: longest time until it trained again, s",
        lambda r: (r["B2-killed-learners"]["back_seconds_max"],),
        (15,),
        at_most=True,
    ),
    Target("partitions of 3 to 60 s", lambda r: (r["B3-partitions"]["partitions"],), (30,)),
    Target(
        "the same: longest time until the actor made steps again, s",
        lambda r: (r["B3-partitions"]["back_seconds_max"],),
        (15,),
        at_most=True,
    ),
    Target(
        "learner stopped with SIGSTOP, s",
        lambda r: (r["B4-frozen-processes"]["learner_stopped_seconds"],),
        (20,),
    ),
    Target(
        "the same: sessions lost",
        lambda r: (r["B4-frozen-processes"]["sessions_lost"],),
        (0,),
        at_most=True,
    ),
    Target(
        "longest time between updates with an actor cut off, stopped or slow, s",
        lambda r: tuple(
            r[name]["update_gap_seconds_max"]
            for name in ("B3-partitions", "B4-frozen-processes", "B6-slow-actor")
        ),
        (_STRAGGLER_SECONDS,) * 3,
        at_most=True,
    ),
    Target(
        "steps out of balance and trained twice: actors killed, learner killed, partitions",
        lambda r: (
            *_accounting_errors(r, "B1-killed-actors"),
            *_accounting_errors(r, "B2-killed-learners"),
            *_accounting_errors(r, "B3-partitions"),
        ),
        (0,) * 6,
        at_most=True,
    ),
    Target(
        "random fault schedules of the ledger", lambda r: (sum(_parts(r, "ledger-", "schedules")),), (3000,)
    ),
    Target("mutated messages", lambda r: (sum(_parts(r, "mutated-", "cases")),), (200_000,)),
    Target("connections with garbage", lambda r: (r["garbage-connections"]["connections"],), (10_000,)),
    Target(
        "throughput under attack, fraction of the usual",
        lambda r: (r["throughput-under-attack"]["ratio"],),
        (0.95,),
    ),
    Target("soak, minutes", lambda r: (r["soak"]["minutes"],), (30,)),
    Target(
        "soak: steps out of balance; steps lost without a reason",
        lambda r: (r["soak"]["imbalance_steps"], r["soak"]["steps_lost_without_a_reason"]),
        (0, 0),
        at_most=True,
    ),
)

_FAULTS = (
    "counted_steps",
    "produced_steps",
    "trained_steps",
    "trained_twice_steps",
    "dropped_steps",
    "in_flight_steps",
    "imbalance_steps",
    "imbalances_exported",
)
_LOAD = (
    "actors",
    "seconds",
    "chunks_per_second",
    "steps_per_second",
    "ack_p99_ms",
    "memory_slope_mb_per_minute",
    "imbalance_steps",
    "miscounted_steps",
)
_MACHINE = ("commit", "processor", "cores", "bfloat16", "torch")
_TEMPLATE = """# Reliability

`python -m tests.ci.reliability_report` writes this page from docs/reliability/*.json, which the tests write.
"Counted" steps are counted by the environments in each process, "produced" steps by the learner's ledger.
They may differ only by the steps that a process made between its last report and its kill.

{machine}

## Against the targets

{targets}

## Faults: step accounting

{faults}

## Faults: other results

{seen}

## Bad input

{inputs}

## Soak: random faults of all kinds

{soak}

## Load

{load}
"""


def _columns(results: Results, figures: tuple[str, ...]) -> str:
    """A table with a row for each result and a column for each figure."""
    rows = [[name, *(value(x.get(figure)) for figure in figures)] for name, x in results.items()]
    return table(["", *map(words, figures)], rows) if rows else "Not measured."


def _others(results: Results, known: tuple[str, ...]) -> str:
    """A table with a row for each result, which lists all its figures except the known ones."""
    rows = [
        [name, "; ".join(f"{words(key)}: {value(x[key])}" for key in x if key not in (*known, *_MACHINE))]
        for name, x in results.items()
    ]
    return table(["", "figures"], rows) if rows else "Not measured."


def _merged(results: Results) -> dict[str, dict[str, Any]]:
    """The results, with those of tests that ran in parts added up."""
    whole: dict[str, dict[str, Any]] = {}
    for name, x in results.items():
        title = name.rstrip("0123456789").rstrip("-")
        merged = whole.setdefault(title, {})
        for key, figure in x.items():
            if isinstance(figure, dict):
                merged[key] = dict(Counter(merged.get(key, {})) + Counter(figure))
            elif isinstance(figure, (int, float)) and key not in _MACHINE:
                merged[key] = merged.get(key, 0) + figure
            else:
                merged[key] = figure
    return whole


def render(results: Results, load: Results) -> str:
    """The text of the page, from the results of the tests and of the load benchmarks."""
    faults = {name: x for name, x in results.items() if name.startswith("B") and not name.endswith("-short")}
    inputs = {name: x for name, x in results.items() if not name.startswith("B") and name != "soak"}
    machines = {", ".join(f"{words(key)} {value(x.get(key))}" for key in _MACHINE) for x in results.values()}
    return _TEMPLATE.format(
        machine="\n".join(f"* {machine}" for machine in sorted(machines)) or "Not measured.",
        targets=table(["what", "measured", "target", "verdict"], [target.row(results) for target in TARGETS]),
        faults=_columns({name: x for name, x in faults.items() if "counted_steps" in x}, _FAULTS),
        seen=_others(faults, (*_FAULTS, "slopes_per_minute")),  # most are too short for a slope
        inputs=_others(_merged(inputs), ()),
        soak=_others({name: results[name] for name in results if name == "soak"}, ()),
        load=_columns(load, _LOAD),
    )


def page() -> str:
    """The text of docs/reliability.md, from the stored results."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULT_FILES.glob("*.json"))}
    load = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("fleet-*.json"))}
    return render(results, load)


def main() -> None:
    """Replace docs/reliability.md."""
    (DOCS / "reliability.md").write_text(page())


if __name__ == "__main__":
    main()
