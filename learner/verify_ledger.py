"""`python -m learner.verify_ledger RUN_DIR`: recomputes the newest checkpoint's step accounting.

The ledger stores its sums as well as the ranges of steps. This command computes the sums from the ranges, and
the trained steps from the number of updates. It uses no code of the ledger.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from common import arguments, log
from common.config import Config
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_INTERNAL, EXIT_USAGE
from common.protocol.messages import Reason
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint, CheckpointError

_TRAINED = "trained"
_VERDICTS = {_TRAINED, *get_args(Reason)}


def problems(ledger: dict[str, Any], trained_steps: int) -> Iterator[str]:
    """Yield one sentence for each error in a saved ledger.

    Args:
        ledger: the JSON of `Ledger.to_json`.
        trained_steps: the number of steps in the run's updates.
    """
    sums: Counter[str] = Counter()
    produced_steps = 0
    for sid, (produced, closed, recorded, *_) in ledger["accounts"].items():
        produced_steps += produced
        end = 0
        for start, stop, verdict in recorded:
            sums[verdict] += stop - start
            if not start < stop <= produced:
                yield f"session {sid}: expected a range within [0, {produced}), got [{start}, {stop})"
            if start < end:
                yield f"session {sid}: expected each step once, got [{start}, {min(end, stop)}) twice"
            if closed and start > end:
                yield f"session {sid}: expected every step of a closed session, got none of [{end}, {start})"
            if verdict not in _VERDICTS:
                yield f"session {sid}: expected a known verdict, got {verdict!r}"
            end = max(end, stop)
        if closed and end < produced:
            yield f"session {sid}: expected every step of a closed session, got none of [{end}, {produced})"
    # Steps of closed sessions whose ranges are no longer stored, in total and by verdict.
    rest_steps = ledger["produced"] - produced_steps
    rest = {verdict: ledger["verdicts"].get(verdict, 0) - sums[verdict] for verdict in _VERDICTS}
    if ledger["seen"] == len(ledger["accounts"]) and (rest_steps or any(rest.values())):
        yield f"sums: expected the sums of the ranges, got {rest_steps} produced and {rest} more"
    if sum(rest.values()) != rest_steps or min(rest.values()) < 0:
        yield f"sums: expected every step of closed sessions recorded, got {rest} of {rest_steps} steps"
    if ledger["verdicts"].get(_TRAINED, 0) != trained_steps:
        yield (
            f"sums: expected {trained_steps} trained steps after the updates of the run, "
            f"got {ledger['verdicts'].get(_TRAINED, 0)}"
        )


def _sessions(ledger: dict[str, Any], sessions: list[Any]) -> Iterator[str]:
    live = {sid for sid, *_ in sessions[0]}
    open_accounts = {sid for sid, (_, closed, *_) in ledger["accounts"].items() if not closed}
    for sid in sorted(live ^ open_accounts):
        yield f"session {sid}: expected both a slot and an open account, got only one of them"


def _read(saved: Checkpoint) -> tuple[dict[str, Any], list[Any]]:
    """Return ledger and sessions of a checkpoint."""
    accounting = json.loads(saved.meta["accounting"])
    return json.loads(accounting["ledger"]), accounting["sessions"]


def verify(saved: Checkpoint) -> list[str]:
    """Return one sentence for each error in the step accounting of a checkpoint."""
    ledger, sessions = _read(saved)
    config = Config.from_json(saved.meta["config"])
    trained_steps = max(0, saved.meta["version"]) * config.rollout.batch_steps
    return [*problems(ledger, trained_steps), *_sessions(ledger, sessions)]


def main(argv: list[str]) -> int:
    """Verify the newest intact checkpoint of a run; return the exit code."""
    log.configure("ledger")
    return arguments.exit_code(lambda: _verify_run(argv), "ledger")


def _verify_run(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m learner.verify_ledger RUN_DIR", file=sys.stderr)
        return EXIT_USAGE
    path = Path(argv[0])
    try:
        saved = checkpoint.newest(path / "checkpoints")
    except CheckpointError as error:
        print(f"ledger: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    if saved is None:
        print(
            f"ledger: expected a run with a checkpoint, got none in {path}: name its directory",
            file=sys.stderr,
        )
        return EXIT_CONFIGURATION
    found = verify(saved)
    for problem in found:
        print(f"ledger: {problem}", file=sys.stderr)
    print(f"{_summary(saved)}, {len(found)} problems")
    return EXIT_INTERNAL if found else EXIT_DONE


def _summary(saved: Checkpoint) -> str:
    ledger, _ = _read(saved)
    dropped = {verdict: steps for verdict, steps in sorted(ledger["verdicts"].items()) if verdict != _TRAINED}
    in_flight = sum(
        produced - sum(stop - start for start, stop, _ in recorded)
        for produced, _, recorded, *_ in ledger["accounts"].values()
    )
    return (
        f"version {saved.meta['version']}: produced {ledger['produced']} = trained "
        f"{ledger['verdicts'].get(_TRAINED, 0)} + dropped {sum(dropped.values())} {dropped} + in flight "
        f"{in_flight}; {ledger['seen']} sessions"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
