"""Finds the chunks that make an update fail."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from learner.interface import DecodedChunk
from learner.training.batch_builder import BatchBuilder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO


class FaultyChunkFinder:
    """Runs an update on each chunk of a failed batch alone, and undoes it.

    If every chunk fails alone, the networks or the settings may be the cause. Then a chunk that an earlier
    update trained on decides: if it fails as well, no chunk is to blame.
    """

    def __init__(self, ppo: PPO, builder: BatchBuilder) -> None:
        self._ppo, self._builder = ppo, builder
        self.trained: DecodedChunk | None = None  # a chunk of the last successful update

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
        if len(faulty) == len(chunks) and (self.trained is None or fails(self.trained)):
            return []
        return faulty
