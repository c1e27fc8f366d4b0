"""Random number streams: the run's seed and the purpose of a stream determine its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.spaces import Spaces

_NETWORKS = 1 << 32  # above every slot, so that no lane shares a stream with a network


@dataclass(frozen=True, slots=True)
class RngKey:
    """The key of the random streams of an actor's lanes; when a field changes, every lane is reset."""

    seed: int
    slot: int
    incarnation: int
    warmup: bool

    def generators(self, lanes: int) -> list[np.random.Generator]:
        """One generator per lane; its first draw is the environment seed."""
        key = [self.seed, self.slot, self.incarnation]
        phase = [1] if self.warmup else []
        return [np.random.default_rng(np.random.SeedSequence([*key, lane, *phase])) for lane in range(lanes)]


def environment_seeds(generators: list[np.random.Generator]) -> npt.NDArray[np.int64]:
    """One environment seed per lane, int64 [B] in [0, 2^31)."""
    return np.array([generator.integers(2**31) for generator in generators], np.int64)


def network_seed(seed: int, role: int) -> int:
    """The seed of a network's initial weights, or of the learner's sampling; each has its own `role`."""
    return int(
        np.random.SeedSequence([seed, _NETWORKS + role]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def draws(generators: list[np.random.Generator], spaces: Spaces) -> npt.NDArray[np.float32]:
    """The uniform draws of each lane for its next action, float32 [B, *action] in [0, 1)."""
    return np.stack([generator.random(spaces.action, np.float32) for generator in generators])
