"""The spaces of an environment: shapes and dtypes of its observations and actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMAGE_SHAPE = (84, 84)


@dataclass(frozen=True, slots=True)
class Spaces:
    """The observation space and the action space of an environment.

    `observation` is the shape of one observation: (84, 84) for images, (D,) for vectors. The policy's input
    is the `stack` newest observations of the episode, with zeros before its first one. Without `bounds`,
    `actions` is the number of discrete actions. With `bounds`, an action is a vector of that length, and
    `bounds` holds the minimum and the maximum of each component.
    """

    observation: tuple[int, ...]
    stack: int
    actions: int
    bounds: tuple[tuple[float, float], ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether observations are uint8 images; else they are float32 vectors."""
        return len(self.observation) == 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of observations."""
        return np.dtype(np.uint8 if self.is_image else np.float32)

    @property
    def is_continuous(self) -> bool:
        """Whether actions are float32 vectors; else they are int32 numbers."""
        return bool(self.bounds)

    @property
    def action(self) -> tuple[int, ...]:
        """The shape of one action: () or (A,)."""
        return (self.actions,) if self.is_continuous else ()

    @property
    def action_dtype(self) -> np.dtype[np.generic]:
        """The dtype of actions."""
        return np.dtype(np.float32 if self.is_continuous else np.int32)
