"""What sliders of a report pick from, and what its drawing of decisions says, without a browser."""

import html.parser
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import test_report
import tiny_run
from tiny_run import supernet

from supernet_jax.elastic import choices, notation
from supernet_jax.experiment import config
from supernet_jax.reporting import decision_bars, page, picker
from supernet_jax.reporting.html import data
from supernet_jax.reporting.run_results import ACCURACY, Subnet, subnet
from supernet_jax.tasks import Metric

NAMES = ("macs", "parameters", "latency")
PERPLEXITY = Metric("perplexity", "", False, examples="examples")
EVIL = "</script><!--<script>&amp;\u2028'\"\ud800"


def made(metric: Metric, seed: int, count: int = 400) -> list[Subnet]:
    """Subnets with many equal values, of which few have a latency."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 30, (count, 4))
    found = []
    for place, (value, macs, parameters, latency) in enumerate(rows.tolist()):
        record = {"arch": {"width": place}, metric.name: value / 30, "macs": macs}
        record |= {"parameters": parameters} | ({"latency": latency} if place % 3 == 0 else {})
        one = subnet(record, metric)
        assert one is not None
        found.append(one)
    return found


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY])
def test_the_first_within_budgets_is_the_best_of_all(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    subnets = made(metric, 0)
    kept = picker.best(subnets, NAMES, metric)
    assert len(kept) < len(subnets) / 2
    price = lambda s: [picker.cost_of(s, name) for name in NAMES]  # noqa: E731
    prices = np.array([price(s) for s in subnets])
    answers = set()
    for _ in range(200):
        limits = np.where(rng.random(3) < 0.3, math.inf, rng.integers(1, 31, 3))
        inside = [subnets[i] for i in np.flatnonzero(np.all(prices <= limits, axis=1))]
        wanted = min(inside, key=lambda s: (-metric.score(s.value), *price(s)), default=None)
        found = next((s for s in kept if np.all(price(s) <= limits)), None)
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            assert (found.value, price(found)) == (wanted.value, price(wanted))
            answers.add(found.arch)
    assert len(answers) > 10


class Islands(html.parser.HTMLParser):
    """What the elements with values of a document hold."""

    def __init__(self, document: str):
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, content: str) -> None:
        self.found += [content] if self.inside else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def values(text: str) -> dict[str, Any]:
    """What the page's script reads."""
    (content,) = Islands(text).found
    found: dict[str, Any] = json.loads(content)
    return found


def test_values_hold_any_text() -> None:
    known = {EVIL: [EVIL, 1.5, None, True]}
    written = data("known", known).text
    assert not set("<>&") & set(written.removesuffix("</script>").partition(">")[2])
    assert json.loads(Islands(written).found[0]) == known
    written.encode()
    with pytest.raises(ValueError):
        data("known", math.nan)


def test_what_is_compared(tmp_path: pathlib.Path) -> None:
    """Held-out results of the checkpoint of the front, each once, with the costs of the front."""

    def record(text: str, **values: Any) -> dict[str, Any]:
        return test_report.record(text, **{"data": "digits", "dtype": "float32", **values})

    kept = [record("a", macs=7, latency=2.5, peak_memory=64)]
    budgets = [{"cost": "macs", "unit": "MACs"}, {"cost": "peak_memory", "unit": "bytes"}]
    others = [
        record("a", macs=7),
        record("b", macs=9, accuracy=0.9),
        record("c", split="test", accuracy=1.0),
        record("d", checkpoint=10, accuracy=1.0),
        record("e", loss=None, accuracy=None),
        record("f", macs=11, accuracy=0.8, data="others"),
        record("g", macs=12, accuracy=0.8),
    ]
    contents = {
        "config.json": json.dumps(test_report.PLAIN),
        "search.json": json.dumps({"front": kept, "budgets": budgets}),
        "races/a.json": json.dumps({"front": [record("h", macs=8, accuracy=0.99, images=32)]}),
        "evaluations.jsonl": "".join(json.dumps(one) + "\n" for one in others),
    }
    found = values(
        page.text(test_report.make(tmp_path / "run", contents), config_file="my parts.py")
    )
    assert [one["label"] for one in found["costs"]] == [
        *("MACs", "parameters", "peak memory, bytes", "latency, ms")
    ]
    assert [one["of"] for one in found["costs"]] == [3, 3, 1, 1]
    assert [(one["shown"], one["costs"]) for one in found["subnets"]] == [
        ("90.00%", [9, 90, None, None]),
        ("50.00%", [7, 90, 64, 2.5]),
    ]
    assert found["command"] == [
        f"supernet extract {tmp_path}/run --arch ",
        " --config 'my parts.py' --out networks/",
    ]


@pytest.mark.parametrize("name", sorted(config.SPACES))
def test_bars_are_those_of_the_arch(name: str) -> None:
    space = config.SPACES[name].build()
    rng = np.random.default_rng(0)
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    archs = [choices.unpack(space.menu, rng.integers(0, sizes)) for _ in range(4)]
    written = [json.dumps(notation.to_notation(space.menu, arch)) for arch in archs]
    parts = decision_bars.drawn(space, [*written, '{"nothing": 1}', "[" * 10**5])
    assert parts[4:] == [None, None]
    drawn = decision_bars.columns(space)
    described = json.loads(json.dumps(decision_bars.described(space)))
    assert [column["blocks"] for column in described["columns"]] == [c.blocks for c in drawn]
    assert len(drawn) <= decision_bars.APART and drawn
    for arch, part in zip(archs, parts, strict=False):
        assert part is not None
        for column, there in zip(drawn, part["there"], strict=True):
            kept = {space.blocks[block].spec(arch) is not None for block in column.blocks}
            assert kept == {bool(there)}
        for column in described["columns"]:
            assert len(column["cells"]) == len(described["lanes"])
        for place, option in enumerate(part["options"]):
            decision = described["decisions"][place]
            path = choices.paths(space.menu)[place]
            value = choices.get(space.menu, path).values[int(choices.get(arch, path))]
            assert decision["values"][option] == value


def test_a_space_of_the_users_own(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is drawn if its file is named; else the page says why it is not."""
    folder = tiny_run.searched(tmp_path_factory)
    out = tmp_path_factory.mktemp("reports") / "report.html"
    assert supernet(capsys, "report", folder, "--out", out).status == 0
    assert "the space of the run is not known: " in values(out.read_text())["bars"]
    named = ("--config", tiny_run.CONFIG)
    assert supernet(capsys, "report", folder, "--out", out, *named).status == 0
    found = values(out.read_text())
    assert [one["blocks"] for one in found["bars"]["columns"]] == [
        ["first"],
        ["second"],
        ["head"],
    ]
    assert f"--config {tiny_run.CONFIG} --out" in found["command"][1]
    assert all(one["bars"] for one in found["subnets"])
