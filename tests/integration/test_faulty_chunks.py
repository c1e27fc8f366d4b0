"""A session whose chunks make every update infinite, beside an honest actor of a real learner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.config import RolloutConfig
from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.chunk import Chunk, layout
from common.protocol.sockets import Context
from common.spaces import Spaces
from learner.server.rate_limit import VIOLATIONS_PER_BAN
from tests.support.processes import Run, free_port, wait_until
from tests.support.serving import Peer

pytestmark = pytest.mark.integration

ROLLOUT = RolloutConfig(steps=32, lanes=4, batch_lanes=8)
PENDULUM = Spaces((3,), 1, 1, ((-2.0, 2.0),))
FAR_ACTION = 1e30  # finite, so that the codec accepts it; its log-probability is infinite
FAILURES, STEPS = 4, 2_000
ARGUMENTS = ("pendulum", "--rollout.steps", "32", "--ppo.epochs", "2", "--ppo.minibatches", "4")


class FaultyPeer(Peer):
    """Answers each grant at once with a chunk whose actions are far away."""

    def attack(self) -> None:
        """Send the next chunk if there is credit for it, or a heartbeat if no message arrives."""
        silent = self.receive(0.1) is None
        if self.credit - self.produced >= ROLLOUT.chunk_steps:
            self._send_chunk()
        elif silent:
            self.step(0)

    def _send_chunk(self) -> None:
        arrays = layout(ROLLOUT, PENDULUM, truncations=0)
        chunk = Chunk(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in arrays.items()})
        chunk.action[:] = FAR_ACTION
        offset, steps = self.produced, ROLLOUT.chunk_steps
        self.produced += steps
        message: m.ChunkMessage = codec.pack(chunk).message(
            sid=self.sid,
            generation=self.generation,
            version=self.version,
            offset=offset,
            steps=steps,
            produced=self.produced,
            fresh=offset == 0,
        )
        self.send(message)


def test_a_session_whose_chunks_fail_is_named_and_the_chunks_of_an_honest_actor_are_trained(
    tmp_path: Path,
) -> None:
    """Each batch takes two chunks, so without the examination three failures in a row end the run."""
    assert 3 < FAILURES < VIOLATIONS_PER_BAN
    run = Run(tmp_path, free_port(), (*ARGUMENTS, "--total-steps", "1000000000", "--local-actors", "1"))
    with run.learner() as learner, Context() as context:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        peer = FaultyPeer(context, f"tcp://127.0.0.1:{run.port}")
        peer.join()

        def failed() -> bool:
            assert learner.process.poll() is None, learner.err.read_text()[-2000:]
            return learner.err.read_text().count("session_to_blame") >= FAILURES

        wait_until(failed, f"{FAILURES} chunks to blame", between=peer.attack)
        peer.close()
        trained = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, trained + STEPS), "training after the attack")
        learner.process.terminate()
        assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
    rows = [json.loads(row) for row in learner.err.read_text().splitlines() if "session_to_blame" in row]
    assert {row["sid"] for row in rows} == {peer.sid.hex()}
    summary = run.summary()
    dropped = summary["dropped_steps"]
    assert isinstance(dropped, dict)
    assert dropped["update_failed"] == len(rows) * ROLLOUT.chunk_steps
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
