"""Queries, panels and the first row that several dashboards share."""

from __future__ import annotations

from deploy.grafana.model import Panel, Query, Row
from learner.monitoring.bottleneck import CAUSES

TRAINED_RATE = "sum(run:outrider_learner_steps_trained:rate1m)"  # steps per second


def rate_of(metric: str, by: str = "") -> str:
    """Return the expression of a counter's rate, summed over all series or by one label."""
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}(rate({metric}[$__rate_interval]))"


def single(expr: str, legend: str = "") -> tuple[Query, ...]:
    """Return the queries of a panel with only one."""
    return (Query(expr, legend),)


_BOTTLENECK = Panel(
    "Bottleneck",
    "The cause that limited the speed of the run in the last minute. The panel Bottleneck shares"
    " of the page Fleet shows the share of each cause.",
    single("outrider_bottleneck == 1", "{{cause}}"),
    series_titles=CAUSES,
    kind="label",
    width=10,
    height=4,
)
_IMBALANCE = Panel(
    "Steps unaccounted for",
    "Steps produced - trained - dropped - in flight. Any value other than 0 is a defect of Outrider.",
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
    "Number of sessions connected to the learner, on all machines, and number of chunks in a batch, which is"
    " the number of actors that one batch has room for.",
    (Query("outrider_fleet_actors", "actors"), Query("outrider_run_batch_chunks", "chunks per batch")),
    kind="values",
    width=6,
    height=4,
    decimals=0,
)

TOP_ROW = Row("", (_BOTTLENECK, _SPEED, _ACTORS, _IMBALANCE))

RETURN = Panel(
    "Return",
    "Unclipped returns: the mean of the last 100 episodes and the maximum of the run.",
    (
        Query("outrider_episode_return_mean", "mean of 100 episodes"),
        Query("outrider_episode_return_max", "maximum"),
    ),
    width=12,
    height=9,
)


def bands(expr: str) -> tuple[Query, ...]:
    """Return the queries of the highest, the median and the lowest series, however many there are."""
    return (
        Query(f"max({expr})", "highest"),
        Query(f"quantile(0.5, {expr})", "median"),
        Query(f"min({expr})", "lowest"),
    )


def quantiles(histogram: str) -> tuple[Query, ...]:
    """Return the queries of the median and the 99th percentile of five minutes of a histogram."""
    rate = f"sum by (le) (rate({histogram}_bucket[5m]))"
    return (
        Query(f"histogram_quantile(0.5, {rate})", "median"),
        Query(f"histogram_quantile(0.99, {rate})", "99th percentile"),
    )


EXPLAINED_VARIANCE = Panel(
    "Explained variance",
    "Share of the variance of the value targets that each value head explains: 1 is a perfect fit, 0 is no"
    " better than the mean of the targets.",
    single("outrider_train_explained_variance_ratio", "{{head}}"),
    unit="percentunit",
    maximum=1,
)
