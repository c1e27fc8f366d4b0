"""Which processes an engine starts again."""

from __future__ import annotations

import re

from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_TEMPORARY, EXIT_USAGE
from tests.unit.deploy.test_deployment import COMPOSE, MACHINE, STACK, job


def test_a_configuration_error_is_not_restarted_without_end() -> None:
    """Compose and Swarm limit the number of restarts; a job of Kubernetes ends at the first error."""
    for tree in (COMPOSE, MACHINE):
        for name in {"learner", "actor"} & tree["services"].keys():
            assert re.fullmatch(r"on-failure:\d+", tree["services"][name]["restart"])
    for name in ("learner", "actor"):
        policy = STACK["services"][name]["deploy"]["restart_policy"]
        assert policy["max_attempts"] > 0 and policy["window"]
        rules = job(name)["podFailurePolicy"]["rules"]
        codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
        assert codes == {"FailJob": [EXIT_USAGE, EXIT_CONFIGURATION], "Ignore": [EXIT_TEMPORARY]}
