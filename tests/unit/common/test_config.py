"""The run configuration: its validation, its JSON, and its derived numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from common.config import Config, EnvConfig, NetworkConfig, PPOConfig, RNDConfig, RolloutConfig
from learner.presets import DEFAULT_PRESET, PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    """Every preset is valid, has its own name, and is restored from JSON as an equal value."""
    config = PRESETS[name]
    assert config.preset == name
    assert Config.from_json(config.to_json()) == config
    assert Config.from_json(config.to_json().encode()) == config


def test_the_default_settings_are_those_of_rnd() -> None:
    """A preset of a hard game changes the game alone; the default preset is another one."""
    assert PRESETS["gravitar"] == Config(preset="gravitar", env=EnvConfig(id="gravitar"))
    assert DEFAULT_PRESET in PRESETS


def test_freeway_and_pong_differ_in_the_bonus_and_in_the_settings_of_an_update() -> None:
    """Freeway without a bonus is PPO alone: normalisation cancels the weight of the score."""
    freeway, pong = PRESETS["freeway"], PRESETS["pong"]
    assert freeway.ppo.normalise_advantages
    update = ("epochs", "minibatches", "clip", "learning_rate", "value_coef")
    changed = {name: getattr(pong.ppo, name) for name in (*update, "coef_extrinsic", "coef_intrinsic")}
    assert (replace(freeway.ppo, **changed), freeway.rollout) == (pong.ppo, pong.rollout)
    assert freeway.rnd.enabled
    assert not pong.rnd.enabled


def edited(path: str, value: object) -> str:
    """The default configuration as JSON with one entry changed; `...` removes it."""
    data: dict[str, Any] = json.loads(Config().to_json())
    *parents, name = path.split(".")
    parent: Any = data
    for key in parents:
        parent = parent[key]
    if value is ...:
        del parent[name]
    else:
        parent[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("extra", 1, "extra"),
        ("ppo.extra", 1, "extra"),
        ("ppo", [], "ppo"),
        ("ppo", None, "ppo"),
        ("seed", "1", "seed"),
        ("seed", 1.0, "seed"),
        ("seed", True, "seed"),
        ("seed", None, "seed"),
        ("rnd.enabled", 1, "enabled"),
        ("ppo.clip", "0.1", "clip"),
        ("ppo.clip", False, "clip"),
        ("ppo.clip", float("nan"), "clip"),
        ("ppo.learning_rate", 10**400, "learning"),
        ("env.id", 3, "id"),
        ("precision", "float16", "precision"),
        ("precision", ["auto"], "precision"),
        ("network.conv3_kernel", 5, "conv3_kernel"),
        ("network.conv3_kernel", 3.0, "conv3_kernel"),
        ("rollout.steps", 0, "rollout.steps"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_invalid_configuration_is_refused(path: str, value: object, named: str) -> None:
    """Unknown fields and wrong types raise a ValueError that names the field."""
    with pytest.raises(ValueError, match=named):
        Config.from_json(edited(path, value))


@pytest.mark.parametrize("path", ["seed", "rnd.enabled", "ppo"])
def test_a_field_that_the_text_lacks_has_its_default(path: str) -> None:
    """A run directory of an earlier release can be resumed."""
    assert Config.from_json(edited(path, ...)) == Config()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", b"\xff\xfe", "[" * 100_000, "1" * 5_000])
def test_other_text_is_refused(text: str | bytes) -> None:
    """The error is always a ValueError."""
    with pytest.raises(ValueError, match="expected"):
        Config.from_json(text)


def test_an_integer_is_read_as_a_float_where_a_float_is_expected() -> None:
    """JSON of other programs may have 1 for 1.0."""
    config = Config.from_json(edited("ppo.value_coef", 1))
    assert config == Config()
    assert type(config.ppo.value_coef) is float


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (EnvConfig, {"sticky": 1.0}, "env.sticky"),
        (EnvConfig, {"max_frames": 3}, "env.max-frames"),
        (RolloutConfig, {"steps": 5000}, "rollout.steps"),
        (RolloutConfig, {"lanes": 0}, "rollout.lanes"),
        (RolloutConfig, {"lanes": 3, "batch_lanes": 7}, "rollout.batch-lanes"),
        (RolloutConfig, {"batch_lanes": 0}, "rollout.batch-lanes"),
        (PPOConfig, {"epochs": 0}, "ppo.epochs"),
        (PPOConfig, {"minibatches": 0}, "ppo.minibatches"),
        (PPOConfig, {"clip": 1.0}, "ppo.clip"),
        (PPOConfig, {"learning_rate": 0.0}, "ppo.learning-rate"),
        (PPOConfig, {"adam_eps": -1e-9}, "ppo.adam-eps"),
        (PPOConfig, {"max_grad_norm": -1.0}, "ppo.max-grad-norm"),
        (PPOConfig, {"gamma_extrinsic": 1.01}, "ppo.gamma-extrinsic"),
        (PPOConfig, {"gamma_intrinsic": -0.1}, "ppo.gamma-intrinsic"),
        (PPOConfig, {"gae_lambda": float("nan")}, "ppo.gae-lambda"),
        (RNDConfig, {"warmup_steps": -1}, "rnd.warmup-steps"),
        (RNDConfig, {"predictor_keep": 0.0}, "rnd.predictor-keep"),
        (NetworkConfig, {"hidden": 0}, "network.hidden"),
        (Config, {"seed": -1}, "seed"),
        (Config, {"total_steps": 0}, "total-steps"),
        (Config, {"max_lag": -1}, "max-lag"),
        (Config, {"max_lag": 65}, "max-lag"),
        (Config, {"ppo": PPOConfig(minibatches=7)}, "ppo.minibatches"),
        (Config, {"ppo": PPOConfig(minibatches=64, shuffle=False)}, "ppo.minibatches"),
    ],
)
def test_the_message_about_a_bad_value_names_the_flag(kind: Any, options: dict[str, Any], named: str) -> None:
    """It names the option, the expected values and the given value."""
    with pytest.raises(ValueError, match=rf"expected {named}.*, got ") as caught:
        kind(**options)
    assert "\n" not in str(caught.value)


def test_derived_numbers_follow_from_the_options() -> None:
    """The numbers of updates and of warm-up chunks are rounded up."""
    config = Config(
        total_steps=211,
        rollout=RolloutConfig(steps=5, lanes=3, batch_lanes=21),
        ppo=PPOConfig(minibatches=7),
        rnd=RNDConfig(warmup_steps=31),
    )
    shape = config.rollout
    assert (shape.chunk_steps, shape.batch_steps, shape.batch_chunks) == (15, 105, 7)
    assert (config.updates, config.warmup_chunks) == (3, 3)
    assert (replace(config, total_steps=210).updates, replace(config, total_steps=1).updates) == (2, 1)


@pytest.mark.parametrize(("lanes", "keep"), [(4, 1.0), (32, 1.0), (64, 0.5), (128, 0.25), (1024, 1 / 32)])
def test_the_predictor_keeps_32_lanes_worth_of_samples_unless_told_otherwise(lanes: int, keep: float) -> None:
    """Appendix A.4 of Burda et al. 2018: the predictor does not learn faster with more lanes."""
    config = Config(rollout=RolloutConfig(lanes=4, batch_lanes=lanes))
    assert config.predictor_share == keep
    assert replace(config, rnd=RNDConfig(predictor_keep=0.125)).predictor_share == 0.125


def test_without_a_bonus_there_is_no_warm_up() -> None:
    """The warm-up initialises the statistics that whiten the observations of the bonus."""
    for env in (EnvConfig(id="breakout"), EnvConfig(id="CartPole-v1")):
        config = Config(env=env, rnd=RNDConfig(warmup_steps=31))
        assert config.warmup_chunks == 1
        assert replace(config, rnd=replace(config.rnd, enabled=False)).warmup_chunks == 0


def test_runs_that_differ_in_length_alone_play_alike() -> None:
    """Runs that differ in the seed or the environment do not."""
    config = Config()
    assert config.equal_except_length(replace(config, total_steps=7))
    assert not config.equal_except_length(replace(config, seed=2))
    assert not config.equal_except_length(replace(config, env=EnvConfig(sticky=0.0)))


def test_rnd_paper_has_the_numbers_of_the_paper() -> None:
    """Table 5 and appendix A of Burda et al. 2018."""
    paper = PRESETS["rnd-paper"]
    ppo, rollout = paper.ppo, paper.rollout
    assert (rollout.steps, rollout.batch_lanes) == (128, 128)
    assert (ppo.epochs, ppo.minibatches, ppo.learning_rate, ppo.clip) == (4, 4, 1e-4, 0.1)
    assert (ppo.gamma_extrinsic, ppo.gamma_intrinsic, ppo.gae_lambda) == (0.999, 0.99, 0.95)
    assert (ppo.coef_extrinsic, ppo.coef_intrinsic, ppo.entropy_coef) == (2.0, 1.0, 0.001)
    assert paper.predictor_share == 0.25
    assert (paper.env.sticky, paper.env.max_frames, paper.env.time_limit_is_end) == (0.25, 18_000, True)


@pytest.mark.parametrize("field", ["env.id", "preset", "rollout.lanes"])
def test_text_with_control_characters_is_refused_and_not_shown(field: str) -> None:
    """An actor shows values of its learner's configuration on its terminal."""
    data = json.loads(Config().to_json())
    *groups, name = field.split(".")
    target = data[groups[0]] if groups else data
    target[name] = "\x1b[2J"
    with pytest.raises(ValueError, match=f"printable text at configuration.{field}") as refused:
        Config.from_json(json.dumps(data))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "x" * 257}, "configuration.preset of at most 256 characters"),
        ({"env": {"id": "x" * 1_000_000}}, "configuration.env.id of at most 256 characters"),
        ({"total_steps": 2**63}, "an integer of 64 bits at configuration.total_steps"),
        ({"env": {"max_frames": -(2**63)}}, "an integer of 64 bits at configuration.env.max_frames"),
    ],
)
def test_long_texts_and_large_integers_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        Config.from_json(json.dumps(changes))
    assert len(str(refused.value)) < 500
