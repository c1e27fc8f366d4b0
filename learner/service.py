"""One learner process: builds its parts, trains until the run is finished or stopped, and closes them."""

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
from common.log import fields as log_fields
from common.model.bundle import Bundle
from common.model.precision import configure_torch, resolve_precision
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.protocol.chunk import size_error
from common.protocol.sockets import BindError, weights_endpoint
from learner.commandline import Options
from learner.monitoring.run_monitor import RunMonitor
from learner.monitoring.summary import read_finished
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

_GATHER_SECONDS = 30.0  # for local actors to connect before the first credit
_FINISHED_SECONDS = 10.0  # for every actor to leave a finished run
_INTERRUPTED_SECONDS = 1.0  # remote actors do not leave an interrupted run: they wait for its return
_POLL_SECONDS = 0.05


class Learner:
    """The parts of a running learner; `stack` closes them in reverse order."""

    def __init__(
        self, config: Config, options: Options, stop: threading.Event, stack: contextlib.ExitStack
    ) -> None:
        self._options, self._stop = options, stop
        # Closed last, so that the watchdog covers the closing of the other parts.
        watched = stack.enter_context(contextlib.ExitStack())
        device = _device(options.device)
        self.config = config = replace(config, precision=resolve_precision(config.precision, device))
        configure_torch()
        spaces = envs.spaces(config.env)
        oversize = size_error(config.rollout, spaces)
        if oversize is not None:
            raise Fatal(EXIT_CONFIGURATION, oversize)
        apply_limits(spaces, config.network)
        run = stack.enter_context(RunDirectory(options.run_dir, options.resume))
        saved = checkpoint.newest(run.checkpoints) if options.resume else None
        generation = run.begin(None if saved is not None else config.to_json() + "\n")
        log_fields.update(run=run.path.resolve().name, generation=generation)
        ppo = PPO(config, spaces, device)
        if saved is not None:
            ppo.load(saved.tensors)
        blob = target_blob(ppo) if config.rnd.enabled else None
        self.server = Server(config, spaces, generation, blob, options.keys, options.sessions_per_key)
        self.trainer = Trainer(
            config=config,
            spaces=spaces,
            device=device,
            ppo=ppo,
            server=self.server,
            checkpoints=CheckpointWriter(run.checkpoints),
            failed_batches=run.path / "failed",
            generation=generation,
            stop=stop,
            on_wait=self._watch,
        )
        if saved is not None:
            self.server.restore(saved.meta["accounting"])
            self.trainer.restore(saved)
        self._supervisor = self._serve(stack)
        self._monitor = RunMonitor(
            config,
            generation,
            run.path,
            lambda: self.server.status,
            lambda: self.trainer.status,
            self.trainer.episodes,
        )
        stack.callback(self._monitor.close)
        watchdog = Watchdog(self._loop_times)
        watched.callback(watchdog.close)
        exporter = self._monitor.serve(
            options.metrics_host, lambda: watchdog.silence_seconds, options.insecure_plaintext
        )
        stack.callback(exporter.close)

    def _serve(self, stack: contextlib.ExitStack) -> Supervisor | None:
        """Open the ports and start the local actors, which connect over ipc."""
        options = self._options
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-")))
        local = f"ipc://{directory}/data"
        self.server.start([(address, weights_endpoint(address)) for address in (options.bind, local)])
        stack.callback(self.server.close)
        if options.insecure_plaintext:
            log.warning(
                "insecure_plaintext", text="any program that reaches the ports can join and read the traffic"
            )
        log.info("learner_serving", data=self.server.endpoints[0])
        if not options.local_actors:
            return None
        module = envs.module_of(self.config.env.id)  # this process has imported it already
        supervisor = Supervisor(local, options.local_actors, self.server, module)
        stack.callback(supervisor.close)
        return supervisor

    def _loop_times(self) -> dict[str, float]:
        """Return the time of each thread's last loop, for the watchdog."""
        times = self.server.loop_times() | {"trainer": self.trainer.last_loop_at}
        return times if self._supervisor is None else times | {"supervisor": self._supervisor.last_loop_at}

    @property
    def finished(self) -> bool:
        """Whether the run has all its steps, or has reached `stop_return`."""
        episodes, stop_return = self.trainer.episodes, self.config.stop_return
        full = len(episodes.recent) == episodes.recent.maxlen
        reached = stop_return is not None and full and (episodes.mean or 0.0) >= stop_return
        return reached or self.trainer.status.version >= self.config.updates

    def run(self) -> dict[str, object]:
        """Train until the run is finished or stopped; return its summary."""
        self._gather()
        if self.trainer.warm_up():
            self._monitor.begin()
            while not self.finished:
                ended = self.trainer.update()
                if ended is None:
                    break
                self._monitor.record(ended)
                self._watch()
        self.server.refresh_status()
        self._monitor.show(last=True)
        finished = self.finished
        self._drain(finished)
        self.trainer.save()
        self.server.refresh_status()
        return self._monitor.summarise("finished" if finished else "stopped")

    def _gather(self) -> None:
        """Wait for the local actors to connect, so that the first batch has chunks of all of them."""
        deadline = time.monotonic() + _GATHER_SECONDS
        while time.monotonic() < deadline and not self._stop.is_set():
            if self.server.session_count() >= self._options.local_actors:
                return
            self._watch()
            time.sleep(_POLL_SECONDS)

    def _drain(self, finished: bool) -> None:
        """Wait a limited time for every actor to leave, then end the remaining sessions."""
        self.server.drain(finished)
        if not finished and self._supervisor is not None:
            self._supervisor.close()
        deadline = time.monotonic() + (_FINISHED_SECONDS if finished else _INTERRUPTED_SECONDS)
        while time.monotonic() < deadline and self.server.session_count():
            time.sleep(_POLL_SECONDS)
        self.server.close_remaining()

    def _watch(self) -> None:
        """Show progress; called while the trainer waits and between updates.

        Raises:
            Fatal: every local actor exited because of its configuration.
        """
        if self._supervisor is not None and self._supervisor.misconfigured == self._options.local_actors:
            raise Fatal(
                EXIT_CONFIGURATION,
                "no local actor can start: see their messages above",
            )
        self._monitor.show()


def run(config: Config, options: Options, stop: threading.Event) -> dict[str, object]:
    """Run a learner to its end and return its summary; a finished run returns its summary at once.

    Raises:
        Fatal: an error for the user to correct, in one sentence.
    """
    earlier = read_finished(options.run_dir, config) if options.resume else None
    if earlier is not None:
        return earlier
    try:
        with contextlib.ExitStack() as stack:
            return Learner(config, options, stop, stack).run()
    except (BindError, CheckpointError, AccessControlError, KeysError, envs.EnvUnavailable) as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def target_blob(ppo: PPO) -> WeightsBlob:
    """Serialise the target network of RND, which an actor fetches once."""
    state = {name: value.detach().cpu() for name, value in ppo.target.state_dict().items()}
    return WeightsBlob.of("target", Bundle(0, 0, state))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise Fatal(
            EXIT_CONFIGURATION, "expected a CUDA device, got none that PyTorch can use: use --device cpu"
        )
    return torch.device(name)
