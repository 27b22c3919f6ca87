"""Milliseconds over MACs: how well one stands for the other."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.reporting import run_space
from supernet_jax.reporting.charts import subnet_charts, svg_plot
from supernet_jax.reporting.charts.svg_plot import Labels, Points
from supernet_jax.reporting.html import Html, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Subnet
from supernet_jax.reporting.search_goal import MEASURED
from supernet_jax.reporting.tolerant_json import mapping, read
from supernet_jax.storage import files
from supernet_jax.tasks import Metric

LEAST = 3  # subnets, for a rank correlation
LATENCY = "latency"


def charts(facts: Facts, types: Mapping[str, type]) -> list[Html]:
    """The chart, in a list; an empty one where no subnet has a latency."""
    fronts = ([facts.search] if facts.search else []) + facts.races
    chosen = [s for front in fronts for s in (*front.chosen, *front.random)]
    scored, _, _ = subnet_charts.current(facts.evaluated, fronts)
    by_table, where = _by_table(facts, types, scored)
    known = {s.arch: s for s in (*chosen, *by_table) if LATENCY in s.values}
    groups = [
        ("by the table", "scored", "circle", 2.4, LATENCY, list(known.values())),
        (
            "measured",
            "tested",
            "diamond",
            3.6,
            MEASURED,
            [s for s in chosen if MEASURED in s.values],
        ),
    ]
    drawn, notes = [], []
    for name, kind, shape, size, key, subnets in groups:
        own = list(
            {
                s.arch: s for s in subnets if np.isfinite(s.values[key]) and s.values[key] > 0
            }.values()
        )
        if not own:
            continue
        notes.append(_ranked(name, [s.macs for s in own], [s.values[key] for s in own]))
        drawn.append(_points(name, kind, shape, size, key, own, facts.metric))
    if not drawn:
        return []
    note = f"{' '.join(notes)}{where} Where dots of equal MACs lie apart, MACs hide what they cost."
    labels = Labels("Latency over MACs", "MACs", "ms", note)
    return [tag("div", svg_plot.scatter(drawn, labels), class_="charts wide")]


def _points(
    name: str, kind: str, shape: str, size: float, key: str, subnets: list[Subnet], metric: Metric
) -> Points:
    shown = subnet_charts.spread_out(subnets, metric)
    return Points(
        name,
        kind,
        shape,
        size,
        [s.macs for s in shown],
        [s.values[key] for s in shown],
        [subnet_charts.hover_title(s, metric) for s in shown],
    )


def _ranked(name: str, macs: Sequence[float], ms: Sequence[float]) -> str:
    """Rank correlations of MACs and milliseconds, in a sentence."""
    if len(macs) < LEAST or len(set(macs)) < 2 or len(set(ms)) < 2:
        return f"{len(macs):,} {name}, too few or too alike to rank."
    tau = scipy.stats.kendalltau(macs, ms).statistic
    rho = scipy.stats.spearmanr(macs, ms).statistic
    return (
        f"Of {len(macs):,} subnets {name}, Kendall's tau of MACs and milliseconds is {tau:.3f}, "
        f"Spearman's rho {rho:.3f}."
    )


def _by_table(
    facts: Facts, types: Mapping[str, type], subnets: Sequence[Subnet]
) -> tuple[list[Subnet], str]:
    """Evaluated subnets with what the latency table of the last search says of them, where its file
    still lies where it was; and a sentence on it.
    """
    source = _source(read(facts.folder / "search.json")[0])
    path = pathlib.Path(str(source.get("file")))
    try:
        if not subnets or not source or not files.exists(path):
            return [], ""
        if hashlib.sha256(files.read_bytes(path)).hexdigest() != source.get("sha256"):
            return [], f" {path.name} is another table than that of the search."
        known = run_space.read(run_space.space(facts, types), subnets)
        ms = costs.latency(known.space, latency_table.read(path))(known.archs)
    except (UserError, OSError, ValueError):
        return [], ""
    timed = [
        s._replace(values={**s.values, LATENCY: float(value)})
        for s, value in zip(known.subnets, np.asarray(ms), strict=True)
    ]
    return timed, f" The table was measured on {source.get('measured', 'an unknown machine')}."


def _source(result: object) -> Mapping[str, object]:
    """What `search.json` says of the latency table among its costs."""
    budgets = mapping(result).get("budgets")
    said = [
        mapping(one).get("latency_table") for one in (budgets if isinstance(budgets, list) else [])
    ]
    return next((mapping(one) for one in said if mapping(one)), {})
