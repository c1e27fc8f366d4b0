"""Random faults of actors, network and learner: the ledger counts every step once."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.ledger_simulation import LedgerSimulation, covers
from tests.support.result_files import keep

SCHEDULES, BLOCKS, EVENTS = 3_000, 10, 260


def check_drained(simulation: LedgerSimulation, seed: int) -> None:
    """Check every account against the steps that its actor made, and that its ranges cover them."""
    ledger = simulation.ledger
    for actor in simulation.actors:
        assert ledger.accounts[actor.sid].produced == simulation.made_steps[actor.sid], seed
        assert ledger.accounts[actor.sid].announced == 0, seed
    for sid, account in ledger.accounts.items():
        ledger.close_session(sid, "actor_lost")
        # A killed actor may have made steps that it never announced.
        assert account.produced <= simulation.made_steps[sid], seed
        assert not account.pending, seed
        assert covers(account, account.produced), (seed, account)
    totals = ledger.totals()
    assert (totals.imbalance, totals.in_flight) == (0, 0), seed


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_step_is_recorded_once_under_random_faults(block: int) -> None:
    """The ledger balances after every event; in the end its ranges cover the steps of each session."""
    verdicts: Counter[str] = Counter()
    for seed in range(block * SCHEDULES // BLOCKS, (block + 1) * SCHEDULES // BLOCKS):
        simulation = LedgerSimulation(seed)
        for _ in range(EVENTS):
            simulation.run_event()
            assert simulation.ledger.totals().imbalance == 0, seed
        simulation.drain()
        check_drained(simulation, seed)
        totals = simulation.ledger.totals()
        verdicts += Counter({"trained": totals.trained, **totals.dropped})
    assert verdicts.keys() >= {"trained", "stale", "actor_lost", "learner_rollback", "oversize"}, verdicts
    keep(f"ledger-schedules-{block}", {"schedules": SCHEDULES // BLOCKS, "steps": dict(verdicts)})
