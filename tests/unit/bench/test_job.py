"""The configuration of the benchmarks stays the same."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import replace
from pathlib import Path

from common.config import Config, EnvConfig, NetworkConfig, PPOConfig, RNDConfig, RolloutConfig
from learner.commandline import parse
from tests.bench import job
from tests.bench.job import JOB, flags

SOURCES = Path(job.__file__).parent


def test_the_job_is_the_one_of_earlier_figures() -> None:
    assert (JOB.env.id, JOB.rollout.batch_lanes, JOB.rollout.steps) == ("breakout", 32, 128)
    assert (JOB.ppo.epochs, JOB.predictor_share, JOB.rnd.enabled) == (4, 0.25, True)


def test_the_job_takes_no_default() -> None:
    """Every field of every part is written out."""
    calls = {
        node.func.id: {keyword.arg for keyword in node.keywords}
        for node in ast.walk(ast.parse(Path(job.__file__).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for part in (Config, EnvConfig, RolloutConfig, PPOConfig, RNDConfig, NetworkConfig):
        assert calls[part.__name__] == {field.name for field in dataclasses.fields(part)}


def test_its_flags_give_it_back_whatever_the_default_preset_says(tmp_path: Path) -> None:
    for config in (JOB, replace(JOB, max_lag=1, rnd=RNDConfig(enabled=False))):
        ((parsed, _),) = parse([*flags(config), "--run-dir", str(tmp_path)])
        assert parsed == config


def test_no_benchmark_uses_a_preset() -> None:
    for path in SOURCES.glob("*.py"):
        assert "learner.presets" not in path.read_text(), path
