"""A batch: the chunks of one update joined on the lane axis, and the stacks rebuilt for the networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.model import rnd
from common.protocol.chunk import Chunk
from common.spaces import Spaces


def join(chunks: Sequence[Chunk]) -> Chunk:
    """Join E / B chunks, in their order, to one of E lanes; final observations are in row-major order."""
    arrays = {
        field.name: np.concatenate([getattr(chunk, field.name) for chunk in chunks], axis=1)
        for field in dataclasses.fields(Chunk)
        if field.name != "final_observation"
    }
    # Final observations are listed by (t, lane) within each chunk; the joined list by (t, lane of E).
    lanes = np.cumsum([0, *(chunk.action.shape[1] for chunk in chunks)])
    ends = [np.argwhere(chunk.truncated) + np.array([0, lanes[i]]) for i, chunk in enumerate(chunks)]
    t, lane = np.concatenate(ends).T
    order = np.lexsort((lane, t))
    final = np.concatenate([chunk.final_observation for chunk in chunks])[order]
    return Chunk(**arrays, final_observation=final)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Tensors of one update, on the training device; time first.

    The stack axis is last in memory, because channels-last convolutions read it fastest; `observations`
    returns the stacks as [N, S, 84, 84] views.
    """

    stack: Tensor  # uint8 [T + 1, E, 84, 84, S] or float32 [T + 1, E, D, 1], whitened
    final_stack: Tensor  # [K, ...], like one element of `stack`, in row-major order of `truncated`
    next_observation: Tensor  # uint8 [T, E, 84, 84] or float32 [T, E, D]; raw
    action: Tensor  # int64 [T, E] or float32 [T, E, A]
    log_prob: Tensor  # float32 [T, E], of the acting policy, as the actor sent it
    lag: Tensor  # int64 [E], versions between the acting policy and the one that begins the update
    reward: Tensor  # float32 [T, E], what the extrinsic stream learns from
    intrinsic: Tensor  # float32 [T, E], scaled
    terminated: Tensor  # bool [T, E]
    truncated: Tensor  # bool [T, E]
    life_lost: Tensor  # bool [T, E]

    @property
    def done(self) -> Tensor:
        """Whether the step ended its episode, bool [T, E]."""
        return self.terminated | self.truncated


def observations(stack: Tensor) -> Tensor:
    """Return the input of a policy network, [N, S, ...], from stacks with S last, [N, ..., S]."""
    return stack.movedim(-1, 1)


def make_batch(
    joined: Chunk,
    lag: npt.NDArray[np.int64],
    reward: npt.NDArray[np.float32],
    intrinsic: npt.NDArray[np.float32],
    spaces: Spaces,
    statistics: tuple[Tensor, Tensor],
    device: torch.device,
) -> Batch:
    """Move a joined chunk to the device and rebuild the stacks there.

    Args:
        joined: the chunks of the batch, joined to E lanes.
        lag: versions that each lane's policy is behind, int64 [E].
        reward: what the extrinsic stream learns from, float32 [T, E].
        intrinsic: scaled bonuses, float32 [T, E].
        spaces: observation and action spaces of the task.
        statistics: mean and std of the version that begins the update; vectors are whitened with them.
        device: device of the result.
    """
    observation = torch.from_numpy(joined.observation).to(device, non_blocking=True)
    final = torch.from_numpy(joined.final_observation).to(device)
    next_observation = observation[spaces.stack :]
    if not spaces.is_image:
        mean, std = (x.to(device) for x in statistics)
        observation, final = (rnd.whiten(x, mean, std, rnd.POLICY_CLIP) for x in (observation, final))
    stack = restack(observation, joined.done, spaces.stack)
    # The rows are found on the host, because it would wait for the number of rows in a mask on the device.
    ended = torch.from_numpy(np.flatnonzero(joined.truncated)).to(device)
    action = torch.from_numpy(joined.action).to(device)
    return Batch(
        stack=stack,
        final_stack=torch.cat([stack[:-1].flatten(0, 1)[ended][..., 1:], final.unsqueeze(-1)], -1),
        next_observation=next_observation,
        action=action if spaces.is_continuous else action.to(torch.int64),
        log_prob=torch.from_numpy(joined.log_prob).to(device),
        lag=torch.from_numpy(lag).to(device),
        reward=torch.from_numpy(reward).to(device),
        intrinsic=torch.from_numpy(intrinsic).to(device),
        terminated=torch.from_numpy(joined.terminated).to(device),
        truncated=torch.from_numpy(joined.truncated).to(device),
        life_lost=torch.from_numpy(joined.life_lost).to(device),
    )


def restack(observation: Tensor, done: npt.NDArray[np.bool_], size: int) -> Tensor:
    """Rebuild the stacks that the policy saw from observations that were sent once.

    Args:
        observation: [S - 1 + T + 1, E, ...]; see `Chunk`.
        done: bool [T, E]; the row after an end begins a new episode, whose older images are zero.
        size: S.

    Returns:
        [T + 1, E, ..., S], oldest first.
    """
    steps = len(done)
    stack = torch.stack([observation[k : k + steps + 1] for k in range(size)], dim=-1)
    for t, lane in np.argwhere(done).tolist():
        for since in range(size - 1):  # row t + 1 + since has 1 + since images of its episode
            if t + 1 + since <= steps:
                stack[t + 1 + since, lane, ..., : size - 1 - since] = 0
    return stack
