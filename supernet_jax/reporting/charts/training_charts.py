"""The charts of a run's training."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.reporting import sampler_replay
from supernet_jax.reporting.charts import svg_plot
from supernet_jax.reporting.charts.downsample import columns
from supernet_jax.reporting.charts.svg_plot import Labels, Line, Mark
from supernet_jax.reporting.html import Html, tag
from supernet_jax.reporting.metrics_history import History
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.tolerant_json import mapping, number
from supernet_jax.storage import typed_json
from supernet_jax.tasks import Metric
from supernet_jax.training import optimizers

IN_PLACE = (
    *("AlphaDivergence", "SoftCrossEntropy", "ReverseKL", "JensenShannon", "FeatureRelations"),
)  # losses by which the largest teaches the others
ROLES = ("largest", "smallest", "random")
OTHER = ("c3", "c4", "scored")  # colours of roles that the library does not know
CALLED = {"mixture": "mixture of all options", "codes": "codes, on the second batch"}
brought = functools.partial(columns, most=svg_plot.COLUMNS)


def charts(facts: Facts) -> list[Html]:
    """What there is to draw, in the order to read it."""
    h, metric = facts.history, facts.metric
    prefix, scale = f"{metric.name}/", 100 if metric.unit == "%" else 1
    title = f"{metric.name.capitalize()} on the batch"
    marks = [Mark(event.step, event.kind, event.text) for event in h.events]
    made = [
        _roles(h, "loss/", Labels("Loss", "step", "nats", _loss_note(facts)), marks),
        _roles(h, prefix, Labels(title, "step", metric.unit or metric.name), marks, scale=scale),
        _gap(h, marks, metric),
        _one(h.steps, h.values.get("gradient_norm"), _GRADIENT, marks, log=None),
        _rate(facts),
        _images(facts),
    ]
    return [chart for chart in made if chart is not None]


_GRADIENT = Labels("Gradient norm, before clipping", "step", "norm")


def _loss_note(facts: Facts) -> str:
    return " ".join(filter(None, (_note_of_roles(facts), *_notes_of_codes(facts.history))))


def _notes_of_codes(h: History) -> list[str]:
    """What the losses of a sampler that learns are."""
    notes = []
    if "loss/mixture" in h.values:
        notes.append(
            "The mixture is all options at once, each as much as it is likely, on the examples by "
            "which the weights learn."
        )
    if "loss/codes" in h.values:
        notes.append(
            "Codes is the loss on a second batch, of other examples: by it the probabilities of "
            "options learn, and no weights."
        )
    return notes


def _note_of_roles(facts: Facts) -> str:
    loss = str(mapping(facts.config.get("loss")).get("type", ""))
    if loss == "HardLabels":
        return "Cross-entropy to the labels, all roles alike."
    if loss in IN_PLACE:
        return (
            "The largest learns from the labels (cross-entropy), the others from the largest "
            "(divergence): compare a role with itself, not with another."
        )
    return ""


def _roles(
    h: History, prefix: str, labels: Labels, marks: Sequence[Mark], *, scale: float = 1.0
) -> Html | None:
    """One line for each role; the random members of a step are one of them."""
    names: dict[str, list[str]] = {}
    for name in h.values:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            role = "random" if rest.startswith("random") else rest
            names.setdefault(role, []).append(name)
    ordered = [role for role in ROLES if role in names]
    ordered += [role for role in names if role not in ROLES]
    series = []
    for i, role in enumerate(ordered[:8]):
        y = np.concatenate([h.values[name] for name in names[role]])
        kind = role if role in ROLES else OTHER[i % len(OTHER)]
        members = len(names[role])
        called = CALLED.get(role, role)
        called = f"{called} (mean of {members})" if members > 1 else called
        series.append(Line(called, kind, brought(np.tile(h.steps, members), scale * y)))
    return _drawn(series, labels, marks)


def _gap(h: History, marks: Sequence[Mark], metric: Metric) -> Html | None:
    """How far the largest is from the smallest."""
    largest, smallest = (h.values.get(f"{metric.name}/{role}") for role in ROLES[:2])
    if largest is None or smallest is None:
        return None
    scale, unit = (100, "percentage points") if metric.unit == "%" else (1, metric.name)
    labels = Labels(f"Largest minus smallest, {metric.name} on the batch", "step", unit)
    return _one(h.steps, scale * (largest - smallest), labels, marks, kind="c3")


def _one(
    steps: np.ndarray,
    values: np.ndarray | None,
    labels: Labels,
    marks: Sequence[Mark] = (),
    *,
    kind: str = "c3",
    log: bool | None = False,
) -> Html | None:
    if values is None:
        return None
    return _drawn([Line(labels.y, kind, brought(steps, values))], labels, marks, log=log)


def _drawn(
    series: Sequence[Line], labels: Labels, marks: Sequence[Mark], *, log: bool | None = None
) -> Html | None:
    """The chart, and how much of it was brought together; nothing where there is no point."""
    if not any(one.data.x.size for one in series):
        return None
    merged = max(one.data.merged for one in series)
    if merged > 1:
        said = f"Each column of pixels holds up to {merged:,} lines of metrics: mean and range."
        labels = Labels(labels.title, labels.x, labels.y, f"{labels.note} {said}".strip())
    return svg_plot.lines(series, labels, log=log, marks=marks)


def _rate(facts: Facts) -> Html | None:
    """The learning rate, which follows from the configuration."""
    try:
        part = typed_json.parse(
            Any, facts.config.get("optimizer"), "optimizer", named=config.LIBRARY
        )
    except UserError:
        return None
    planned = facts.planned
    if not isinstance(part, optimizers.Sgd | optimizers.AdamW) or planned is None:
        return None
    if not 1 <= planned < 2**31:
        return None
    try:
        schedule = part.schedule(steps=planned)
    except (UserError, TypeError):
        return None
    steps = np.unique(np.linspace(0, planned, svg_plot.COLUMNS).astype(np.int32))
    rates = np.asarray(jax.vmap(schedule)(steps), np.float64)
    labels = Labels("Learning rate", "step", "rate", "As the configuration plans it.")
    marks = [Mark(facts.done, "now", f"now: step {facts.done:,}")] if facts.done < planned else []
    return _drawn([Line(labels.y, "c4", brought(steps, rates))], labels, marks, log=False)


def _images(facts: Facts) -> Html | None:
    """Examples per second, from the times at which lines were written."""
    batch = number(mapping(facts.config.get("train")).get("batch"))
    if batch is None:
        return None
    what = facts.metric.examples
    note = "With pauses for checkpoints and new programs."
    labels = Labels(f"{what.capitalize()} per second", "step", f"{what}/s", note)
    return _one(facts.times.steps, batch * facts.times.rates, labels, kind="c2")


def macs(facts: Facts, types: Mapping[str, type]) -> list[Html]:
    """Which MACs training visited, or why that is not known."""
    if not facts.history.stretches:
        return [tag("p", "Nothing was trained yet.", class_="soft")]
    try:
        seen = sampler_replay.replayed(facts.config, facts.meta, facts.history.stretches, types)
    except UserError as error:
        return [tag("p", f"Not known for this run: {error}.", class_="soft")]
    fixed = " and ".join(f"{n:,}" for n in seen.fixed)
    always = f" The fixed members have {fixed} MACs." if fixed else ""
    if not seen.macs.size:
        return [tag("p", f"There are no random members.{always}", class_="soft")]
    part = "all" if seen.replayed == seen.steps else f"{seen.replayed:,} evenly spaced"
    note = (
        f"The sampler's draws of {part} of {seen.steps:,} steps, made again from the seed with "
        f"this version of the library.{always}"
    )
    labels = Labels("MACs of the random members", "MACs", "times", note)
    low, high = seen.ends
    drawn = svg_plot.histogram(seen.macs, labels, kind="random", low=low, high=high)
    return [tag("div", drawn, class_="charts wide")]


def lacks(facts: Facts) -> list[str]:
    """Charts that cannot be drawn, and why: sentences."""
    names, out = facts.history.values, []
    if not facts.history.steps.size:
        return ["No line of metrics yet."]
    name, what = facts.metric.name, facts.metric.examples
    if "loss/largest" in names and f"{name}/smallest" not in names:
        out.append(f"The smallest subnet's {name} was not recorded, so there is no gap to draw.")
    if not facts.times.rates.size:
        out.append(f"{what.capitalize()} per second need two lines with times (times.jsonl).")
    if facts.history.undone:
        out.append(f"{facts.history.undone:,} lines that rollbacks undid are left out.")
    if facts.history.refused:
        out.append(f"The guard refused {facts.history.refused:,} steps (red triangles).")
    return out
