"""Finds the chunks that make an update fail."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from common.config import Config
from common.protocol.chunk import Chunk, layout
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch_builder import BatchBuilder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO


class FaultyChunkFinder:
    """Runs an update on each chunk of a failed batch alone, and undoes it.

    If every chunk fails alone, the networks or the settings may be the cause. Then a reference decides: if it
    fails as well, no chunk is to blame. The reference is a chunk of the last successful update, and one of
    zeros before the first, so that a peer that fills the first batches alone cannot end a run either.
    """

    def __init__(self, config: Config, spaces: Spaces, ppo: PPO, builder: BatchBuilder) -> None:
        self._ppo, self._builder = ppo, builder
        arrays = layout(config.rollout, spaces, truncations=0)
        zeros = Chunk(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in arrays.items()})
        self.reference = DecodedChunk(bytes(16), 0, 0, 0, 0, 0, True, zeros)

    def find(
        self, chunks: Sequence[DecodedChunk], version: int, normaliser: Normaliser, progress: float
    ) -> list[DecodedChunk]:
        """Return the chunks to blame for a failed update, of which these were the arguments."""
        before = copy.deepcopy(self._ppo.state())  # includes the state of the random generator

        def fails(decoded: DecodedChunk) -> bool:
            built = self._builder.build([decoded], version, normaliser)
            report = self._ppo.update(built.batch, built.statistics, progress)
            self._ppo.load(copy.deepcopy(before))
            return report is None

        faulty = [decoded for decoded in chunks if fails(decoded)]
        return [] if len(faulty) == len(chunks) and fails(self.reference) else faulty
