"""`python -m tests.chaos.soak --minutes N --seed S`: random faults of all kinds, with Atari actors.

It runs a local actor, two remote actors behind a fault proxy and one with a direct connection, beside two
hostile sessions of another key. It prints a line for each fault and the totals. Each process counts its
emulator steps; at the end each count is compared with the sessions of that process in the ledger of the last
checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from common.process.lifecycle import EXIT_TEMPORARY
from learner import verify_ledger
from learner.training import checkpoint
from tests.chaos.soak_accounting import Losses, unaccounted_steps
from tests.support.fault_harness import Sampler, frozen
from tests.support.keyed_run import attack, make_keys, start_actors
from tests.support.processes import Command, Run, free_port, kill, wait_until
from tests.support.proxy import PARTITION, FaultProxy, NetworkConditions
from tests.support.result_files import keep
from tests.support.session_attack import SessionAttack

LANES, STEPS = 2, 32
ARGUMENTS = (
    "smoke",
    *("--total-steps", "1000000000", "--rollout.steps", str(STEPS), "--rollout.lanes", str(LANES)),
    *("--rollout.batch-lanes", "4", "--rnd.warmup-steps", "512", "--ppo.epochs", "1", "--local-actors", "1"),
)
_TRAINING_SECONDS = 180.0  # the longest time from a fault to further training, on a busy machine
HONEST_SESSIONS, HOSTILE_SESSIONS = 4, 2


@dataclass
class Soak:
    """The processes of the run, and a record of the faults so far."""

    directory: Path
    seed: int
    sampler: Sampler = field(default_factory=Sampler)
    faults: Counter[str] = field(default_factory=Counter)
    back_seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.run = Run(self.directory, free_port(), (*ARGUMENTS, *make_keys(self.directory)), count=True)
        self.proxy = FaultProxy(free_port(), self.run.port, self.seed)
        self._actors = 0
        self.hostile: list[SessionAttack]
        self.direct_actor: Command  # the remote actor that does not use the proxy
        self.started = time.monotonic()

    def start_learner(self) -> None:
        """Start a learner, which resumes the run if there is one."""
        self._learner_stack = contextlib.ExitStack()
        self.learner = self._learner_stack.enter_context(self.run.learner("--resume"))
        self._learner_stack.enter_context(self.sampler.of(self.run, self.learner))

    def start_actor(self, port: int, procs: int) -> Command:
        """Start remote actors that connect to `port`."""
        self._actors += 1
        return start_actors(self.run, f"actor{self._actors}", port, procs, count=True)

    def running_actors(self) -> list[psutil.Process]:
        """Every running process that has made steps; records the time at which each was seen."""
        made = [pid for pid, steps in self.run.counted_by_process().items() if steps]
        now, running = time.time(), []
        for pid in made:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    self.losses.last_seen[pid] = now
                    running.append(process)
        return running

    def steps(self) -> float:
        return self.run.metric("outrider_run_env_steps", self.learner)

    def training(self) -> float:
        """Wait until the learner trains again; return the time that this took, in seconds."""
        return wait_until(lambda: self.steps() > 0, "a learner", _TRAINING_SECONDS) + self._progress()

    def _progress(self) -> float:
        before = self.steps()
        return wait_until(lambda: self.steps() > before, "progress", _TRAINING_SECONDS)

    # The faults. Each method returns a description of what it did.

    def kill_actor(self) -> str:
        actor = self.rng.choice(self.running_actors())
        self.losses.killed.add(actor.pid)
        kill(actor.pid)
        if actor.pid == self.direct_actor.pid:  # the others are restarted by their parents
            self.direct_actor.finish(10)
            self.direct_actor = self.start_actor(self.run.port, 1)
        return f"kill -9 of actor {actor.pid}"

    def kill_learner(self) -> str:
        checkpoints = self.run.path / "checkpoints"
        time.sleep(self.rng.uniform(0.0, 3.0))
        self.running_actors()
        saved = max(path.stat().st_mtime for path in checkpoints.glob("*.safetensors"))
        kill(self.learner.pid)
        self._learner_stack.close()
        self.losses.rollbacks.append((saved, time.time()))
        self.start_learner()
        return "kill -9 of the learner, --resume"

    def freeze_learner(self) -> str:
        seconds = self.rng.uniform(2.0, 20.0)
        with frozen(psutil.Process(self.learner.pid)):
            time.sleep(seconds)
        return f"learner stopped for {seconds:.0f} s"

    def freeze_actor(self) -> str:
        actor, seconds = self.rng.choice(self.running_actors()), self.rng.uniform(2.0, 20.0)
        with frozen(actor):
            time.sleep(seconds)
        return f"actor {actor.pid} stopped for {seconds:.0f} s"

    def network(
        self, name: str, conditions: NetworkConditions, seconds: tuple[float, float]
    ) -> Callable[[], str]:
        """Make the function that applies a fault to the network between the learner and proxied actors."""

        def fault() -> str:
            length = self.rng.uniform(*seconds)
            with self.proxy.during(conditions):
                if conditions.cut_bytes:
                    self.proxy.half_open()
                time.sleep(length)
            return f"{name} for {length:.0f} s"

        return fault

    def half_open(self) -> str:
        self.proxy.half_open()
        return "half-open connections"

    def replace_actor(self) -> str:
        self.running_actors()
        self.direct_actor.process.terminate()
        code = self.direct_actor.finish(40)
        assert code == EXIT_TEMPORARY, self.direct_actor.err.read_text()[-2000:]
        self.direct_actor = self.start_actor(self.run.port, 1)
        return "SIGTERM of an actor (exit 75), another one started"

    def kinds(self) -> list[tuple[str, int, Callable[[], str]]]:
        """The name, the weight and the function of each kind of fault."""
        up, down = NetworkConditions(hold_up=True), NetworkConditions(hold_down=True)
        cut, delay = NetworkConditions(cut_bytes=100_000), NetworkConditions(delay_seconds=0.05)
        slow = NetworkConditions(bytes_per_second=7_000)
        return [
            ("actor killed", 4, self.kill_actor),
            ("learner killed", 2, self.kill_learner),
            ("learner stopped", 2, self.freeze_learner),
            ("actor stopped", 2, self.freeze_actor),
            ("partition", 2, self.network("partition", PARTITION, (3.0, 40.0))),
            ("black hole up", 1, self.network("black hole to the learner", up, (3.0, 20.0))),
            ("black hole down", 1, self.network("black hole to actors", down, (3.0, 20.0))),
            ("half-open", 1, self.half_open),
            ("cut connections", 1, self.network("cut connections", cut, (5.0, 15.0))),
            ("delay", 1, self.network("50 ms delay", delay, (5.0, 15.0))),
            ("throttle", 1, self.network("56 kbit/s", slow, (5.0, 15.0))),
            ("actor replaced", 1, self.replace_actor),
        ]

    def inject(self, minutes: float) -> None:
        """Run the learner and the actors, and inject faults in random order until the time is over."""
        kinds = self.kinds()
        weights = [weight for _, weight, _ in kinds]
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.proxy)
            self.start_learner()
            stack.callback(lambda: self._learner_stack.close())
            self.direct_actor = self.start_actor(self.run.port, 1)
            stack.callback(lambda: self.direct_actor.end())
            proxied = self.start_actor(self.proxy.port, 2)
            stack.callback(proxied.end)
            wait_until(
                lambda: len(self.running_actors()) >= HONEST_SESSIONS and self.steps() > 0,
                "steps of all actors",
                600.0,
            )
            self.hostile = stack.enter_context(attack(self.run, HOSTILE_SESSIONS))
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end:
                name, _, fault = self.rng.choices(kinds, weights)[0]
                began = time.monotonic()
                text = fault()
                self.faults[name] += 1
                back = self.training()
                self.back_seconds[name].append(back)
                print(f"{began - self.started:7.1f} s  {text}; training after {back:.1f} s", flush=True)
                wait_until(lambda: len(self.running_actors()) >= HONEST_SESSIONS, "all actors back", 300.0)
                time.sleep(self.rng.uniform(1.0, 4.0))
            self.training()
            self.running_actors()
            for actor in (self.direct_actor, proxied):
                actor.process.terminate()
                assert actor.finish(60) == EXIT_TEMPORARY, actor.err.read_text()[-2000:]
            self.learner.process.terminate()
            assert self.learner.finish(60) == EXIT_TEMPORARY, self.learner.err.read_text()[-2000:]

    # The accounting.

    def totals(self) -> dict[str, Any]:
        """The ledger, the independent counts, and the reasons for their differences."""
        saved = checkpoint.newest(self.run.path / "checkpoints")
        assert saved is not None
        rows = list(itertools.chain.from_iterable(self.sampler.processes))
        summary, problems = self.run.summary(), verify_ledger.verify(saved)
        accounts = json.loads(json.loads(saved.meta["accounting"])["ledger"])["accounts"]
        missing = unaccounted_steps(self.directory, self.run, accounts, self.losses, LANES * STEPS)
        return {
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.started) / 60, 1),
            "faults": dict(self.faults),
            "fault_count": self.faults.total(),
            "back_seconds_max": {name: round(max(times), 1) for name, times in self.back_seconds.items()},
            "hostile_messages": sum(peer.sent for peer in self.hostile),
            "hostile_grants": sum(peer.grants for peer in self.hostile),
            "hostile_sessions": sum(peer.sessions for peer in self.hostile),
            "hostile_bans": sum(peer.bans for peer in self.hostile),
            "counted_steps": self.run.counted_steps(),
            "produced_steps": summary["produced_steps"],
            "trained_steps": summary["trained_steps"],
            "dropped_steps": summary["dropped_steps"],
            "in_flight_steps": summary["in_flight_steps"],
            "imbalance_steps": summary["imbalance_steps"],
            "imbalances_exported": sorted(self.sampler.imbalances),
            "ledger_problems": problems,
            "unaccounted_steps": dict(missing),
            "steps_lost_without_a_reason": missing["no_reason"],
            "updates": summary["updates"],
            "sessions": summary["actors_seen"],
            "memory_bytes_max": max(row[1] for row in rows),
            "descriptors_max": max(row[2] for row in rows),
            "threads_max": max(row[3] for row in rows),
            "slopes_per_minute": self.sampler.slopes(),
            "memory_mb_by_process_and_minute": self.sampler.megabytes(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--minutes", type=float, default=30.0, help="duration of the faults (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (default 0)")
    parser.add_argument("--directory", type=Path, help="keep the run in this directory")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        soak = Soak(directory.absolute(), options.seed)
        soak.inject(options.minutes)
        totals = soak.totals()
    for name, value in totals.items():
        print(f"{name:28} {value}")
    keep("soak", totals)
    passed = (
        totals["imbalance_steps"] == totals["in_flight_steps"] == totals["steps_lost_without_a_reason"] == 0
        and totals["imbalances_exported"] == [0.0]
        and not totals["ledger_problems"]
        and totals["hostile_grants"] > 0
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
