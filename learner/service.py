"""One learner: build everything bottom up, train until done or asked to stop, leave nothing behind."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import structlog
import torch

from common import envs
from common.config import Config
from common.keys.curve import AccessControlError
from common.keys.files import KeysError
from common.metrics import LEARNER_PORT, Exporter
from common.model.bundle import Bundle
from common.model.precision import configure_torch, resolve_precision
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.protocol.sockets import BindError, weights_endpoint
from learner.commandline import Options
from learner.monitoring.metrics import LearnerCollector
from learner.monitoring.page import Page
from learner.monitoring.progress_line import ProgressFacts, ProgressLine, RecentRate
from learner.monitoring.run_logger import RunLogger
from learner.monitoring.summary import ProcessFacts, read_finished, summarise
from learner.resource_limits import apply_limits
from learner.server.publisher import WeightsBlob
from learner.server.server import Server
from learner.supervisor import Supervisor
from learner.training import checkpoint
from learner.training.checkpoint import CheckpointError, RunDirectory
from learner.training.checkpoint_writer import CheckpointWriter
from learner.training.ppo import PPO
from learner.training.trainer import Trainer
from learner.watchdog import Watchdog

log = structlog.get_logger()

_GATHER_SECONDS = 30.0  # how long to wait for local actors before the first credit
_LEAVE_SECONDS = 10.0  # and for all actors to leave a finished run;
_PART_SECONDS = 1.0  # an interrupted one they do not leave, they wait for its return
_POLL_SECONDS = 0.05


class Learner:
    """The parts of a running learner; made by `build`, closed by its stack."""

    def __init__(
        self, config: Config, options: Options, stop: threading.Event, stack: contextlib.ExitStack
    ) -> None:
        self.options, self.stop = options, stop
        watched = stack.enter_context(contextlib.ExitStack())  # to the end: closing can hang as well
        device = _device(options.device)
        self.config = config = replace(config, precision=resolve_precision(config.precision, device))
        configure_torch()
        spaces = envs.spaces(config.env)
        apply_limits(spaces, config.network)
        run = stack.enter_context(RunDirectory(options.run_dir, options.resume))
        saved = checkpoint.newest(run.checkpoints) if options.resume else None
        self.generation = run.begin(None if saved is not None else config.to_json() + "\n")
        ppo = PPO(config, spaces, device)
        if saved is not None:
            ppo.load(saved.tensors)
        blob = target_blob(ppo) if config.rnd.enabled else None
        self.server = Server(config, spaces, self.generation, blob, options.keys, options.sessions_per_key)
        self.trainer = Trainer(
            config,
            spaces,
            device,
            ppo,
            self.server,
            CheckpointWriter(run.checkpoints),
            run.path / "failed",
            self.generation,
            stop,
            self._watch,
        )
        if saved is not None:
            self.server.restore(saved.meta["accounting"])
            self.trainer.restore(saved)
        self.supervisor: Supervisor | None = None
        self._serve(stack)
        self.recorder = RunLogger(run.path, self.env_steps)
        stack.callback(self.recorder.close)
        self._watchdog = Watchdog(self._loop_times)
        watched.callback(self._watchdog.close)
        self._export(stack)
        self.started = time.monotonic()
        self._line, self._rate = ProgressLine(), RecentRate()

    def _serve(self, stack: contextlib.ExitStack) -> None:
        """Open the ports, then start the local actors that connect to them."""
        options = self.options
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-")))
        local = f"ipc://{directory}/data"
        self.server.start([(address, weights_endpoint(address)) for address in (options.bind, local)])
        stack.callback(self.server.close)
        if options.insecure_plaintext:
            log.warning("insecure_plaintext", text="anybody who reaches the port may join and read along")
        log.info("learner_serving", data=self.server.endpoints[0], generation=self.generation)
        if options.local_actors:
            self.supervisor = Supervisor(local, options.local_actors, self.server)
            stack.callback(self.supervisor.close)

    def _loop_times(self) -> dict[str, float]:
        """When each thread looped last."""
        times = self.server.loop_times() | {"trainer": self.trainer.last_loop_at}
        return times if self.supervisor is None else times | {"supervisor": self.supervisor.last_loop_at}

    def _export(self, stack: contextlib.ExitStack) -> None:
        collector = LearnerCollector(
            lambda: self.server.status,
            lambda: self.trainer.status,
            self.trainer.episodes,
            self.config,
            self.generation,
            lambda: self._watchdog.silence_seconds,
            self.options.insecure_plaintext,
        )
        page = Page(
            self.config,
            self._facts,
            lambda: self.server.status,
            lambda: self.trainer.status,
            lambda: self.recorder.curve.points,
        )
        exporter = Exporter(collector.registry(), LEARNER_PORT, self.options.metrics_host, page.answers)
        stack.callback(exporter.close)
        log.info("metrics_served", port=exporter.port)

    @property
    def env_steps(self) -> int:
        """Steps trained on in the run."""
        return max(0, self.trainer.status.version) * self.config.rollout.batch_steps

    @property
    def frames(self) -> int:
        """Emulator frames behind `env_steps`."""
        return self.env_steps * envs.frames_per_step(self.config.env.id)

    @property
    def finished(self) -> bool:
        """Whether the run is complete: by its steps, or by its return."""
        recent, goal = self.trainer.episodes.recent, self.config.stop_return
        reached = (
            goal is not None and len(recent) == recent.maxlen and (self.trainer.episodes.mean or 0.0) >= goal
        )
        return reached or self.trainer.status.version >= self.config.updates

    @property
    def steps_per_second(self) -> float:
        """Trained steps of this process over the time from the first credit to the last update."""
        first, last = self.server.status.first_credit_at, self.trainer.status.last_update_at
        return (
            self.trainer.status.trained_here / (last - first)
            if first is not None and last is not None
            else 0.0
        )

    def run(self) -> str:
        """Train; returns why it ended: "finished" or "stopped"."""
        self._gather()
        if self.trainer.warm_up():
            self._rate.add(time.monotonic(), self.env_steps)
            while not self.finished:
                ended = self.trainer.update()
                if ended is None:
                    break
                self._rate.add(time.monotonic(), self.env_steps)
                wall = time.monotonic() - self.started
                self.recorder.episodes(ended, self.env_steps, self.frames, wall)
                self.recorder.scalars(self._curves(), self.env_steps)
                self._watch()
        self._line.show(self._facts(), last=True)
        self._drain(self.finished)
        self.trainer.save()
        return "finished" if self.finished else "stopped"

    def _gather(self) -> None:
        """Give local actors time to join, so that the first batch has all of them."""
        deadline = time.monotonic() + _GATHER_SECONDS
        while time.monotonic() < deadline and not self.stop.is_set():
            if self.server.session_count() >= self.options.local_actors:
                return
            self._watch()
            time.sleep(_POLL_SECONDS)

    def _drain(self, finished: bool) -> None:
        """Let every actor leave, then close the books on the rest."""
        self.server.drain(finished)
        if not finished and self.supervisor is not None:
            self.supervisor.close()
        deadline = time.monotonic() + (_LEAVE_SECONDS if finished else _PART_SECONDS)
        while time.monotonic() < deadline and self.server.session_count():
            time.sleep(_POLL_SECONDS)
        self.server.close_remaining()

    def _watch(self) -> None:
        """While the trainer waits or between updates: show progress, look after local actors."""
        if self.supervisor is not None and self.supervisor.misconfigured == self.options.local_actors:
            raise Fatal(
                EXIT_CONFIGURATION,
                "expected local actors to start, got a refusal from each: see their messages above",
            )
        self._line.show(self._facts())

    def _facts(self) -> ProgressFacts:
        trainer, chunks = self.trainer, self.config.warmup_chunks
        report = trainer.status.report
        warming = trainer.status.version < 0 and chunks > 0
        return ProgressFacts(
            env_steps=self.env_steps,
            total_steps=self.config.updates * self.config.rollout.batch_steps,
            frames=self.frames,
            steps_per_second=self._rate.per_second(time.monotonic()),
            return_mean=trainer.episodes.mean,
            bonus=report.figures["intrinsic_reward_mean"]
            if report is not None and self.config.rnd.enabled
            else None,
            actors=self.server.status.actors,
            lag=trainer.status.lag_max,
            warmup=f"{trainer.status.warmup_chunks}/{chunks} chunks of random play" if warming else None,
        )

    def _curves(self) -> dict[str, float]:
        """The points of one update; none before the first."""
        report = self.trainer.status.report
        if report is None:
            return {}
        curves = {f"train/{name}": value for name, value in report.figures.items()}
        curves |= {
            "train/learning_rate": report.learning_rate,
            "speed/steps_per_second": self.steps_per_second,
        }
        if self.trainer.episodes.mean is not None:
            curves |= {"episodes/return_mean_100": self.trainer.episodes.mean}
        return curves

    def summary(self, exit_reason: str) -> dict[str, object]:
        """The fields of summary.json."""
        wall = time.monotonic() - self.started
        process = ProcessFacts(self.generation, self.env_steps, self.frames, wall, self.steps_per_second)
        status = self.server.refresh_status()
        return summarise(
            self.config, process, self.trainer.status, self.trainer.episodes, status, exit_reason
        )


def run(config: Config, options: Options, stop: threading.Event) -> dict[str, object]:
    """Run a learner to its end; returns its summary, at once if nothing is left to train.

    Raises:
        Fatal: something the user has to mend, in one sentence.
    """
    earlier = read_finished(options.run_dir, config) if options.resume else None
    if earlier is not None:
        return earlier
    try:
        with contextlib.ExitStack() as stack:
            learner = Learner(config, options, stop, stack)
            reason = learner.run()
            summary = learner.summary(reason)
            learner.recorder.summary(summary)
            return summary
    except (BindError, CheckpointError, AccessControlError, KeysError, envs.EnvUnavailable) as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def target_blob(ppo: PPO) -> WeightsBlob:
    """Serialise the target network, which actors fetch once."""
    state = {name: value.detach().cpu() for name, value in ppo.target.state_dict().items()}
    return WeightsBlob.of("target", Bundle(0, 0, state))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise Fatal(
            EXIT_CONFIGURATION, "expected a CUDA device, got none that torch can use: use --device cpu"
        )
    return torch.device(name)
