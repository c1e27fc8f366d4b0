"""The loop of one actor: join, wait for credit, load a bundle, collect a chunk, compute its bonus, send."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from safetensors import SafetensorError

import common
from actor import limits
from actor.rollout import Rollout
from actor.session import Session
from actor.weights import Blob, WeightsSource
from common import envs
from common.config import Config
from common.log import fields as log_fields
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.phase_timer import PhaseTimer
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.chunk import WARMUP_VERSION, Chunk
from common.protocol.messages import BlobName, SkipReason, Welcome
from common.rng import RngKey
from common.spaces import Spaces

log = structlog.get_logger()

_POLL_SECONDS = 0.5
_SHOWN_CHARACTERS = 500  # of the learner's text in an error message
_RUN_NAME_CHARACTERS = 100  # in each log line; a hostile learner chooses the name


@dataclass(slots=True)
class PlayingState:
    """Environments, policy and bonus model of a run, built from the first Welcome with its configuration."""

    welcome: Welcome  # the latest that was checked to be of the same run
    config: Config
    spaces: Spaces
    rollout: Rollout
    policy: Policy
    bonus_model: BonusModel | None
    loaded: tuple[int, int] = (-1, -1)  # generation and version of the loaded bundle


@dataclass(slots=True)
class Actor:
    """One actor: joins a run, waits for credit, collects chunks and sends them. `run` is its only loop."""

    session: Session
    weights: WeightsSource
    parent: ParentLink
    stop: threading.Event
    phases: PhaseTimer
    export: Callable[[dict[str, float]], None]  # receives the statistics that heartbeats carry
    state: PlayingState | None = None
    reconnects: int = 0  # the session's count when the connection to the weights port was made
    modules: frozenset[str] = frozenset()  # that the learner's environment may import

    def run(self) -> int:
        """Collect chunks until the run or the parent ends, or a signal arrives.

        Returns:
            The exit code: `EXIT_DONE` if the run is finished, else `EXIT_TEMPORARY`.
        """
        while not self._must_stop():
            if not self.session.joined and not self.session.join(_POLL_SECONDS):
                continue
            state = self._prepare()
            if state is None:
                continue
            if self.session.credit - self.session.produced < state.config.rollout.chunk_steps:
                with self.phases.measure("credit_wait"):
                    self.session.poll(_POLL_SECONDS)
                self._report()
                continue
            if self._load(state):
                with self.phases.computation():
                    self._play(state)
        if self.parent.gone():
            return EXIT_TEMPORARY
        self.session.leave()
        return EXIT_DONE if self.session.finished else EXIT_TEMPORARY

    def _must_stop(self) -> bool:
        return self.stop.is_set() or self.session.finished or self.parent.gone()

    def _prepare(self) -> PlayingState | None:
        """Build the playing state for the first Welcome; refuse a later Welcome of another run."""
        welcome, state = self.session.welcome, self.state
        assert welcome is not None
        if state is None:
            self.state = self._build(welcome)
        elif state.welcome is not welcome:
            same = state.config.equal_except_length(configuration(welcome))
            if not same or state.welcome.target != welcome.target:
                raise Fatal(
                    EXIT_TEMPORARY, "expected the run that this actor joined, got another: restart the actor"
                )
            state.welcome = welcome
        return self.state

    def _build(self, welcome: Welcome) -> PlayingState | None:
        """Build the playing state; None if the target network cannot be fetched now."""
        config = configuration(welcome)
        limits.require_allowed_module(config.env.id, self.modules)
        log_fields["run"] = f"{config.preset}-{config.seed}"[:_RUN_NAME_CHARACTERS]
        target: Blob | None = None
        if config.rnd.enabled:
            target = self._fetch("target", (-1, -1))
            if target is None or hashlib.sha256(target.data).digest() != welcome.target:
                return None
        log.info("loading_environments", env=config.env.id, lanes=config.rollout.lanes)
        try:
            with self.phases.measure("load"):
                env = envs.make(config.env, config.rollout.lanes)
        except envs.EnvUnavailable as error:
            raise Fatal(EXIT_CONFIGURATION, str(error)) from None
        spaces = env.spaces
        limits.require_chunk_size(config, spaces)
        bonus_model = None
        if target is not None:
            with _weights_of_the_run():
                bonus_model = BonusModel(spaces, config, target.tensors())
        rollout = Rollout(env, spaces, config.rollout, self.phases)
        return PlayingState(welcome, config, spaces, rollout, Policy(spaces, config), bonus_model)

    def _load(self, state: PlayingState) -> bool:
        """Load the bundle and reset the lanes, as the next chunk requires; False if the caller must retry."""
        welcome, version = self.session.welcome, self.session.version
        assert welcome is not None
        if version > WARMUP_VERSION and state.loaded != (welcome.generation, version):
            with self.phases.measure("weights"):
                blob = self._fetch("bundle", state.loaded)
                if blob is None:
                    return False
                with _weights_of_the_run():
                    bundle = Bundle(blob.generation, blob.version, blob.tensors())
                    state.policy.load(bundle)
                    if state.bonus_model is not None:
                        state.bonus_model.load(bundle)
                state.loaded = (bundle.generation, bundle.version)
                if state.loaded < (welcome.generation, version):
                    return False  # the parent fetched it for another actor, before this version: fetch again
        key = RngKey(state.config.seed, welcome.slot, welcome.incarnation, version == WARMUP_VERSION)
        if state.rollout.key != key:
            if self._must_stop():  # the fetch may have taken seconds, and a reset takes seconds as well
                return False
            with self.phases.measure("load"):
                state.rollout.reset(key)
        return self.session.joined

    def _fetch(self, name: BlobName, held: tuple[int, int]) -> Blob | None:
        """Fetch a blob; give up if the session reconnects, because the learner is then silent."""
        if self.reconnects != self.session.counters.reconnects:
            self.reconnects = self.session.counters.reconnects
            self.weights.reconnect()
        return self.weights.fetch(
            name, held, lambda: self._poll() and self.reconnects == self.session.counters.reconnects
        )

    def _play(self, state: PlayingState) -> None:
        """Collect one chunk, compute its bonus, encode it and send it; skip the steps of an abandoned one."""
        assert state.rollout.key is not None
        warmup = state.rollout.key.warmup
        generation, sid, fresh = self.session.generation, self.session.sid, state.rollout.fresh
        chunk = state.rollout.collect(
            None if warmup else state.policy, lambda: self._after_step(state, generation, sid)
        )
        if chunk is None:
            if self.session.sid == sid:
                self.session.skip(self._skip_reason())
            return
        if not warmup and state.bonus_model is not None:
            with self.phases.measure("bonus"):
                chunk.bonus[:] = state.bonus_model.compute_bonus(chunk.observation[state.spaces.stack :])
        with self.phases.measure("encode"):
            self._send(state, chunk, generation, WARMUP_VERSION if warmup else state.loaded[1], fresh)

    def _skip_reason(self) -> SkipReason:
        if self.session.finished:
            return "run_finished"
        return "actor_shutdown" if self._must_stop() else "old_generation"

    def _send(self, state: PlayingState, chunk: Chunk, generation: int, version: int, fresh: bool) -> None:
        packed = codec.pack(chunk)
        if len(packed.body) > codec.message_limit_bytes(state.config.rollout, state.spaces):
            self.session.skip("oversize")
        else:
            self.session.send_chunk(generation, version, fresh, packed)

    def _after_step(self, state: PlayingState, generation: int, sid: bytes) -> bool:
        """Count a step of the lanes and poll the session; False to abandon the chunk."""
        if self.session.sid == sid:
            self.session.count_steps(state.config.rollout.lanes)
        return self._poll() and self.session.generation == generation and self.session.sid == sid

    def _poll(self) -> bool:
        """Keep the session alive; False if the actor must stop."""
        self.session.poll()
        return not self._must_stop()

    def _report(self) -> None:
        """Export the actor's statistics, and set those of the next heartbeats."""
        self.session.stats = {
            "steps": self.session.produced,
            "connected": float(self.session.joined),
            "unsettled": self.session.buffer.unsettled_steps,
            "version": self.session.version,
            **{f"phase_{name}": seconds for name, seconds in self.phases.seconds.items()},
            **{name: float(count) for name, count in dataclasses.asdict(self.session.counters).items()},
        }
        self.export(self.session.stats)


def configuration(welcome: Welcome) -> Config:
    """The run's configuration.

    Raises:
        Fatal: another release wrote it, with fields that this one does not know.
    """
    try:
        return Config.from_json(welcome.body)
    except ValueError as error:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected a learner of release {common.__version__}, got one of {welcome.software} whose "
            f"configuration cannot be read ({str(error)[:_SHOWN_CHARACTERS]}): update the older side",
        ) from None


@contextlib.contextmanager
def _weights_of_the_run() -> Iterator[None]:
    """Refuse weights that are not those of the run's networks.

    Raises:
        Fatal: they are not.
    """
    try:
        yield
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise Fatal(
            EXIT_TEMPORARY,
            f"expected the weights of this run's networks, got others ({type(error).__name__}): "
            "restart the actor, and check that --learner names your learner",
        ) from None
