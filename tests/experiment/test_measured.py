"""Fronts whose networks are timed on this machine beside what a latency table says of them."""

import dataclasses
import json
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import tiny_run
from tiny_run import CONFIG, supernet

import supernet_jax as sj
from supernet_jax.elastic import notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.latency_table import Calibration, Table, Timing
from supernet_jax.experiment import config
from supernet_jax.networks import timing
from supernet_jax.reporting import report
from supernet_jax.storage import files

KNOWN = Calibration(0.5, 1.5, (8,), 10, 12, 0.02, 0.07, 0.1, 0.2, 0.98, 0.9, 0.03)
SPACE = config.load_file(CONFIG)[0].space.build(classes=10, input_channels=1)


def table() -> Table:
    """A finished table of made-up latencies, of this machine."""
    kinds = latency_table.kinds(SPACE, SPACE.sizes)
    return Table(
        latency_table.FORMAT,
        latency_table.VERSION,
        timing.conditions(SPACE, batch=2),
        {name: Timing(1 + zlib.crc32(name.encode()) % 64, 0.0, 0.0, 0.1, 5) for name in kinds},
        {},
        KNOWN,
    )


class Machine:
    """Networks take a tenth more than the table says."""

    def __init__(self) -> None:
        self.now, self.visits, self.most = 0.0, 0, 10**9
        self.batches: set[int] = set()
        self.cost = costs.latency(SPACE, table())

    def network(self, space: Space, arch: Arch, batch: int, engine: Any) -> Callable[[], None]:
        """In place of `timing._network`."""
        self.batches.add(batch)
        ms = 1.1 * float(self.cost(arch))

        def run() -> None:
            self.visits += 1
            if self.visits > self.most:
                raise KeyboardInterrupt
            self.now += 1e-3 * ms

        return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Machine:
    machine = Machine()
    monkeypatch.setattr(timing, "_network", machine.network)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: machine.now)
    files.write_json(tmp_path / "table.json", dataclasses.asdict(table()))
    return machine


@pytest.fixture
def run(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run"))


def command(run: pathlib.Path, *more: object) -> tuple[object, ...]:
    options = ("--config", CONFIG, "--searcher", "random", "--measure")
    return ("search", run, *options, *(more or ("--cost", f"latency:{run.parent / 'table.json'}")))


def test_a_front_is_measured(
    here: Machine, run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.most = 60  # killed in the fourth round or so
    assert supernet(capsys, *command(run)).status == 130
    [path] = (run / "searches").glob("measured-*.json")
    left = json.loads(path.read_text())["visits"]
    [rounds] = {len(ms) for ms in left.values()}
    assert 0 < rounds < timing.ROUNDS
    here.visits, here.most = 0, 10**9
    said = supernet(capsys, *command(run))
    assert said.status == 0, said
    result = json.loads((run / "search.json").read_text())
    again = json.loads(path.read_text())["visits"]
    assert all(again[arch][: len(ms)] == ms for arch, ms in left.items())
    assert {len(ms) for ms in again.values()} == {timing.ROUNDS} and here.batches == {2}
    for record in result["front"]:
        assert record["measured_ms"] == pytest.approx(1.1 * record["latency"], abs=1e-6)
    found = result["measured"]
    assert found["median_error"] == pytest.approx(1 - 1 / 1.1, abs=1e-4)
    assert (found["kendall"], found["spread"], found["elsewhere"]) == (1.0, 0.0, [])
    assert "measured ms" in said.out and "under other conditions" not in said.out
    assert f"the {len(result['front'])} networks of the front differ from the table by 9.1%" in (
        said.out.replace("\n", " ")
    )
    here.most = 0  # nothing is measured twice
    assert supernet(capsys, *command(run)).out == said.out
    page = report.report(run).read_text()
    for words in ("measured, ms", "Table against measurement: ", "Latency: table against measur"):
        assert words in page


def test_a_table_of_another_machine(here: Machine, run: pathlib.Path) -> None:
    there = dataclasses.replace(table().conditions, processor="Other CPU", space="another")
    found = sj.search(
        sj.open_run(run, CONFIG),
        cost=dataclasses.replace(table(), conditions=there),
        searcher="random",
        measure=True,
    )
    [said] = found.result["measured"]["elsewhere"]
    assert said.startswith("processor is 'Other CPU' there and ")
    assert "measured ms" in found.table()[0] and "measured ms" in repr(found)
    arch = notation.from_notation(SPACE.menu, found.result["front"][0]["arch"])
    assert found[0].record["measured_ms"] == pytest.approx(1.1 * float(here.cost(arch)))


def test_without_a_table_there_is_nothing_to_measure_beside(
    here: Machine, run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "search.json").read_text()
    said = supernet(capsys, *command(run, "--high", 20000))
    assert said.status == 2 and said.err.count("\n") == 1
    assert "add --cost latency:FILE" in said.err
    assert (run / "search.json").read_text() == before


def test_a_measurement_that_is_broken(
    here: Machine, run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supernet(capsys, *command(run)).status == 0
    [path] = (run / "searches").glob("measured-*.json")
    path.write_text(path.read_text()[:99])
    broken = path.read_text()
    said = supernet(capsys, *command(run))
    assert said.status == 2 and said.err.count("\n") == 1
    assert str(path) in said.err and "cut short" in said.err and "delete" not in said.err
    assert path.read_text() == broken
