"""`python -m tests.ci.generate`: writes the files that are generated from other files of the repository.

Of docs/results.md only the first table is among them, because the run directories of the others are not part
of the repository (`python -m learner.table RUN_DIR... --into docs/results.md --name NAME`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.grafana.build import DASHBOARDS, DIRECTORY, file_text
from tests.bench import report as benchmarks
from tests.ci import configuration_page, metrics_page
from tests.ci import reliability_report as reliability
from tests.learning.campaign import report as campaign


def generated() -> dict[Path, str]:
    """The path and the content of every generated file."""
    return {
        benchmarks.DOCS / "benchmarks.md": benchmarks.page(),
        benchmarks.DOCS / "reliability.md": reliability.page(),
        benchmarks.DOCS / "configuration.md": configuration_page.page(),
        metrics_page.FILE: metrics_page.page(),
        campaign.PAGE: campaign.page(campaign.read_records(), campaign.PAGE.read_text()),
        **{DIRECTORY / f"{dashboard.uid}.json": file_text(dashboard) for dashboard in DASHBOARDS},
    }


def main() -> int:
    """Write the files that differ, and print their paths."""
    for file, content in generated().items():
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
            print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
