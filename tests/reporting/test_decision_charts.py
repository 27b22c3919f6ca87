"""Charts of single subnets in the report: decisions, latency, published networks, pictures."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
import tiny_space
from light_space import light
from test_report import HOSTILE, OURS, Parsed, make

from supernet_jax import tasks
from supernet_jax.elastic import choices, notation, space_identity
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.experiment import arch_picture
from supernet_jax.experiment.importance import Importance, Part
from supernet_jax.reporting import page, run_facts, run_space
from supernet_jax.reporting.charts import (
    arch_drawings,
    decision_charts,
    importance_chart,
    latency_chart,
    published_chart,
)
from supernet_jax.reporting.html import Html, join
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import ACCURACY

CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The tiny space, as a part of a configuration."""

    def build(self, *, classes: int) -> Space:
        made = tiny_space.tiny()
        return dataclasses.replace(made, task=tasks.ImageClassification(2, classes))


@dataclasses.dataclass(frozen=True)
class Cells:
    """A space whose decisions are operations."""

    def build(self) -> Space:
        return tiny_space.cells()


@dataclasses.dataclass(frozen=True)
class Wide:
    """A space in which a decision has many options."""

    def build(self) -> Space:
        return light(widths=tuple(range(3, 60)), resolutions=(6,))


TYPES: dict[str, type] = {"Tiny": Tiny, "Cells": Cells, "Wide": Wide}
SPACES = {
    "Tiny": Tiny().build(classes=CLASSES),
    "Cells": Cells().build(),
    "Wide": Wide().build(),
}


def records(space: Space, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Evaluated subnets, whose accuracy is that of their last decisions."""
    archs = choices.unstack(choices.sample(space.menu, jax.random.key(seed), (count,)))
    macs = costs.macs(space)
    known = {"parameters": 9, "checkpoint": 1, "split": "held-out", "images": 64, "loss": 1.0}
    return [
        {
            **known,
            "arch": notation.to_notation(space.menu, arch),
            "accuracy": 0.5 + 0.01 * float(np.sum(choices.pack(arch)[-2:])),
            "macs": int(macs(arch)),
        }
        for arch in archs
    ]


def facts_of(
    folder: pathlib.Path,
    kind: str,
    evaluated: list[dict[str, Any]],
    *,
    data: str = "digits",
    classes: int = CLASSES,
    search: dict[str, Any] | None = None,
) -> Facts:
    config = {"type": "Config", "space": {"type": kind}, "data": {"name": data}}
    contents = {
        "config.json": json.dumps(config),
        "evaluations.jsonl": "".join(json.dumps(one) + "\n" for one in evaluated),
    }
    if search is not None:
        contents["search.json"] = json.dumps(search)
    made = SPACES[kind]
    if kind == "Tiny" and classes != CLASSES:
        made = Tiny().build(classes=classes)
    meta = {"space": space_identity.describe_space(made)}
    return run_facts.gather(make(folder, contents))._replace(meta=meta)


def parsed(parts: list[Html]) -> Parsed:
    """What a parser finds in some parts, which must be well-formed and of known elements."""
    text = join(*parts).text
    found = Parsed(text)
    assert found.names <= OURS
    drawn = " ".join(re.findall(r' (?:d|x|y|width|height|transform)="([^"]*)"', text))
    assert "nan" not in drawn and "inf" not in drawn
    return found


def all_charts(facts: Facts) -> list[Html]:
    return [
        *published_chart.charts(facts),
        *latency_chart.charts(facts, TYPES),
        *decision_charts.charts(facts, TYPES),
        *arch_drawings.charts(facts, TYPES),
    ]


def test_what_decisions_do(tmp_path: pathlib.Path) -> None:
    space = SPACES["Tiny"]
    facts = facts_of(tmp_path, "Tiny", records(space, 120))
    parts = decision_charts.charts(facts, TYPES)
    text = join(*parts).text
    found = parsed(parts)
    assert "How much each decision matters" in found.text
    bars = re.findall(r'class="bar c0"', text)
    assert len(bars) >= 4
    (last, before) = choices.names(space.menu)[-1], choices.names(space.menu)[-2]
    rows = re.findall(r"<text[^>]*><title>([^<]*)</title>", text)
    assert {rows[0], rows[1], rows[2]} >= {last, before}
    assert "what half of them tell explains" in found.text
    # Each panel has all subnets, once.
    for panel in text.split("<figure")[2:]:
        assert sum(path.count("h0") for path in re.findall(r' d="([^"]*)"', panel)) == len(
            {one.arch for one in facts.evaluated}
        )


@pytest.mark.parametrize("count", [1, 2, 30])
def test_few_subnets_are_said_to_be_few(tmp_path: pathlib.Path, count: int) -> None:
    facts = facts_of(tmp_path, "Tiny", records(SPACES["Tiny"], count))
    found = parsed(all_charts(facts))
    assert "How much each decision matters is not known" in found.text
    assert "importance needs at least 40; evaluate more" in found.text
    assert "the best that was evaluated" in found.text
    distinct = len(facts.evaluated)
    assert ("Each dot is an evaluated subnet" in found.text) == (distinct >= decision_charts.LEAST)


def test_subnets_that_are_all_as_good(tmp_path: pathlib.Path) -> None:
    same = [{**one, "accuracy": 0.5} for one in records(SPACES["Tiny"], 60)]
    assert "subnets score the same" in parsed(all_charts(facts_of(tmp_path, "Tiny", same))).text


def test_one_decision_that_varies(tmp_path: pathlib.Path) -> None:
    made = records(SPACES["Wide"], 300)
    rows = [{**one, "arch": {**one["arch"], "depth": 2}} for one in made]
    rows = [{**one, "accuracy": one["arch"]["width"] / 100} for one in rows]
    parts = all_charts(facts_of(tmp_path, "Wide", rows))
    text, found = join(*parts).text, parsed(parts)
    share = re.search(r"width: ([\d.]+) % of the explained variance", found.text)
    assert share and 98 < float(share[1]) < 102
    panels = text.split("<figure")[2:-1]  # without the bars, and the picture
    assert len(panels) == 1 and "<strong>width</strong>" in panels[0]
    keys = re.findall(r"</svg>([\d.]+ to [\d.]+)</span>", panels[0])
    assert len(keys) == len(arch_picture.COLOURS)  # ranges, as there are many options


def test_runs_without_a_space_say_so(tmp_path: pathlib.Path) -> None:
    facts = facts_of(tmp_path, "Tiny", records(SPACES["Tiny"], 50))
    for other in (facts._replace(meta={}), facts._replace(config={"space": {"type": "Unknown"}})):
        found = parsed(all_charts(other))
        assert found.text.count("Not known for this run") == 2
    assert all_charts(facts._replace(evaluated=[])) == []
    foreign = [one._replace(arch='{"a": 1}') for one in facts.evaluated]
    assert (
        "No evaluated arch is of this run"
        in parsed(all_charts(facts._replace(evaluated=foreign))).text
    )


def test_many_subnets_are_thinned_out(tmp_path: pathlib.Path) -> None:
    evaluated = [
        {**one, "checkpoint": 1, "macs": one["macs"] + i, "images": 64}
        for i, one in enumerate(records(SPACES["Tiny"], 200))
    ]
    facts = facts_of(tmp_path, "Tiny", evaluated)
    many = facts._replace(evaluated=facts.evaluated * 60)
    assert len(many.evaluated) > 6_000
    parts = decision_charts.charts(many, TYPES)
    text = join(*parts).text
    for panel in text.split("<figure")[2:]:
        dots = sum(path.count("h0") for path in re.findall(r' d="([^"]*)"', panel))
        assert dots == decision_charts.DOTS
    assert f"{decision_charts.DOTS} of {len(many.evaluated):,} are drawn" in Parsed(text).text
    assert len(text) < 200_000


def test_operations_have_names(tmp_path: pathlib.Path) -> None:
    facts = facts_of(tmp_path, "Cells", records(SPACES["Cells"], 60))
    found = parsed(all_charts(facts))
    assert "conv3x3" in found.text and "of the largest" in found.text


def test_only_imagenet_stands_beside_published_networks(tmp_path: pathlib.Path) -> None:
    rows = [{**one, "macs": 10_000 * one["macs"]} for one in records(SPACES["Tiny"], 20)]
    title = "Beside published networks"
    cases = (
        ("tfds:imagenet2012", 1000, True),
        ("tfds:imagenet2012", CLASSES, False),
        ("digits", 1000, False),
        ("digits", CLASSES, False),
        ("None", 1000, False),
    )
    for i, (data, classes, is_there) in enumerate(cases):
        facts = facts_of(tmp_path / str(i), "Tiny", rows, data=data, classes=classes)
        parts = published_chart.charts(facts)
        assert bool(parts) is is_there
        assert (title in page.document(facts, types=TYPES, written="now")) is is_there
    facts = facts_of(tmp_path / "0", "Tiny", rows, data="tfds:imagenet2012", classes=1000)
    found = parsed(published_chart.charts(facts))
    assert "AlphaNet" in found.text and "pytorch-image-models" in found.text  # sources
    perplexity = facts._replace(metric=ACCURACY._replace(name="perplexity"))
    assert published_chart.charts(perplexity) == []
    tiny = facts._replace(evaluated=[one._replace(macs=1.0) for one in facts.evaluated])
    assert published_chart.charts(tiny) == []


@pytest.mark.parametrize("latency", [None, "none", float("nan"), float("inf"), -1.0, 0.0])
def test_latencies_that_are_none(tmp_path: pathlib.Path, latency: Any) -> None:
    rows = [
        {**one, "latency": latency, "measured_ms": latency} for one in records(SPACES["Tiny"], 5)
    ]
    facts = facts_of(tmp_path, "Tiny", rows, search={"cost": "latency", "front": rows})
    assert latency_chart.charts(facts, TYPES) == []
    parsed(all_charts(facts))


def test_latency_over_macs(tmp_path: pathlib.Path) -> None:
    rows = sorted(records(SPACES["Tiny"], 12), key=lambda one: one["macs"])
    rows = list({json.dumps(one["arch"]): one for one in rows}.values())
    timed = [{**one, "latency": float(one["macs"]) ** 2} for one in rows]
    timed = [{**one, "measured_ms": 3e9 - one["latency"]} for one in timed]
    facts = facts_of(tmp_path, "Tiny", timed, search={"cost": "latency", "front": timed})
    found = parsed(latency_chart.charts(facts, TYPES))
    counted = len(rows)
    for name, tau in (("by the table", "1.000"), ("measured", "-1.000")):
        said = f"Of {counted} subnets {name}, Kendall's tau of MACs and milliseconds is {tau}"
        assert said in found.text
    two = facts_of(
        tmp_path / "two", "Tiny", timed[:2], search={"cost": "latency", "front": timed[:2]}
    )
    assert "too few or too alike to rank" in parsed(latency_chart.charts(two, TYPES)).text


def test_names_that_files_give_are_texts() -> None:
    parts = (Part(HOSTILE, (0,)), Part("fine", (1, 2)))
    one = Importance(parts, np.array([[0.7, 0.3], [0.5, -0.2]]), 0.9, 50)
    found = parsed([importance_chart.chart(one, HOSTILE)])
    assert [name for name, _ in found.elements].count("script") == 0
    assert "alert(1)" in found.text
    slot = arch_picture.Slot(HOSTILE, arch_picture.Shape(8, 4), None, HOSTILE, (HOSTILE,), HOSTILE)
    chain = arch_picture.Picture((slot,), (), "px", (HOSTILE,))
    assert "alert(1)" in parsed([arch_drawings.drawing(chain, HOSTILE)]).text


def test_networks_of_the_front_are_drawn(tmp_path: pathlib.Path) -> None:
    rows = sorted(records(SPACES["Tiny"], 9), key=lambda one: one["macs"])
    facts = facts_of(tmp_path, "Tiny", rows, search={"cost": "macs", "front": rows})
    parts = arch_drawings.charts(facts, TYPES)
    found = parsed(parts)
    for place in (0, 4, 8):
        assert f"front:{place}: {rows[place]['accuracy']:.2%}" in found.text
    text = join(*parts).text
    assert text.count('class="outline') == 3 * len(SPACES["Tiny"].blocks)
    assert "in the largest" in found.text


@pytest.mark.parametrize(
    "text", ["", "no JSON", "null", "3", '"3"', '{"nothing": 1}', "[[{}]]", "[" * 10**5]
)
def test_what_is_no_arch(text: str) -> None:
    assert run_space.arch_of(SPACES["Tiny"], text) is None


def test_the_space_is_made_once(tmp_path: pathlib.Path) -> None:
    facts = facts_of(tmp_path, "Tiny", records(SPACES["Tiny"], 3))
    assert run_space.space(facts, TYPES) is run_space.space(facts, dict(TYPES))
    known = run_space.read(SPACES["Tiny"], facts.evaluated, most=2)
    assert len(known.subnets) == len(choices.unstack(known.archs)) == min(2, len(facts.evaluated))
    assert run_space.read(SPACES["Tiny"], []).archs is None


def test_what_stands_in_a_report(tmp_path: pathlib.Path) -> None:
    rows = records(SPACES["Tiny"], 60)
    facts = facts_of(tmp_path, "Tiny", rows, search={"cost": "macs", "front": rows[:3]})
    text = page.document(facts, types=TYPES, written="now")
    assert Parsed(text).names <= OURS
    assert "<h2>Decisions</h2>" in text and "<h2>Networks of the front</h2>" in text
