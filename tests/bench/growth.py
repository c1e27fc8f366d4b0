"""Measures what a chunk and a session cost the learner, for several fleet sizes at one rate of chunks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.machine import hardware

_FLEETS = (2, 32, 256, 2_000)
_CHUNKS_PER_SECOND = 100.0
_SECONDS = 10.0
_TIMEOUT_SECONDS = 180
_FIGURES = (
    "chunks_per_second",
    "cpu_ms_per_chunk",
    "cpu_ms_per_chunk_by_thread",
    "idle_cpu_us_per_session_second",
    "session_kib",
    "ack_p99_ms",
    "imbalance_steps",
)


def measure() -> dict[str, object]:
    """Run `fleet` in its own process for each size, because a process does not return freed memory."""
    sizes = {}
    for actors in _FLEETS:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "fleet.json"
            argv = [sys.executable, "-m", "tests.bench", "fleet", "--json", str(path)]
            argv += ["--actors", str(actors), "--rate", str(_CHUNKS_PER_SECOND), "--seconds", str(_SECONDS)]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_SECONDS)
            result = json.loads(path.read_text())
        idle = result["idle_cpu_us_per_session_second"] * actors / result["chunks_per_second"] / 1e3
        net = {"cpu_ms_per_chunk_without_idle": round(result["cpu_ms_per_chunk"] - idle, 3)}
        sizes[str(actors)] = {name: result[name] for name in _FIGURES} | net
    first, last = (sizes[str(actors)] for actors in (_FLEETS[0], _FLEETS[-1]))
    return {
        **hardware(),
        "benchmark": "growth",
        "rate_asked": _CHUNKS_PER_SECOND,
        "sizes": sizes,
        "cpu_ratio_largest_to_smallest": round(
            last["cpu_ms_per_chunk_without_idle"] / first["cpu_ms_per_chunk_without_idle"], 2
        ),
    }
