"""The spaces of a task: the shape and dtype of its observations and actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMAGE_SHAPE = (84, 84)


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a task shows and accepts.

    `observation` is the shape of one new observation: (84, 84) for images, (D,) for vectors.
    The policy sees the `stack` newest ones of the episode, zeros where there were none yet.
    `actions` is how many there are to choose from; where `bounds` are given, an action is a vector
    of that many numbers instead, each with its least and greatest useful value.
    """

    observation: tuple[int, ...]
    stack: int
    actions: int
    bounds: tuple[tuple[float, float], ...] = ()

    @property
    def is_image(self) -> bool:
        """Images are uint8; vectors are float32."""
        return len(self.observation) == 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of one observation element."""
        return np.dtype(np.uint8 if self.is_image else np.float32)

    @property
    def is_continuous(self) -> bool:
        """Actions are float32 vectors, else int32 numbers."""
        return bool(self.bounds)

    @property
    def action(self) -> tuple[int, ...]:
        """Shape of one action: () or (A,)."""
        return (self.actions,) if self.is_continuous else ()

    @property
    def action_dtype(self) -> np.dtype[np.generic]:
        """Type of one action element."""
        return np.dtype(np.float32 if self.is_continuous else np.int32)
