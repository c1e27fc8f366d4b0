from __future__ import annotations

from prometheus_client import generate_latest

from learner.metrics import LearnerCollector
from learner.network import View
from learner.training import Progress


def page(view: View, insecure_plaintext: bool) -> str:
    collector = LearnerCollector(
        lambda: view, Progress, lambda: (None, 0.0), {"preset": "pong"}, 128, dict, insecure_plaintext
    )
    return generate_latest(collector.registry()).decode()


def test_plain_text_for_other_machines_and_refusals_by_reason_are_exported() -> None:
    refused = {"unknown_key": 3, "revoked": 0}
    assert "outrider_insecure_plaintext 1.0" in page(View(), True)
    assert "outrider_insecure_plaintext 0.0" in page(View(), False)
    assert 'outrider_auth_refused_total{reason="unknown_key"} 3.0' in page(View(auth_refused=refused), False)
