"""`python -m learner.verify_ledger RUN_DIR`: the books of the newest checkpoint, added up once more.

The ledger keeps its sums beside the ranges that they are sums of. Here the sums are derived from the
ranges, and the trained steps from the number of updates, without the code that wrote either.
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


def problems(books: dict[str, Any], trained_steps: int) -> Iterator[str]:
    """What is wrong with a ledger in its saved form, one sentence each.

    Args:
        books: what `Ledger.to_json` writes.
        trained_steps: what the updates of the run have taken in.
    """
    sums: Counter[str] = Counter()
    produced = 0
    for sid, (made, dead, booked, *_) in books["accounts"].items():
        produced += made
        end = 0
        for start, stop, verdict in booked:
            sums[verdict] += stop - start
            if not start < stop <= made:
                yield f"session {sid}: expected a range within [0, {made}), got [{start}, {stop})"
            if start < end:
                yield f"session {sid}: expected each step booked once, got [{start}, {min(end, stop)}) twice"
            if dead and start > end:
                yield f"session {sid}: expected an ended session booked whole, got [{end}, {start}) missing"
            if verdict not in _VERDICTS:
                yield f"session {sid}: expected a known verdict, got {verdict!r}"
            end = max(end, stop)
        if dead and end < made:
            yield f"session {sid}: expected an ended session booked whole, got [{end}, {made}) missing"
    forgotten = books["produced"] - produced  # steps of ended sessions whose ranges are no longer kept
    of_forgotten = {verdict: books["verdicts"].get(verdict, 0) - sums[verdict] for verdict in _VERDICTS}
    if books["seen"] == len(books["accounts"]) and (forgotten or any(of_forgotten.values())):
        yield f"sums: expected those of the ranges, got {forgotten} produced and {of_forgotten} beyond them"
    if sum(of_forgotten.values()) != forgotten or min(of_forgotten.values()) < 0:
        yield f"sums: expected ended sessions booked whole, got {of_forgotten} of {forgotten} steps"
    if books["verdicts"].get(_TRAINED, 0) != trained_steps:
        yield (
            f"sums: expected {trained_steps} trained steps after so many updates, "
            f"got {books['verdicts'].get(_TRAINED, 0)}"
        )


def _seats(books: dict[str, Any], seats: list[Any]) -> Iterator[str]:
    seated = {sid for sid, *_ in seats[0]}
    alive = {sid for sid, (_, dead, *_) in books["accounts"].items() if not dead}
    for sid in sorted(seated ^ alive):
        yield f"session {sid}: expected a seat for every open account and no other, got only one of the two"


def verify(saved: Checkpoint) -> list[str]:
    """What is wrong with the books in a checkpoint, one sentence each."""
    admission = json.loads(saved.meta["accounting"])
    books = json.loads(admission["ledger"])
    config = Config.from_json(saved.meta["config"])
    trained_steps = max(0, saved.meta["version"]) * config.rollout.batch_steps
    return [*problems(books, trained_steps), *_seats(books, admission["seats"])]


def main(argv: list[str]) -> int:
    """Verify the newest intact checkpoint of a run; returns the exit code."""
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
    books = json.loads(json.loads(saved.meta["accounting"])["ledger"])
    dropped = {verdict: steps for verdict, steps in sorted(books["verdicts"].items()) if verdict != _TRAINED}
    trained = books["verdicts"].get(_TRAINED, 0)
    in_flight = sum(
        made - sum(stop - start for start, stop, _ in booked)
        for made, _, booked, *_ in books["accounts"].values()
    )
    print(
        f"version {saved.meta['version']}: produced {books['produced']} = trained {trained} + dropped "
        f"{sum(dropped.values())} {dropped} + in flight {in_flight}; {books['seen']} sessions, "
        f"{len(found)} problems"
    )
    return EXIT_INTERNAL if found else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
