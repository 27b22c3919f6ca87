"""The report of a run: pure parts by their properties, the page by what a parser finds in it."""

import html.parser
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from light_space import light
from tiny_run import CONFIG, supernet

from supernet_jax import spaces
from supernet_jax.experiment import build, config, sampler_visits
from supernet_jax.reporting import metrics_history, page, search_goal
from supernet_jax.reporting.charts import (
    code_charts,
    subnet_charts,
    svg_axes,
    svg_parallel,
    svg_plot,
)
from supernet_jax.reporting.charts.downsample import columns
from supernet_jax.reporting.html import Html, escape, tag
from supernet_jax.reporting.metrics_history import Stretch
from supernet_jax.reporting.run_results import ACCURACY, Pair, networks
from supernet_jax.training import samplers, train_step
from supernet_jax.training.members import Members, step_keys

HOSTILE = (
    "<script>alert(1)</script>\"'></svg></style></title><img src=x onerror='y'> &lt; \x00\ud800"
)
VOID = {"meta", "link", "br", "hr", "img", "input"}
OURS = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "section", "footer"),
    *("h1", "h2", "p", "div", "span", "strong", "details", "summary", "pre", "code", "ul", "li"),
    *("dl", "dt", "dd", "figure", "figcaption", "svg", "path", "rect", "text"),
    *("table", "thead", "tbody", "tr", "th", "td"),
    *("aside", "label", "input", "button"),
}


class Parsed(html.parser.HTMLParser):
    """The elements of a document, in order, and its text."""

    def __init__(self, document: str):
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.open: list[str] = []
        self.text = ""
        self.values: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == [], "not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}


def line(step: int, **values: Any) -> str:
    known = {"loss/largest": 2.0 / step, "loss/smallest": 3.0 / step, "loss/random_1": 2.5 / step}
    known |= {"loss/random_2": 2.6 / step, "accuracy/largest": 0.5, "gradient_norm": 1.0}
    return json.dumps({"step": step, **known, "applied": 1.0, "refused": 0.0} | values)


def record(text: str, **values: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"arch": {"width": 4, text: [text]}, "accuracy": 0.5, "loss": 1.0}
    known |= {"macs": 1000, "parameters": 90, "space": text, "checkpoint": 20, "images": 64}
    known |= {"split": "held-out", "data": text, "calibration": [1, 64], "dtype": text}
    return {**known, **values}


def network(text: str) -> dict[str, Any]:
    return {
        "format": "supernet_jax network", "version": 1, "space": text, "arch": {text: text},
        "resolution": 8, "input_channels": 1, "mean": [0.5], "std": [0.5], "classes": [text] * 2,
        "blocks": [], "code": None, "macs": 1000, "parameters": 90,
        "accuracy": {"test": 0.5, text: 0.4}, "calibration": {"batches": 1, "batch": 64},
        "source": {"run": text, text: text}, "proof": {"difference": 0.0, "images": 64},
        "dtype": text, "sha256": text,
    }  # fmt: skip


def files(text: str) -> dict[str, str]:
    """A run folder in which everything that may be a text is this one."""
    part = {"type": text, "rate": text, text: [text]}
    settings = {name: part for name in ("space", "sampler", "loss", "optimizer", text)}
    data = {"name": text, "held_out": text, "split_seed": text}
    settings |= {"data": data, "train": {"steps": 40, "batch": 64, "seed": text, "dtype": text}}
    started = {"event": "start", "step": 0, "time": 1e9, "command": text, "processor": text}
    started |= {name: text for name in ("device", "devices", "jax", "supernet_jax", "python")}
    times = [started, *({"step": s, "time": 1e9 + s} for s in (10, 20, 30))]
    refused = {"event": "refused", "step": 15, "loss/largest": math.nan, text: text}
    rollback = {"event": "rollback", "from": 20, "to": 10, "rollbacks": 1, text: text}
    named = {f"loss/{text}": 1.0, f"accuracy/{text}": 0.1, text: text}
    metrics = [line(10, **named), json.dumps(refused), json.dumps(rollback), line(20), line(30)]
    likely = {text: {text: 0.75, "a": 0.25, "b": text}, "c": {text: 0.5}}
    metrics += [json.dumps({"event": "codes", "step": 30, "codes": likely, text: text})]
    metrics += [json.dumps({"event": "codes", "step": 30, "codes": text})]
    front = [record(text), record(text, macs=2000, accuracy=0.6, test_accuracy=0.55, latency=1.5)]
    front[1]["measured_ms"] = 1.75
    own = f"cost {text}"
    budget = {"cost": own, "unit": text, "low": 1, "high": 9, "aim": -1, text: text}
    wanted = [{"name": name, "direction": "min"} for name in (own, "macs", text)]
    wanted += [{"name": "accuracy", "direction": "max"}, {"name": text, "direction": text}]
    chosen = [{**one, own: 7 + i} for i, one in enumerate(front)]
    search = {"cost": own, "searcher": text, "split": text, "images": text, "front": chosen}
    search |= {"budgets": [budget, {"cost": "macs", "unit": "MACs"}], "objectives": wanted}
    search |= {"all": [[8, 0.5, 1500], [9, None, 10], [text, 0.1, text], text]}
    timed = {"networks": 2, "median_error": 0.1, "kendall": text, "where": text}
    search |= {"measured": {**timed, "spread": 0.2, "elsewhere": [text], text: text}}
    search |= {"hypervolume": 0.4, "random": {"hypervolume": 0.5, "front": chosen[:1], text: text}}
    race = {"front": front, "all": [record(text, images=32), *front], "candidates": text}
    pair = {"inherited": 0.4, "seed": text, "method": text, "macs": 1000}
    pairs = [{**pair, "arch": {text: text}, "alone": 0.5 + i / 10} for i in range(3)]
    evaluations = [record(text), record(text, split="test"), record(text, macs=1500)]
    return {
        "config.json": json.dumps({"type": "Config", **settings}),
        "metrics.jsonl": "\n".join(metrics) + "\n",
        "times.jsonl": "".join(json.dumps(one) + "\n" for one in times),
        "evaluations.jsonl": "".join(json.dumps(one) + "\n" for one in evaluations) + text[:9],
        "search.json": json.dumps(search),
        "races/a.json": json.dumps(race),
        "races/b.json": text,
        "fidelity.json": json.dumps([*pairs, {"arch": text}]),
        "networks/one/network.json": json.dumps(network(text)),
        "networks/two/network.json": json.dumps({**network(text), "macs": text}),
    }


def make(folder: pathlib.Path, contents: dict[str, str]) -> pathlib.Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", errors="replace")
    return folder


PLAIN = {"type": "Config", "train": {"steps": 100, "batch": 64}}


def shown(folder: pathlib.Path, **contents: str) -> Parsed:
    """The report of a folder with a plain configuration and these files (`__` is a dot)."""
    named = {name.replace("__", "."): content for name, content in contents.items()}
    return Parsed(page.text(make(folder, {"config.json": json.dumps(PLAIN), **named})))


def test_texts_are_escaped() -> None:
    written = tag("p", HOSTILE, Html("<b>ours</b>"), title=HOSTILE, data_v=None, hidden=True).text
    parsed = Parsed(written)
    assert parsed.elements == [("p", ("title", "hidden")), ("b", ())]
    assert "<script>alert(1)</script>" in parsed.text
    assert parsed.values[0].startswith("<script>")
    assert "\x00" not in written
    written.encode()  # no lone surrogate
    assert len(escape("x" * 10**6)) < 5000


def test_hostile_files_change_no_element(tmp_path: pathlib.Path) -> None:
    name = "run <b onload='x'>\"&amp;"
    harmless = page.text(make(tmp_path / "a" / "run", files("harmless")))
    hostile = page.text(make(tmp_path / "b" / name, files(HOSTILE)))
    first, second = Parsed(harmless), Parsed(hostile)
    assert second.elements == first.elements
    assert first.names <= OURS
    scripts = [names for name, names in second.elements if name == "script"]
    assert scripts == [("type", "id"), ()]  # values, and what reads them
    assert second.text.count("alert(1)") > 20  # they are there, as text
    for text in (
        *("Loss", "Accuracy over MACs", "Kendall tau", "logits differ by", "refused"),
        *("did not beat random search", "The front over all objectives", "more is better"),
    ):
        assert text in second.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 10**400, -1, [], {}, "1"])
def test_numbers_that_are_none(tmp_path: pathlib.Path, value: Any) -> None:
    def spoil(known: Any) -> Any:
        if isinstance(known, dict):
            return {k: v if k in ("type", "version") else spoil(v) for k, v in known.items()}
        if isinstance(known, list):
            return [spoil(v) for v in known]
        return value if isinstance(known, int | float) else known

    def spoiled(content: str) -> str:
        try:
            return json.dumps(spoil(json.loads(content)))
        except ValueError:
            rows = [row for row in content.splitlines() if row.startswith("{")]
            return "".join(json.dumps(spoil(json.loads(row))) + "\n" for row in rows)

    contents = files("words")
    text = page.text(
        make(tmp_path, {k: spoiled(v) for k, v in contents.items() if "b.js" not in k})
    )
    parsed = Parsed(text)
    assert parsed.names <= OURS
    drawn = " ".join(re.findall(r' (?:d|x|y|width|height|transform)="([^"]*)"', text))
    assert "nan" not in drawn and "inf" not in drawn


def test_one_spoiled_field_leaves_the_others(tmp_path: pathlib.Path) -> None:
    rows = [line(10), line(20, **{"loss/largest": math.nan}), line(30)]
    found = metrics_history.read(make(tmp_path, {"m": "\n".join(rows)}) / "m", ACCURACY)
    np.testing.assert_array_equal(found.steps, [10, 20, 30])
    np.testing.assert_array_equal(np.isnan(found.values["loss/largest"]), [False, True, False])
    assert np.isfinite(found.values["loss/smallest"]).all()


def test_numbers_written_as_null(tmp_path: pathlib.Path) -> None:
    # As JSON has no NaN: of a run that diverged, all of them.
    nothing = {"loss/largest": None, "loss/random_1": None, "gradient_norm": None}
    rows = [line(10), line(20, **nothing), line(30, **{"accuracy/largest": None})]
    known = metrics_history.read(make(tmp_path, {"m": "\n".join(rows) + "\n"}) / "m", ACCURACY)
    assert known.broken is None and known.steps.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(np.isnan(known.values["loss/largest"]), [False, True, False])
    diverged = "".join(line(s, **dict.fromkeys(known.values)) + "\n" for s in (10, 20))
    null = {"loss": None, "accuracy": None, "latency": None, "test_accuracy": None}
    kept = {"front": [record("a", loss=None, latency=None, test_accuracy=None)]}
    parsed = shown(
        tmp_path,
        metrics__jsonl=diverged,
        evaluations__jsonl=json.dumps(record("a", **null)) + "\n",
        search__json=json.dumps(kept),
        times__jsonl="".join(json.dumps({"step": s, "time": None}) + "\n" for s in (1, 2)),
    )
    assert "step 20 of 100" in parsed.text and "Gradient norm" not in parsed.text
    assert "evaluations.jsonl: 1 entry, the first is number 1" in parsed.text
    assert "NaN" not in parsed.text


@pytest.mark.parametrize("name", ["rate", "largest"])
def test_a_line_that_its_axis_names_has_no_key(name: str) -> None:
    labels = svg_plot.Labels("Learning rate", "step", "rate")
    data = columns(np.arange(3), np.ones(3), most=9)
    drawn = svg_plot.lines([svg_plot.Line(name, "c4", data)], labels).text
    assert drawn.count('class="key"') == (name != labels.y)


def test_networks_at_any_depth(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs" / "one", {"config.json": json.dumps(PLAIN)})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    of_this = json.dumps({**network("words"), "source": {"run": str(run)}})
    of_another = json.dumps({**network("words"), "source": {"run": str(run.parent / "two")}})
    below = ("networks/small", "networks/front/macs-1", "a/b/c/d/e/macs-2", "mine")
    beside = ("runs/networks/front/macs-3", "networks/front/macs-4", "elsewhere/out/front/macs-5")
    for name in below:
        make(run / name, {"network.json": of_another})
    for name in beside:
        make(tmp_path / name, {"network.json": of_this})
    for name in ("elsewhere/out/front/macs-6", "runs/two/networks/macs-7"):
        make(tmp_path / name, {"network.json": of_another})
    for name in (".small.unfinished-7", "checkpoints/20", "networks/.macs.unfinished-7"):
        make(run / name, {"network.json": "half"})
    found, broken = networks(run)
    names = {one.folder.name for one in found}
    assert names == {"small", "macs-1", "macs-2", "mine", "macs-3", "macs-4", "macs-5"}
    assert len(found) == len(names) and broken == []
    make(run / "networks/front/macs-8", {"network.json": "{"})
    _, [bad] = networks(run)
    assert bad.file == "networks/front/macs-8/network.json" and "is not a JSON file" in bad.why
    monkeypatch.chdir(run)  # where all of them are met twice
    assert {one.folder.name for one in networks(pathlib.Path("."))[0]} == names - {"macs-5"}


def test_files_that_may_not_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, {**files("words"), "races/b.json": '{"front": []}'})
    refused = ("metrics.jsonl", "evaluations.jsonl", "search.json", "network.json", "a.json")
    opened = pathlib.Path.open

    def open_or_refuse(path: pathlib.Path, *arguments: Any, **options: Any) -> Any:
        if path.name in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    looked = os.scandir

    def look_or_refuse(path: Any) -> Any:
        if str(path).endswith("two"):
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(pathlib.Path, "open", open_or_refuse)
    monkeypatch.setattr(os, "scandir", look_or_refuse)
    text = Parsed(page.text(run)).text
    for name in (*refused, "networks/two"):
        assert re.search(rf"{name}: .*is not readable by this user \(Permission denied\)", text), (
            name
        )
    assert "delete" not in text and "remove" not in text


def test_broken_lines_are_counted_and_named(tmp_path: pathlib.Path) -> None:
    rows = [line(10), "{half", line(20), "[1]", '{"event": "refused"}', line(30)[:-20]]
    parsed = shown(tmp_path, metrics__jsonl="\n".join(rows))
    assert "metrics.jsonl: 4 entries, the first is number 2" in parsed.text
    assert "step 20 of 100" in parsed.text


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, "step 0 of 100"),
        ("", "No line of metrics yet"),
        (line(1), "step 1 of 100"),
        (line(10) + "\n" + line(20), "not finished"),
        (line(100), "finished"),
    ],
)
def test_a_run_in_any_state(tmp_path: pathlib.Path, metrics: str | None, said: str) -> None:
    parsed = shown(tmp_path, **({} if metrics is None else {"metrics__jsonl": metrics}))
    assert said in parsed.text
    assert "no checkpoint yet" in parsed.text
    assert "No subnet was evaluated yet" in parsed.text
    assert ("Loss" in parsed.text) == bool(metrics)


def test_rollbacks_undo_lines(tmp_path: pathlib.Path) -> None:
    back = json.dumps({"event": "rollback", "from": 30, "to": 10, "rollbacks": 1})
    refused = json.dumps({"event": "refused", "step": 25})
    rows = [line(10), line(20), refused, line(30, applied=0.0), back, line(20), line(40)]
    found = metrics_history.read(make(tmp_path, {"m": "\n".join(rows)}) / "m", ACCURACY)
    np.testing.assert_array_equal(found.steps, [10, 20, 40])
    assert (found.undone, found.refused) == (2, 2)
    assert found.stretches == [Stretch(0, 0, 30), Stretch(1, 10, 40)]
    assert [event.kind for event in found.events] == ["refused", "refused", "rollback"]


def test_times_know_pauses(tmp_path: pathlib.Path) -> None:
    rows: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "time": 100.0, "jax": "1"},
        {"step": 10, "time": 130.0},  # with compilation: not counted
        {"step": 20, "time": 135.0},
        {"event": "start", "step": 20, "time": 900.0},
        {"step": 30, "time": 950.0},
        {"step": 40, "time": 952.0},
    ]
    found = metrics_history.read_times(
        make(tmp_path, {"t": "\n".join(map(json.dumps, rows))}) / "t"
    )
    np.testing.assert_array_equal(found.steps, [20, 40])
    np.testing.assert_allclose(found.rates, [2.0, 5.0])
    assert (found.first, found.last, len(found.starts)) == (100.0, 952.0, 2)


@pytest.mark.parametrize("n", [1, 7, 400, 5000])
def test_columns_lose_nothing_that_sticks_out(n: int) -> None:
    rng = np.random.default_rng(n)
    x = np.sort(rng.choice(10 * n, n, replace=False)).astype(float)
    y = rng.normal(size=n)
    found = columns(x, y, most=400)
    assert len(found.x) <= 400
    assert np.all(np.diff(found.x) > 0)
    assert np.all((found.low <= found.mean + 1e-12) & (found.mean <= found.high + 1e-12))
    assert (found.low.min(), found.high.max()) == (y.min(), y.max())
    assert (found.merged == 1) == (n <= 400)
    if n <= 400:
        np.testing.assert_array_equal(found.mean, y)


def test_long_metrics_stay_small(tmp_path: pathlib.Path) -> None:
    rows = [line(step) for step in range(1, 60_001)]
    rows[31_000] = line(31_001, **{"loss/largest": 777.5})
    contents = {"config.json": json.dumps(PLAIN), "metrics.jsonl": "\n".join(rows)}
    text = page.text(make(tmp_path, contents))
    assert len(text) < 400_000
    assert "777.5" in text
    paths = re.findall(r' d="([^"]*)"', text)
    assert max(map(len, paths)) > 4000 and not any("characters" in path for path in paths)
    assert "Each column of pixels holds up to" in text


def moved(step: int, codes: dict[str, dict[str, float]]) -> str:
    return json.dumps({"event": "codes", "step": step, "codes": codes, "rollbacks": 0})


def charts_of_codes(text: str) -> dict[str, str]:
    """Each decision's chart, by its name."""
    section = text[text.index('class="charts small"') :]
    section = section[: section.index("</section>")]
    found = re.findall(r"<strong>([^<]*)</strong>(.*?)</figure>", section, re.DOTALL)
    return dict(found)


def test_how_options_moved(tmp_path: pathlib.Path) -> None:
    """The height of a row's area is the probability, and its end the last one."""
    rows = [
        moved(step, {"edge/0": {"skip": 0.5 - s, "conv": 0.5 + s}})
        for step, s in ((10, 0.0), (20, 0.1), (30, 0.25))
    ]
    rows.insert(2, json.dumps({"event": "rollback", "from": 20, "to": 10, "rollbacks": 1}))
    contents = {"config.json": json.dumps(PLAIN), "metrics.jsonl": "\n".join(rows)}
    text = page.text(make(tmp_path, contents))
    (chart,) = charts_of_codes(text).values()
    areas = re.findall(r'<path d="M([^"]*)z" class="bar (\w+)"', chart)
    assert [kind for _, kind in areas] == ["scored", "c0"]  # the likeliest is blue
    for (area, _), wanted in zip(areas, ([0.5, 0.25], [0.5, 0.75]), strict=True):
        points = [tuple(map(float, one.split())) for one in area.split("L")]
        (x0, foot), *tops, (x1, _) = points
        assert (x0, x1) == (code_charts.LEFT, code_charts.WIDTH - code_charts.RIGHT)
        heights = [(foot - y) / code_charts.ROW * 0.75 for _, y in tops]  # a row is 0.75
        np.testing.assert_allclose(heights, wanted, atol=0.75 * 0.05 / code_charts.ROW + 1e-9)
    titles = re.findall(r'<rect [^>]*class="hover"><title>([^<]*)', chart) or re.findall(
        r"<rect [^>]*><title>([^<]*)", chart
    )
    assert titles == ["step 10\nskip 0.500\nconv 0.500", "step 30\nskip 0.250\nconv 0.750"]
    assert "as high as a probability of 0.75" in Parsed(text).text
    assert 'aria-label="edge/0: probability of each option over step; last skip 0.250' in chart


def test_many_decisions_stay_readable(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    options = [f"separable_convolution_{i}" for i in range(8)]
    rows = [
        moved(s, {f"normal/{d}": dict(zip(options, p, strict=True)) for d, p in enumerate(all_)})
        for s, all_ in ((s, rng.dirichlet(np.ones(8), 30).tolist()) for s in range(1, 400))
    ]
    contents = {"config.json": json.dumps(PLAIN), "metrics.jsonl": "\n".join(rows)}
    text = page.text(make(tmp_path, contents))
    parsed = Parsed(text)
    charts = charts_of_codes(text)
    assert list(charts) == [f"normal/{d}" for d in range(30)]
    assert all(
        chart.count('class="bar ') == 8 == chart.count('class="chance"')
        for chart in charts.values()
    )
    assert len(text) < 1_000_000 and "How open decisions are" in parsed.text
    assert all(f"<title>{option}</title>" in charts["normal/7"] for option in options)  # cut names
    more = [moved(s, {f"edge/{d}": {"a": 0.5, "b": 0.5} for d in range(300)}) for s in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(more))
    text = page.text(tmp_path)
    assert len(charts_of_codes(text)) == code_charts.SHOWN
    assert "Of 300 decisions the first 64 are drawn." in Parsed(text).text


@pytest.mark.parametrize(
    "codes", [None, [], {"a": 1}, {}, {"a": {}}, {"a": {"b": "x"}}, {"a": {"b": 7}}]
)
def test_codes_that_are_none(tmp_path: pathlib.Path, codes: Any) -> None:
    event = {"event": "codes", "step": 10, "codes": codes}
    found = shown(tmp_path, metrics__jsonl=f"{line(10)}\n{json.dumps(event)}\n").text
    assert "What was learned" not in found
    assert ("What could not be read" in found) == (codes in (None, [], {"a": 1}))


def test_losses_of_codes_are_explained(tmp_path: pathlib.Path) -> None:
    row = json.dumps({"step": 10, "loss/mixture": 1.0, "loss/codes": 2.0, "accuracy/mixture": 0.5})
    found = shown(tmp_path, metrics__jsonl=row).text
    for part in ("mixture of all options", "codes, on the second batch", "by it the probabilities"):
        assert part in found, part
    assert "by it the probabilities" not in shown(tmp_path, metrics__jsonl=line(10)).text


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_round_and_few(log: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = 10 ** rng.uniform(-6, 9, 2) * (1.0 if log else rng.choice([-1, 1], 2))
        scale = svg_axes.fit(values, 0, 100, log=log)
        found = svg_axes.ticks(scale)
        assert 2 <= len(found) <= 11, (scale, found)
        assert found == sorted(set(found))
        assert scale.low <= found[0] and found[-1] <= scale.high + 1e-12 * abs(scale.high)
        assert len({text for _, text in svg_axes.labelled(scale)}) == len(found)
        at = scale.at(np.sort(values))
        assert 0 <= at[0] < at[1] <= 100


def test_a_chart_of_one_point() -> None:
    one = svg_plot.Line("a", "largest", columns(np.array([3.0]), np.array([0.0]), most=9))
    parsed = Parsed(svg_plot.lines([one], svg_plot.Labels("t", "x", "y")).text)
    assert "x 3\na 0" in parsed.text


def traded(**changed: Any) -> dict[str, Any]:
    """What `search.json` holds after a search for accuracy, MACs, parameters and energy."""
    names = {"macs": "MACs", "parameters": "parameters", "energy": "mJ"}
    ways = {"accuracy": "max", **dict.fromkeys(names, "min")}
    front = [record("a", energy=2.5), record("b", macs=2000, accuracy=0.6, energy=0.5)]
    rows = [[1500, 0.4, 80, 3.0], [900, None, 70, 1.0], [900, math.nan, 70, 1.0], [1000, 0.3, 60]]
    return {
        **{"cost": "macs", "unit": "MACs", "searcher": "nsga2", "split": "held-out", "images": 64},
        "budgets": [{"cost": n, "unit": u, "low": None, "high": None} for n, u in names.items()],
        "objectives": [{"name": name, "direction": way} for name, way in ways.items()],
        "evaluations": 4,
        "front": front,
        "all": rows,
        "hypervolume": 0.5,
        "random": {"hypervolume": 0.4, "evaluations": 4, "front": [record("c", energy=9.0)]},
        **changed,
    }


def test_a_search_over_several_costs(tmp_path: pathlib.Path) -> None:
    contents = {"config.json": json.dumps(PLAIN), "search.json": json.dumps(traded())}
    text = page.text(make(tmp_path, contents))
    parsed = Parsed(text)
    for part in (
        "Its objectives were the largest accuracy, the smallest MACs, the smallest parameters and "
        "the smallest energy.",
        "The front of nsga2 dominates 50.0% of the volume that both fronts span, that of a random "
        "search of 4 subnets 40.0%.",
        "front of random search",
        "its front is not joined",
        "MACsparametersenergy, mJcalibration",
    ):
        assert part in parsed.text, part
    assert "What could not be read" not in parsed.text
    assert '<td class="n" data-v="0.5">0.5</td>' in text
    _, chart = text.split("The front over all objectives</strong>")
    chart = chart[chart.index("</figcaption>") : chart.index("</figure>")]
    assert re.search(r'role="img" aria-label="[^"]*energy, mJ \(less is better\)"', chart)
    titles = re.findall(r'class="hit"><title>([^<]*)</title>', chart)
    assert ["a" in one for one in titles] == [True, True] and "energy 2.5" in titles[0]
    (others,) = re.findall(r'd="([^"]*)" class="line faint"', chart)
    assert others.count("M") == 2 and others.count("L") == 3 + 2  # no NaN; one has no energy
    assert "nan" not in chart and "Lines have gaps" in parsed.text


def test_the_front_keeps_the_places_of_its_file(tmp_path: pathlib.Path) -> None:
    """`front:0` is what `supernet extract --arch front:0` takes, whatever is sorted by."""
    kept = [record("slow", macs=9), {"arch": "broken"}, record("fast", macs=7)]
    found = shown(tmp_path, search__json=json.dumps(traded(front=kept))).text
    assert re.search(r"front:0[^f]*slow.*front:2[^f]*fast", found, re.DOTALL)
    assert "goes from 50.00% at 7 MACs" in found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hypervolume": 0.4}, "40.0%: the searcher did not beat random search."),
        ({"hypervolume": 0.3}, "40.0%: the searcher did not beat random search."),
        ({"random": None}, "No random search was made beside it"),
        ({"random": None, "searcher": "random"}, "The searcher was random search itself"),
        ({"random": "x"}, "beside random search cannot be read"),
        ({"hypervolume": None}, "beside random search cannot be read"),
        ({"random": {"hypervolume": 0.4, "front": 3}}, "search.json: random: no list"),
    ],
)
def test_how_a_search_did_beside_a_random_one(
    tmp_path: pathlib.Path, changed: dict[str, Any], said: str
) -> None:
    assert said in shown(tmp_path, search__json=json.dumps(traded(**changed))).text


def test_a_front_that_was_measured(tmp_path: pathlib.Path) -> None:
    kept = [record("a", latency=1.25, measured_ms=1.5), record("b", latency=2.5, measured_ms=2.0)]
    timed = {"networks": 2, "median_error": 0.2083, "kendall": 1.0, "spread": 0.03}
    timed |= {"where": "batch 1, here", "elsewhere": ["jax is '1' there and '2' now"]}
    found = shown(tmp_path, search__json=json.dumps(traded(front=kept, measured=timed))).text
    for part in (
        "Table against measurement: 2 networks of the front were measured (batch 1, here), and "
        "differ from the latency table by 20.8% (median), and Kendall's tau is 1.000; their own "
        "timings spread by 3.0%.",
        "under other conditions: jax is '1' there and '2' now.",
        "Latency: table against measurement",
        "energy, mJmeasured, mscalibration",
    ):
        assert part in found, part


@pytest.mark.parametrize("measured", [None, "x", {}, {"networks": "x", "median_error": 1}])
def test_a_measurement_that_cannot_be_read(measured: Any, tmp_path: pathlib.Path) -> None:
    found = shown(tmp_path, search__json=json.dumps(traded(measured=measured))).text
    assert "against measurement" not in found


def test_searches_of_older_versions(tmp_path: pathlib.Path) -> None:
    new = ("budgets", "objectives", "searcher", "hypervolume", "random")
    old = {key: value for key, value in traded(algorithm="evolution").items() if key not in new}
    old |= {"low": 0.0, "high": 3e6, "all": [[1500, 0.4], [900, None]]}
    found = shown(tmp_path, search__json=json.dumps(old)).text
    assert "4 subnets scored by evolution search on 64 held-out images. No random search" in found
    assert "not joined" not in found and "all objectives" not in found and "budgets" not in found
    old |= {"cost": "latency", "unit": "ms", "front": [record("a", latency=1.25)]}
    found = shown(tmp_path, search__json=json.dumps(old)).text
    assert "for latency, not MACs: its front is not joined" in found and "latency, ms" in found


def test_budgets_in_words() -> None:
    known = [{"cost": "macs", "unit": "MACs", "low": 1, "high": 3e5}]
    known += [{"cost": "latency", "unit": "ms", "high": 2.5}, {"cost": "size", "low": 7}]
    found = search_goal.goal({"budgets": known, "objectives": []}, ACCURACY)
    one = search_goal.goal({"cost": "macs", "unit": "MACs", "high": 7}, ACCURACY)
    assert search_goal.wanted(one) == (
        "Its objectives were the largest accuracy and the smallest MACs; its budget was MACs of at "
        "most 7."
    )
    assert search_goal.wanted(found) == (
        "Its budgets were MACs from 1 to 300,000, latency of at most 2.5 ms and size of at least 7."
    )


def test_better_is_at_the_top() -> None:
    axes = [svg_parallel.Axis("up", True), svg_parallel.Axis("down", False)]
    axes += [svg_parallel.Axis(f"{i}", True) for i in range(9)]
    rows = [[3.0, 1.0, None, 5.0, *[1.0] * 7], [2.0, 4000.0, 1e308, 5.0, *[math.nan] * 7]]
    threads = svg_parallel.Threads("a", "front", rows, ["best", "worst"])
    text = svg_parallel.parallel(axes, [threads], svg_plot.Labels("t", "", "")).text
    _, text = text.split("</figcaption>")
    lines = re.findall(r'd="(M[^"]*)" class="line front"', text)
    heights = [[float(y) for y in re.findall(r" ([\d.]+)", one)] for one in lines]
    top, bottom = svg_parallel.TOP, svg_plot.HEIGHT - svg_parallel.BOTTOM
    assert heights[0][:2] == [top, top] and heights[1][:2] == [bottom, bottom]
    assert lines[0].count("M") == 2  # a gap
    assert text.count("is better</text>") == svg_parallel.AXES
    assert "down: less is better, logarithmic" in text


def test_kendall_is_of_each_seed() -> None:
    def pairs(seed: str, inherited: list[float]) -> list[Pair]:
        return [
            Pair("{}", None, score, alone / 10, seed, "m")
            for alone, score in enumerate(inherited, 1)
        ]

    # Orders agree within each seed up to one swap of six; between seeds they say nothing.
    known = pairs("0", [0.1, 0.2, 0.4, 0.3]) + pairs("1", [0.9, 0.8])
    np.testing.assert_allclose(subnet_charts.kendall(known), [4 / 6, -1.0])
    assert subnet_charts.kendall(pairs("0", [0.5, 0.5])) == []


@pytest.mark.parametrize("shards", [1, 2])
def test_replayed_archs_are_those_of_training(shards: int) -> None:
    settings = config.load_file(CONFIG)[0]
    space = spaces.Cifar(resolutions=(16, 24, 32)).build(classes=10, input_channels=3)
    sampler = samplers.sandwich(space.menu, n_random=2)
    built = build.build(settings)
    recipe = built.recipe._replace(space=space, sampler=sampler, seed=7, arch_shards=shards)
    steps, rollbacks = np.array([0, 5, 5]), np.array([0, 0, 2])
    replayed, _ = sampler_visits.draws(space, sampler, steps, rollbacks, seed=7, arch_shards=shards)
    for i, (step, rolled) in enumerate(zip(steps, rollbacks, strict=True)):
        state: Any = type("State", (), {"sampler": (), "step": np.int32(step)})
        members = Members(recipe, None, None, state, None, None, None)
        _, key, _ = step_keys(jax.random.key(7), np.int32(step), np.int32(rolled))
        sizes = train_step.step_sizes(recipe, step=int(step), rollbacks=int(rolled))
        expected = members.draw(key, None, sizes[2:])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), replayed, expected)


def test_samplers_that_want_losses_are_noticed() -> None:
    space = light(resolutions=(8,))
    plain = samplers.uniform(space.menu)

    def picky(state: Any, key: Any, step: Any, score: Callable) -> Any:
        archs = plain.sample(state, key, step, score)
        return jax.tree.map(lambda leaf: leaf + (score(archs) > 0), archs)

    sampler, steps = plain._replace(sample=picky), np.zeros(1)
    assert sampler_visits.draws(space, sampler, steps, steps, seed=0, arch_shards=1)[1]


def test_a_whole_run(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.searched(tmp_path_factory), folder)
    said = supernet(capsys, "report", folder, "--config", CONFIG)
    assert said.status == 0, said.err
    text = (folder / "report.html").read_text()
    parsed = Parsed(text)
    expected = ("step 30 of 30 (100%), finished", "Images per second", "Learning rate")
    expected += ("MACs of the random members", "of 30 steps", "front of the search")
    expected += ("supernet evaluate", "supernet extract", "18 subnets scored by random")
    for part in expected:
        assert part in parsed.text, part
    assert "What could not be read" not in parsed.text
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|src=|href=", text)
    assert page.is_report(folder / "report.html")

    assert supernet(capsys, "report", folder).status == 0  # replaces its own
    assert "Not known for this run" in Parsed((folder / "report.html").read_text()).text


def test_mistakes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", {"config.json": json.dumps(PLAIN)})
    other = make(tmp_path / "other", {"config.json": "{}", "mine.html": "<!doctype html>mine"})
    broken = make(tmp_path / "broken", {"config.json": "{"})
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([tmp_path / "nowhere"], "there is no run folder"),
        ([tmp_path / "empty"], "is not a run folder"),
        ([other], "is not that of a run"),
        ([broken], "is not a JSON file, or was cut short"),
        ([run, "--out", other / "mine.html"], "is no report; choose another --out"),
        ([run, "--out", other], "is a folder"),
        ([run, "--out", tmp_path / "no" / "where.html"], "there is no folder"),
    ):
        said = supernet(capsys, "report", *arguments)
        assert said.status == 2, arguments
        assert message in said.err
    assert (other / "mine.html").read_text() == "<!doctype html>mine"
