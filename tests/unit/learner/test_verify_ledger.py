"""The offline check finds every way in which a saved ledger can be wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from learner import verify_ledger
from learner.server.ledger import Ledger
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint

A, B, C = (letter * 16 for letter in (b"a", b"b", b"c"))
STEPS = Config().rollout.batch_steps


def sound_ledger() -> dict[str, Any]:
    """A warm-up, one update of A, a closed B, and C in flight."""
    ledger = Ledger()
    for sid in (A, B, C):
        ledger.open(sid)
    ledger.receive(A, 0, 10)
    ledger.settle(A, 0, "warmup")
    ledger.receive(A, 10, 10 + STEPS)
    ledger.settle(A, 10, "trained")
    ledger.announce(B, 7)
    ledger.close_session(B, "actor_lost")
    ledger.announce(C, 5)
    value: dict[str, Any] = json.loads(ledger.to_json())
    return value


def saved(ledger: dict[str, Any], version: int = 1) -> Checkpoint:
    sessions = [[[A.hex(), 0, False], [C.hex(), 1, True]], [[0, 0], [1, 0]]]
    text = json.dumps({"ledger": json.dumps(ledger), "sessions": sessions})
    return Checkpoint({}, {"version": version, "config": Config().to_json(), "accounting": text})


def test_a_sound_ledger_has_no_problem() -> None:
    assert verify_ledger.verify(saved(sound_ledger())) == []


def test_sessions_without_ranges_count_and_are_no_problem() -> None:
    """Only the sums of sessions that were closed long ago are kept."""
    ledger = sound_ledger()
    del ledger["accounts"][B.hex()]
    assert verify_ledger.verify(saved(ledger)) == []
    ledger["produced"] += 1
    assert len(verify_ledger.verify(saved(ledger))) == 1


Damage = Callable[[dict[str, Any]], object]
DAMAGES: list[tuple[str, Damage, str]] = [
    ("a step lost", lambda x: x["accounts"][B.hex()][2].clear(), "closed session"),
    ("a step too many", lambda x: x.update(produced=x["produced"] + 1), "sums"),
    ("a verdict too many", lambda x: x["verdicts"].update(stale=3), "sums"),
    ("trained twice", lambda x: x["accounts"][A.hex()][2].append([5, 20, "trained"]), "twice"),
    (
        "beyond the produced steps",
        lambda x: x["accounts"][C.hex()][2].append([3, 9, "stale"]),
        "within [0, 5)",
    ),
    ("an unknown verdict", lambda x: x["accounts"][C.hex()][2].append([0, 5, "unknown"]), "'unknown'"),
    (
        "a gap in a closed session",
        lambda x: x["accounts"][B.hex()].__setitem__(2, [[2, 7, "actor_lost"]]),
        "[0, 2)",
    ),
    ("open without a slot", lambda x: x["accounts"][B.hex()].__setitem__(1, False), "slot"),
    ("closed with a slot", lambda x: x["accounts"][C.hex()].__setitem__(1, True), "slot"),
]


@pytest.mark.parametrize(("damage", "words"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_every_kind_of_damage_is_named(damage: Damage, words: str) -> None:
    ledger = copy.deepcopy(sound_ledger())
    damage(ledger)
    found = verify_ledger.verify(saved(ledger))
    assert any(words in problem for problem in found), found


def test_trained_steps_are_those_of_the_updates() -> None:
    """The version gives the number of updates."""
    assert any(
        "trained steps" in problem for problem in verify_ledger.verify(saved(sound_ledger(), version=2))
    )


def test_the_exit_code_of_the_command_tells_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is 0 for a sound ledger, 70 for problems, 78 without a checkpoint and 2 for bad arguments."""
    assert verify_ledger.main([]) == 2
    assert verify_ledger.main([str(tmp_path)]) == 78
    (tmp_path / "checkpoints").mkdir()
    checkpoint.save(tmp_path / "checkpoints", 1, saved(sound_ledger()))
    assert verify_ledger.main([str(tmp_path)]) == 0
    assert "0 problems" in capsys.readouterr().out
    checkpoint.save(tmp_path / "checkpoints", 2, saved(sound_ledger(), version=2))
    assert verify_ledger.main([str(tmp_path)]) == 70
    assert len(capsys.readouterr().err.splitlines()) == 1
