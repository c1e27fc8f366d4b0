"""One actor: join, wait for credit, take the newest bundle, play a chunk, rate it, send it, again."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

import common
from actor.rollout import Rollout
from actor.session import Session
from actor.weights import Blob, Name, Weights
from common import envs
from common.config import Config
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.phase_timer import PhaseTimer
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.chunk import WARMUP_VERSION, Chunk
from common.protocol.messages import Welcome
from common.rng import RngKey
from common.spaces import Spaces

log = structlog.get_logger()

_POLL_SECONDS = 0.5


@dataclass(slots=True)
class PlayingState:
    """What plays a chunk; built from the first Welcome, for it brings the configuration."""

    welcome: Welcome  # the newest that it was checked against
    config: Config
    spaces: Spaces
    rollout: Rollout
    policy: Policy
    intrinsic: BonusModel | None
    held: tuple[int, int] = (-1, -1)  # generation and version of the loaded bundle


@dataclass(slots=True)
class Actor:
    """Everything one actor owns. `run` is its only loop."""

    session: Session
    weights: Weights
    parent: ParentLink
    stop: threading.Event
    phases: PhaseTimer
    tell: Callable[[dict[str, float]], None]  # where its figures go, besides the heartbeats
    player: PlayingState | None = None
    reconnects: int = 0  # of the session, when the weights connection was made

    def run(self) -> int:
        """Play until the run is finished, the parent is gone, or a signal came; returns the exit code."""
        while not self._over():
            if not self.session.joined and not self.session.join(_POLL_SECONDS):
                continue
            player = self._prepare()
            if player is None:
                continue
            if self.session.credit - self.session.produced < player.config.rollout.chunk_steps:
                with self.phases.measure("credit_wait"):
                    self.session.poll(_POLL_SECONDS)
                self._report()
                continue
            if self._load(player):
                self._play(player)
        if self.parent.gone():
            return EXIT_TEMPORARY
        self.session.leave()
        return EXIT_DONE

    def _over(self) -> bool:
        return self.stop.is_set() or self.session.finished or self.parent.gone()

    def _prepare(self) -> PlayingState | None:
        """Build the player, or refuse a run that is not the one it was built for."""
        welcome, player = self.session.welcome, self.player
        assert welcome is not None
        if player is None:
            self.player = self._build(welcome)
        elif player.welcome is not welcome:
            same = player.config.plays_like(configuration(welcome))
            if not same or player.welcome.target != welcome.target:
                raise Fatal(
                    EXIT_TEMPORARY, "expected the run that this actor joined, got another one: start anew"
                )
            player.welcome = welcome
        return self.player

    def _build(self, welcome: Welcome) -> PlayingState | None:
        """What the run needs; None while its target network is not to be had."""
        config = configuration(welcome)
        target: Blob | None = None
        if config.rnd.enabled:
            target = self._fetch("target", (-1, -1))
            if target is None or hashlib.sha256(target.data).digest() != welcome.target:
                return None
        try:
            env = envs.make(config.env, config.rollout.lanes)
        except envs.EnvUnavailable as error:
            raise Fatal(EXIT_CONFIGURATION, str(error)) from None
        spaces = env.spaces
        intrinsic = BonusModel(spaces, config, target.tensors()) if target is not None else None
        rollout = Rollout(env, spaces, config.rollout, self.phases)
        return PlayingState(welcome, config, spaces, rollout, Policy(spaces, config), intrinsic)

    def _load(self, player: PlayingState) -> bool:
        """Bring bundle and lanes up to what the learner expects of the next chunk."""
        welcome, version = self.session.welcome, self.session.version
        assert welcome is not None
        if version > WARMUP_VERSION and player.held != (welcome.generation, version):
            with self.phases.measure("weights"):
                blob = self._fetch("bundle", player.held)
                if blob is None:
                    return False
                bundle = Bundle(blob.generation, blob.version, blob.tensors())
                player.policy.load(bundle)
                if player.intrinsic is not None:
                    player.intrinsic.load(bundle)
                player.held = (bundle.generation, bundle.version)
                if player.held < (welcome.generation, version):
                    return False  # what a sibling fetched before this version: ask again
        warm = version == WARMUP_VERSION
        place = RngKey(player.config.seed, welcome.slot, welcome.incarnation, warm)
        if player.rollout.place != place:
            if self._over():  # what came before may have taken seconds, and a reset takes as many
                return False
            player.rollout.reset(place)
        return self.session.joined

    def _fetch(self, name: Name, held: tuple[int, int]) -> Blob | None:
        """See `Weights.fetch`; given up once the session finds the learner silent."""
        if self.reconnects != self.session.counters.reconnects:
            self.reconnects = self.session.counters.reconnects
            self.weights.renew()
        return self.weights.fetch(
            name, held, lambda: self._meanwhile() and self.reconnects == self.session.counters.reconnects
        )

    def _play(self, player: PlayingState) -> None:
        """Collect, rate, encode and send one chunk; or skip what was begun."""
        assert player.rollout.place is not None
        warm = player.rollout.place.warmup
        generation, sid, fresh = self.session.generation, self.session.sid, player.rollout.fresh
        chunk = player.rollout.collect(
            None if warm else player.policy, lambda: self._between(player, generation, sid)
        )
        if chunk is None:
            if self.session.sid == sid:
                self.session.skip(
                    "run_finished"
                    if self.session.finished
                    else "actor_shutdown"
                    if self._over()
                    else "old_generation"
                )
            player.rollout.place = None
            return
        version = WARMUP_VERSION if warm else player.held[1]
        if not warm and player.intrinsic is not None:
            with self.phases.measure("bonus"):
                chunk.bonus[:] = player.intrinsic.compute_bonus(chunk.observation[player.spaces.stack :])
        with self.phases.measure("encode"):
            self._send(player, chunk, generation, version, fresh)

    def _send(self, player: PlayingState, chunk: Chunk, generation: int, version: int, fresh: bool) -> None:
        packed = codec.pack(chunk)
        if len(packed.body) > codec.message_limit_bytes(player.config.rollout, player.spaces):
            self.session.skip("oversize")
        else:
            self.session.send_chunk(generation, version, fresh, packed)

    def _between(self, player: PlayingState, generation: int, sid: bytes) -> bool:
        """After each step of the lanes: count it, keep the session alive, notice a reason to stop."""
        if self.session.sid == sid:
            self.session.count_steps(player.config.rollout.lanes)
        return self._meanwhile() and self.session.generation == generation and self.session.sid == sid

    def _meanwhile(self) -> bool:
        self.session.poll()
        return not self._over()

    def _report(self) -> None:
        self.session.stats = {
            "steps": self.session.produced,
            "connected": float(self.session.joined),
            "unsettled": self.session.buffer.unsettled_steps,
            "version": self.session.version,
            **{f"phase_{name}": seconds for name, seconds in self.phases.seconds.items()},
            **{name: float(count) for name, count in dataclasses.asdict(self.session.counters).items()},
        }
        self.tell(self.session.stats)


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
            f"configuration cannot be read ({error}): update the older side",
        ) from None
