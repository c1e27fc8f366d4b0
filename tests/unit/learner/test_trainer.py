"""The trainer's loop against a server without sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.process.lifecycle import EXIT_INTERNAL, Fatal
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.checkpoint_writer import CheckpointWriter
from tests.support.fake_server import FakeServer, make_trainer

T, B, E = 7, 2, 6
SPACES = Spaces((3,), 1, 4)
CONFIG = Config(
    precision="float32",
    max_lag=2,
    total_steps=10 * T * E,
    env=EnvConfig(reward="scaled"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=E),
    ppo=PPOConfig(epochs=1, minibatches=1),
    rnd=RNDConfig(warmup_steps=3 * T * B),
)
Maker = Callable[..., Chunk]


def chunks_of(make_chunk: Maker, batch: int = 5, version: int | None = None) -> list[DecodedChunk]:
    """One chunk of noise from each of three slots."""
    version = batch if version is None else version
    return [
        DecodedChunk(
            bytes([slot]) * 16,
            batch,
            slot,
            0,
            0,
            version,
            True,
            make_chunk(T, B, SPACES, 3 * batch + slot + 3),
        )
        for slot in range(3)
    ]


def with_nan(chunks: list[DecodedChunk]) -> list[DecodedChunk]:
    """The same chunks with one NaN bonus."""
    chunks[0].chunk.bonus[3, 1] = np.nan
    return chunks


ORDER = [(slot, 0, 0) for slot in range(3)]


def test_an_update_settles_takes_the_accounting_publishes_and_hands_out_credit(
    make_chunk: Maker, tmp_path: Path
) -> None:
    """The checkpoint must have the accounting from before the actors get the next version."""
    server, writer = FakeServer(chunks_of(make_chunk)[::-1]), CheckpointWriter(tmp_path)
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5, checkpoints=writer)
    assert trainer.update() is not None
    settled = ("settle", "trained", ORDER)
    assert server.calls == [settled, ("accounting",), ("publish", 6), ("open_batch", 6)]
    assert trainer.status.version == 6
    assert trainer.status.checkpoint_at is not None
    assert trainer.snapshot("text").meta["accounting"] == "text"
    server.chunks.extend(chunks_of(make_chunk, 6))
    trainer.update()  # the next checkpoint is not due
    assert server.calls.count(("accounting",)) == 1


def test_the_last_update_publishes_nothing(make_chunk: Maker, tmp_path: Path) -> None:
    server = FakeServer(chunks_of(make_chunk, 9))
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=9)
    trainer.update()
    assert server.calls == [("settle", "trained", ORDER)]
    assert trainer.status.version == CONFIG.updates == 10


def test_chunks_of_a_later_batch_wait_for_it(make_chunk: Maker, tmp_path: Path) -> None:
    now, later = chunks_of(make_chunk, 5), chunks_of(make_chunk, 6, version=5)
    server = FakeServer([later[1], now[2], now[0], later[0], now[1]])
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
    trainer.update()
    assert dict(trainer.status.lags) == {0: 3}
    server.chunks.append(later[2])
    trainer.update()
    assert trainer.status.version == 7
    assert dict(trainer.status.lags) == {0: 3, 1: 3}
    assert trainer.status.lag_max == 1


def test_while_no_chunk_arrives_the_callback_is_called_until_the_run_is_stopped(tmp_path: Path) -> None:
    stop, waits = threading.Event(), list[int]()

    def on_wait() -> None:
        waits.append(len(waits))
        if len(waits) == 3:
            stop.set()

    server = FakeServer()
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5, stop=stop, on_wait=on_wait)
    assert trainer.update() is None
    assert waits == [0, 1, 2]
    assert server.calls == []
    stopped = make_trainer(CONFIG, SPACES, FakeServer(), tmp_path, stop=stop)
    assert not stopped.warm_up()


def test_the_warm_up_does_not_depend_on_the_order_of_arrival(make_chunk: Maker, tmp_path: Path) -> None:
    states = []
    for step in (1, -1):
        server = FakeServer(chunks_of(make_chunk, -1)[::step])
        trainer = make_trainer(CONFIG, SPACES, server, tmp_path)
        assert trainer.warm_up()
        states.append(trainer.normaliser.state())
        assert [call[0] for call in server.calls] == ["open_batch", *["settle"] * 3, "publish", "open_batch"]
        assert trainer.status.warmup_chunks == 3
        assert trainer.status.version == 0
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert float(states[0]["observation.count"]) == pytest.approx(3 * T * B, abs=0.01)


def test_episodes_of_a_failed_update_are_not_reported(make_chunk: Maker, tmp_path: Path) -> None:
    """Their chunks are not trained on."""
    chunks = chunks_of(make_chunk)
    for decoded in chunks:
        decoded.chunk.terminated[T - 1] = True
    good = make_trainer(CONFIG, SPACES, FakeServer(chunks), tmp_path, version=5)
    assert good.update()
    trainer = make_trainer(CONFIG, SPACES, FakeServer(with_nan(chunks)), tmp_path, version=5)
    assert trainer.update() == []
    assert trainer.episodes.count == 0


def test_a_failed_update_leaves_every_statistic_as_it_was(make_chunk: Maker, tmp_path: Path) -> None:
    """The next update, with its running returns, is that of a run without the failed one."""
    states = []
    for batches in ((0, 1), (0, None, 1)):
        server = FakeServer()
        trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
        for batch in batches:
            before = trainer.normaliser.state()
            chunks = chunks_of(make_chunk, trainer.status.version)
            server.chunks.extend(chunks if batch is not None else with_nan(chunks))
            trainer.update()
            after = trainer.normaliser.state()
            kept = {name for name, x in after.items() if name in before and torch.equal(x, before[name])}
            assert kept == (after.keys() if batch is None else set())
        states.append(trainer.normaliser.state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_failed_batch_is_kept_settled_as_dropped_and_asked_for_again(
    make_chunk: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the networks are the cause: every chunk fails alone."""
    chunks = chunks_of(make_chunk)
    server = FakeServer(chunks)
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
    weights = {name: value.clone() for name, value in trainer.ppo.tensors().items()}
    monkeypatch.setattr(trainer.ppo, "update", lambda *rest: None)
    assert trainer.update() == []
    assert server.calls == [("settle", "update_failed", ORDER), ("retry_batch", 3)]
    assert (trainer.status.version, trainer.status.failed_updates) == (5, 1)
    assert all(torch.equal(value, weights[name]) for name, value in trainer.ppo.tensors().items())
    with np.load(tmp_path / "failed" / "000000005-1.npz") as kept:
        np.testing.assert_array_equal(kept["bonus"][:, :B], chunks[0].chunk.bonus)


def test_a_chunk_that_makes_the_update_fail_is_dropped_and_named_and_the_others_are_trained(
    make_chunk: Maker, tmp_path: Path
) -> None:
    """The retry equals an update that never got the faulty chunk."""
    good = chunks_of(make_chunk)
    good[0] = replace(good[0], offset=T * B)  # the second chunk of its session
    server = FakeServer([*with_nan(chunks_of(make_chunk)), good[0]])
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
    control = make_trainer(CONFIG, SPACES, FakeServer(good), tmp_path, version=5)
    draws = trainer.ppo.generator.get_state()
    assert trainer.update() == []
    assert server.calls == [
        ("settle", "update_failed", ORDER[:1]),
        ("record_violations", ORDER[:1]),
        ("retry_batch", 1),
    ]
    trainer.ppo.generator.set_state(draws)
    trainer.update()
    control.update()
    assert server.calls[3] == ("settle", "trained", [(0, 0, T * B), *ORDER[1:]])
    assert trainer.status.version == 6
    states = [one.snapshot("").tensors for one in (trainer, control)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_three_failed_batches_in_a_row_without_a_chunk_to_blame_end_the_run(
    make_chunk: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successful update in between resets the count."""
    server = FakeServer()
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
    for good in (False, False, True, False, False):
        server.chunks.extend(chunks_of(make_chunk, trainer.status.version))
        with monkeypatch.context() as patch:
            if not good:
                patch.setattr(trainer.ppo, "update", lambda *rest: None)
            trainer.update()
    server.chunks.extend(chunks_of(make_chunk, 6))
    monkeypatch.setattr(trainer.ppo, "update", lambda *rest: None)
    with pytest.raises(Fatal, match="from 3 batches in a row") as ended:
        trainer.update()
    assert ended.value.code == EXIT_INTERNAL
    assert server.calls[-1] == ("settle", "update_failed", ORDER)
    assert trainer.status.failed_updates == 5


def test_failures_with_a_chunk_to_blame_neither_end_the_run_nor_fill_the_disk(
    make_chunk: Maker, tmp_path: Path
) -> None:
    failures = 12
    server = FakeServer(with_nan(chunks_of(make_chunk)))
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=5)
    for number in range(failures):
        assert trainer.update() == []
        replacement = chunks_of(make_chunk)[0]
        server.chunks.extend(with_nan([replace(replacement, offset=(number + 1) * T * B)]))
    assert server.calls.count(("retry_batch", 1)) == failures == trainer.status.failed_updates
    assert len(list((tmp_path / "failed").iterdir())) == 10


def test_a_failed_batch_that_cannot_be_written_is_settled(make_chunk: Maker, tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("a file where the directory should be")
    server = FakeServer(with_nan(chunks_of(make_chunk)))
    trainer = make_trainer(replace(CONFIG, max_lag=0), SPACES, server, tmp_path, version=5)
    assert trainer.update() == []
    assert server.calls[-1] == ("retry_batch", 1)
