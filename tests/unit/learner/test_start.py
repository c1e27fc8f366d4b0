"""What a learner decides when a run begins, and what a resume keeps of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import Config
from common.model import precision
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from learner.commandline import Options, parse
from learner.presets import PRESETS
from learner.runs import read_config
from learner.service import Learner
from learner.training import checkpoint


@contextlib.contextmanager
def learner(config: Config, run: Path, resume: bool) -> Iterator[Learner]:
    """Start a learner without actors."""
    options = Options(run, f"ipc://{run.parent}/data", 0, resume, "cpu")
    with contextlib.ExitStack() as stack:
        yield Learner(config, options, threading.Event(), stack)


@pytest.mark.parametrize("native", [True, False], ids=["native", "emulated"])
def test_the_precision_of_a_run_is_resolved_once_and_survives_a_resume_on_another_processor(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shipped to actors, in config.json and in the checkpoint."""
    resolved, other = ("bfloat16", "float32") if native else ("float32", "bfloat16")
    run = tmp_path / "run"
    resume = ["cartpole", "--resume", "--run-dir", str(run)]
    monkeypatch.setattr(precision, "has_bfloat16", lambda: native)
    with learner(replace(PRESETS["cartpole"], precision="auto"), run, resume=False) as first:
        first.trainer.save()
        assert Config.from_json(first.server._admission._terms.body).precision == resolved
    monkeypatch.setattr(precision, "has_bfloat16", lambda: not native)
    for flags in ([], ["--precision", "auto"], ["--precision", resolved]):
        ((config, _),) = parse([*resume, *flags])
        with learner(config, run, resume=True) as second:
            assert second.config.precision == resolved
            assert Config.from_json(second.server._admission._terms.body).precision == resolved
            second.trainer.save()
        saved = checkpoint.newest(run / "checkpoints")
        assert saved is not None
        assert Config.from_json(saved.meta["config"]).precision == read_config(run).precision == resolved
    with pytest.raises(Fatal, match=f"precision was {resolved}, now {other}") as refused:
        parse([*resume, "--precision", other])
    assert refused.value.code == EXIT_CONFIGURATION
