"""The real environments: every option that matters shows in what they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Space

from common import envs
from common.config import EnvConfig
from common.spaces import Spaces

SEEDS = np.array([3, 5])
LANES = len(SEEDS)


class Odd(gymnasium.Env[np.ndarray, object]):
    """Shows a vector, and takes what we do not."""

    observation_space = Box(-1.0, 1.0, (2,))

    def __init__(self, does: Space[object]) -> None:
        self.action_space = does


for name, does in {
    "Unbounded": Box(-1.0, np.inf, (2,)),
    "Matrix": Box(-1.0, 1.0, (2, 2)),
    "Shifted": Discrete(3, start=1),
}.items():
    gymnasium.register(f"tests/{name}-v0", "tests.unit.common.test_envs:Odd", kwargs={"does": does})


@contextmanager
def lanes_of(env_id: str, **options: object) -> Iterator[envs.VectorEnv]:
    """Two lanes, closed at the end."""
    env = envs.make(EnvConfig(id=env_id, **options), LANES)  # type: ignore[arg-type]
    try:
        yield env
    finally:
        env.close()


@pytest.fixture(scope="module")
def pong() -> Iterator[envs.VectorEnv]:
    """Shared: the emulator takes half a second per lane to load a game, and again at each seeded reset."""
    with lanes_of("pong") as env:
        yield env


def actions(steps: int, count: int, seed: int = 0) -> np.ndarray:
    """Uniform random actions, int32 [steps, B]."""
    return np.random.default_rng(seed).integers(0, count, (steps, LANES), np.int32)


def area_weights(size: int) -> np.ndarray:
    """[84, size]: how much of each pixel falls into each of 84 equal cells."""
    edges, pixels = np.linspace(0, size, 85), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) / (size / 84)


class Emulator:
    """One lane, slowly: the bare emulator, four frames a step, the brighter of the last two."""

    def __init__(self, rom: str) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(str(ale_py.roms.get_rom_path(rom)))
        self.ale.reset_game()
        self.legal = self.ale.getMinimalActionSet()

    def step(self, action: int) -> float:
        reward, self.screens = 0.0, [np.zeros((210, 160)), np.zeros((210, 160))]
        for _ in range(envs.FRAMES_PER_STEP):
            reward += self.ale.act(self.legal[action])
            self.screens = [self.screens[1], self.ale.getScreenGrayscale().astype(float)]
        return reward

    def image(self) -> np.ndarray:
        return area_weights(210) @ np.maximum(*self.screens) @ area_weights(160).T


def test_a_lane_plays_what_the_emulator_plays() -> None:
    """Raw rewards of four frames, pooled grey images; no no-ops, no fire, no end at a lost life."""
    emulator, lost_lives, most = Emulator("space_invaders"), 0, 0.0
    with lanes_of("space_invaders", sticky=0.0) as env:
        env.reset(SEEDS)
        lives = emulator.ale.lives()
        for step, action in enumerate(actions(600, 6)):
            moved = env.step(action[[0, 0]])
            assert moved.reward[0] == emulator.step(int(action[0]))
            most = max(most, float(moved.reward[0]))
            assert moved.terminated[0] == emulator.ale.game_over()
            if moved.terminated[0]:
                break
            lost_lives += lives - emulator.ale.lives()
            lives = emulator.ale.lives()
            if step % 7 == 0:
                np.testing.assert_array_equal(
                    moved.stack[0], moved.stack[1]
                )  # seeds matter to stickiness alone
                np.testing.assert_allclose(moved.stack[0, -1], emulator.image(), atol=1.01)
    assert lost_lives >= 2
    assert most > 1.0  # not clipped
    assert emulator.ale.game_over()
    # Same-step reset: the newest image is the new game's, without history; nothing was cut.
    assert not moved.stack[0, :-1].any()
    assert moved.stack[0, -1].any()
    assert not moved.truncated.any()
    assert moved.final.shape == (0, 84, 84)


def test_seeds_reproduce_games_whose_stacks_slide(pong: envs.VectorEnv) -> None:
    """Equal seeds and actions give equal lanes, in any lane; a stack begins with zeros and moves by one."""

    def play(seeds: np.ndarray) -> np.ndarray:
        before = pong.reset(seeds)
        assert before.shape == (LANES, 4, 84, 84)
        assert before.dtype == np.uint8
        assert not before[:, :3].any()
        assert before[:, 3].any()
        newest = []
        for action in actions(41, 6):
            after = pong.step(action[[0, 0]]).stack
            np.testing.assert_array_equal(after[:, :3], before[:, 1:])
            newest.append(after[:, -1])
            before = after
        return np.stack(newest)

    first, swapped = play(SEEDS), play(SEEDS[::-1])
    np.testing.assert_array_equal(first, swapped[:, ::-1])
    assert not np.array_equal(first[:, 0], first[:, 1])  # sticky actions differ by lane


def test_a_time_limit_cuts_with_the_last_image(pong: envs.VectorEnv) -> None:
    """At max_frames: truncated, a fresh stack, and as `final` what an uncut lane sees there."""
    pong.reset(SEEDS)
    with lanes_of("pong", max_frames=44) as cut:
        cut.reset(SEEDS)
        for step, action in enumerate(actions(11, 6), 1):
            short, long = cut.step(action), pong.step(action)
            assert short.truncated.all() == (step == 11)
            assert not short.terminated.any()
    # Into the last image of a cut game the emulator pools an older frame: a few pixels differ.
    assert short.final.shape == (LANES, 84, 84)
    assert (short.final != long.stack[:, -1]).mean() < 0.005 < (short.final != short.stack[:, -1]).mean()
    assert not short.stack[:, :3].any()
    assert not long.truncated.any()


def test_what_was_returned_is_not_written_again(pong: envs.VectorEnv) -> None:
    """The next steps leave the last one's arrays alone."""
    moved = [pong.step(action) for action in actions(5, 6)]
    kept = [one.stack.copy() for one in moved]
    for action in actions(5, 6, seed=1):
        pong.step(action)
    assert all(np.array_equal(one.stack, copy) for one, copy in zip(moved, kept, strict=True))
    assert not np.array_equal(kept[0], kept[-1])


@pytest.mark.parametrize("bad", [-1, 6])
def test_an_illegal_action_never_reaches_the_emulator(bad: int, pong: envs.VectorEnv) -> None:
    """It would wait for ever; here it raises, and the game goes on."""
    with pytest.raises(ValueError, match=r"actions in \[0, 6\)"):
        pong.step(np.array([0, bad], np.int32))
    assert pong.step(np.array([0, 5], np.int32)).stack.any()


@pytest.mark.parametrize(
    ("env_id", "rom"),
    [
        ("gravitar", "gravitar"),
        ("ALE/Gravitar-v5", "gravitar"),
        ("GravitarNoFrameskip-v4", "gravitar"),
        ("MontezumaRevenge", "montezuma_revenge"),
        ("montezuma-revenge", "montezuma_revenge"),
        ("ALE/MontezumaRevenge-v5", "montezuma_revenge"),
        ("private_eye", "private_eye"),
        ("Blackjack-v1", None),
        ("CartPole-v1", None),
        ("ALE/NoSuchGame-v5", None),
        ("", None),
    ],
)
def test_atari_games_have_many_names(env_id: str, rom: str | None) -> None:
    """Ours, Gymnasium's and the older ones; Gymnasium's card game is not the Atari one."""
    assert envs.atari_rom(env_id) == rom
    assert envs.frames_per_step(env_id) == (4 if rom else 1)


def test_spaces_are_known_without_playing() -> None:
    """The learner asks for them before its sockets open."""
    assert envs.spaces(EnvConfig(id="gravitar")) == Spaces((84, 84), 4, 18)
    assert envs.spaces(EnvConfig(id="ALE/Breakout-v5")) == Spaces((84, 84), 4, 4)
    assert envs.spaces(EnvConfig(id="CartPole-v1")) == Spaces((4,), 1, 2)
    assert envs.spaces(EnvConfig(id="Pendulum-v1")) == Spaces((3,), 1, 1, ((-2.0, 2.0),))
    assert envs.spaces(EnvConfig(id="outrider/MountainCarSparse-v0")) == Spaces((2,), 1, 3)


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("gravitaar", "gravitar"),
        ("CartPole-v9", "CartPole"),
        ("CartPoel-v1", "CartPole-v1"),
        ("zzzzzzzz", "name an Atari game"),
        ("Blackjack-v1", "vector"),
        ("FrozenLake-v1", "vector"),
        ("tests/Unbounded-v0", "discrete actions or a bounded vector"),
        ("tests/Matrix-v0", "discrete actions or a bounded vector"),
        ("tests/Shifted-v0", "discrete actions or a bounded vector"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_remedy(env_id: str, said: str) -> None:
    """Unknown names come back with close ones; unfit spaces with what would fit."""
    with pytest.raises(envs.EnvUnavailable, match=said) as caught:
        envs.spaces(EnvConfig(id=env_id))
    assert "\n" not in str(caught.value)


def test_vector_lanes_play_what_single_ones_play() -> None:
    """CartPole, with ends: each lane equals an environment of its own that is reset at its ends."""
    single = [gymnasium.make("CartPole-v1") for _ in SEEDS]
    now = [env.reset(seed=int(seed))[0] for env, seed in zip(single, SEEDS, strict=True)]
    ends = 0
    with lanes_of("CartPole-v1") as env:
        stack = env.reset(SEEDS)
        np.testing.assert_array_equal(stack, np.stack(now)[:, None])
        for action in actions(101, 2):
            moved = env.step(action)
            for lane, one in enumerate(single):
                seen, reward, terminated, truncated, _ = one.step(int(action[lane]))
                ends += terminated
                assert (moved.reward[lane], moved.terminated[lane], moved.truncated[lane]) == (
                    reward,
                    terminated,
                    truncated,
                )
                seen = one.reset()[0] if terminated else seen
                np.testing.assert_array_equal(moved.stack[lane, 0], seen)
            assert moved.stack.dtype == moved.reward.dtype == np.float32
    for one in single:
        one.close()
    assert ends > 3


def test_vector_time_limits_hand_over_the_last_observation() -> None:
    """MountainCar is cut after 200 steps, whatever is done."""
    single = gymnasium.make("MountainCar-v0")
    single.reset(seed=int(SEEDS[1]))
    with lanes_of("MountainCar-v0") as env:
        env.reset(SEEDS)
        for step, action in enumerate(actions(200, 3), 1):
            moved = env.step(action)
            assert moved.truncated.all() == (step == 200)
            last = single.step(int(action[1]))[0]
    single.close()
    assert moved.final.shape == (LANES, 2)
    np.testing.assert_array_equal(moved.final[1], last)
    assert not np.array_equal(moved.stack[1, 0], last)


def test_a_bounded_vector_makes_actions_continuous() -> None:
    pendulum, cartpole = (envs.spaces(EnvConfig(id=name)) for name in ("Pendulum-v1", "CartPole-v1"))
    assert (pendulum.is_continuous, pendulum.action, pendulum.action_dtype) == (True, (1,), np.float32)
    assert (cartpole.is_continuous, cartpole.action, cartpole.action_dtype) == (False, (), np.int32)


def test_actions_beyond_their_bounds_act_like_the_bound() -> None:
    """In rewards too, which cost by the force that was used; what lies within acts as it is."""

    def play(action: np.ndarray) -> list[np.ndarray]:
        with lanes_of("Pendulum-v1") as env:
            env.reset(SEEDS)
            sent = action.copy()
            moved = [env.step(sent) for _ in range(7)]
            np.testing.assert_array_equal(sent, action)  # the chunk ships what was drawn
        return [np.stack([one.stack for one in moved]), np.stack([one.reward for one in moved])]

    beyond, bound, within = (
        play(np.array(lanes, np.float32)[:, None]) for lanes in ([3.5, -1e6], [2.0, -2.0], [1.9, -1.9])
    )
    for one, other, third in zip(beyond, bound, within, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.isclose(one, third).all()


SPARSE = "outrider/MountainCarSparse-v0"


def test_the_sparse_mountain_car_pays_1_at_the_flag_and_nothing_elsewhere() -> None:
    """Pushed the way it rolls it gets there; the game ends with the step that pays."""
    paid: list[list[float]] = [[], []]
    ends = np.zeros(LANES, np.int64)
    with lanes_of(SPARSE) as env:
        stack = env.reset(SEEDS)
        while not ends.all():
            velocity = stack[:, -1, 1]
            moved = env.step(np.where(velocity < 0, 0, 2).astype(np.int32))
            assert not moved.truncated.any()
            for lane in range(LANES):
                if not ends[lane]:
                    paid[lane].append(float(moved.reward[lane]))
                    assert moved.terminated[lane] == (moved.reward[lane] == 1.0)
            ends |= moved.terminated
            stack = moved.stack
    for rewards in paid:
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
        assert 50 < len(rewards) < 200


def test_the_sparse_mountain_car_is_cut_after_200_steps_unpaid_but_otherwise_the_same() -> None:
    with lanes_of(SPARSE) as env, lanes_of("MountainCar-v0") as plain:
        np.testing.assert_array_equal(env.reset(SEEDS), plain.reset(SEEDS))
        for step, action in enumerate(actions(200, 3), 1):
            moved, known = env.step(action), plain.step(action)
            assert moved.truncated.all() == moved.truncated.any() == (step == 200)
            assert not moved.reward.any()
            assert not moved.terminated.any()
            np.testing.assert_array_equal(moved.stack, known.stack)
            np.testing.assert_array_equal(known.reward, -1.0)
    np.testing.assert_array_equal(moved.final, known.final)
