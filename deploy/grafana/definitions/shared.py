"""The queries and the first row that all dashboards share."""

from __future__ import annotations

from deploy.grafana.model import Panel, Query, Row
from learner.monitoring.bottleneck import CAUSES

TRAINED_RATE = "sum(job:outrider_learner_steps_trained:rate1m)"


def rate_of(metric: str, by: str = "") -> str:
    """Return the query of a counter's rate, summed over all series or by one label."""
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}(rate({metric}[$__rate_interval]))"


def single(expr: str, legend: str = "") -> tuple[Query, ...]:
    """Return the queries of a panel that has only one."""
    return (Query(expr, legend),)


_BOTTLENECK = Panel(
    "Bottleneck",
    "What limited the speed of the run in the last minute. The panel Bottleneck shares of"
    " the page Fleet shows the share of each cause.",
    single("outrider_bottleneck == 1", "{{cause}}"),
    series_titles=CAUSES,
    kind="label",
    width=14,
    height=4,
)
_IMBALANCE = Panel(
    "Steps unaccounted for",
    "Steps produced - trained - dropped - in flight. Any value but 0 is a defect of Outrider.",
    single("outrider_learner_accounting_imbalance_steps"),
    kind="value",
    width=4,
    height=4,
    red_unless_zero=True,
    decimals=0,
)
_SPEED = Panel(
    "Steps trained per second",
    "Rate of the last minute. One step of an Atari game is four frames.",
    single(TRAINED_RATE),
    unit="locale",
    kind="value",
    width=4,
    height=4,
    decimals=0,
)
_ACTORS = Panel(
    "Actors",
    "Number of sessions connected to the learner, on all machines.",
    single("outrider_fleet_actors"),
    kind="value",
    width=2,
    height=4,
    decimals=0,
)

TOP_ROW = Row("", (_BOTTLENECK, _SPEED, _ACTORS, _IMBALANCE))
