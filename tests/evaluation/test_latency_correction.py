"""Latency tables that are corrected by whole networks, on a machine whose latencies are planted."""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_run import supernet

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.latency_table import Calibration, Table, Timing
from supernet_jax.experiment import latency, latency_correction
from supernet_jax.networks import timing
from supernet_jax.spaces import mobilenet
from supernet_jax.storage import files

KNOWN = Calibration(0.5, 1.5, (8,), 10, 12, 0.02, 0.07, 0.1, 0.2, 0.98, 0.9, 0.03)
SPACE = mobilenet.digits()


def alone(kind: str) -> float:
    """Milliseconds of a kind by itself, any two of them different."""
    return (100 + zlib.crc32(kind.encode()) % 1000) / 64


class Machine:
    """A machine on which a network takes what its blocks say, each by a factor of its kind."""

    def __init__(self, factor: Callable[[str], float], constant: float = 0.5, mixed: float = 0.0):
        self.factor, self.constant, self.mixed = factor, constant, mixed
        self.now, self.visits, self.most = 0.0, 0, 10**9

    def ms(self, arch: Arch) -> float:
        """The true latency; `mixed` is what the widths of the first and the last block add."""
        counts = latency_table.counts(SPACE, choices.stack([arch]), SPACE.sizes)
        blocks = {kind: int(n[0]) * alone(kind) for kind, n in counts.items()}
        sums = 1.5 * sum(self.factor(kind) * ms for kind, ms in blocks.items())
        used = [kind for kind, ms in blocks.items() if ms]
        ends = [min(blocks[kind] for kind in used if made in kind) for made in ("Stem", "Head")]
        return self.constant + sums + self.mixed * float(np.sqrt(np.prod(ends)))

    def network(self, space: Space, arch: Arch, batch: int, engine: Any) -> Callable[[], None]:
        """In place of `timing._network`."""
        ms = self.ms(arch)

        def run() -> None:
            self.visits += 1
            if self.visits > self.most:
                raise KeyboardInterrupt
            self.now += 1e-3 * ms

        return run


def table_of(machine: Machine) -> Table:
    """A finished table of single kinds, whose calibration would be right without factors."""
    fitted, checked = timing.archs(SPACE, SPACE.sizes, KNOWN.checked_on)
    kinds = latency_table.kinds(SPACE, SPACE.sizes)
    return Table(
        latency_table.FORMAT,
        latency_table.VERSION,
        timing.conditions(SPACE, batch=1),
        {name: Timing(alone(name), 0.0, 0.0, 0.1, 5) for name in kinds},
        {
            timing.notation(SPACE, arch): Timing(machine.ms(arch), 0.0, 0.0, 0.0, 5)
            for arch in [*fitted, *checked]
        },
        KNOWN,
    )


def planted(kind: str) -> float:
    return 1.8 if "kernel=5" in kind else 0.7 if "shortcut=conv" in kind else 1.0


MACHINES = {
    "factors": lambda: Machine(planted, mixed=0.2),
    "scale": lambda: Machine(lambda _: 1.4, constant=20.0),
    "right": lambda: Machine(lambda _: 1.0),
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archs to choose from, so that tests are fast."""
    monkeypatch.setattr(timing, "DRAWN", 512)


@pytest.fixture
def here(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Machine:
    """One of the machines, with its table in `table.json`."""
    machine = MACHINES[getattr(request, "param", "factors")]()
    monkeypatch.setattr(timing, "_network", machine.network)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: machine.now)
    files.write_json(tmp_path / "table.json", dataclasses.asdict(table_of(machine)))
    return machine


def adapted(folder: pathlib.Path, *, networks: int = 32) -> Table:
    out = folder / "adapted.json"
    made = latency.adapt(SPACE, folder / "table.json", out, networks=networks, rounds=3)
    assert latency_table.read(out) == dataclasses.replace(
        made, calibration=dataclasses.replace(made.calibration, resolutions=(8,))
    )
    return made


def errors(machine: Machine, table: Table, archs: list[Arch]) -> np.ndarray:
    times = np.asarray([machine.ms(arch) for arch in archs])
    return np.abs(np.asarray(costs.latency(SPACE, table)(choices.stack(archs))) - times) / times


def test_factors_of_kinds_are_found(here: Machine, tmp_path: pathlib.Path) -> None:
    made, known = adapted(tmp_path), latency_table.read(tmp_path / "table.json")
    found = made.correction
    assert found is not None and found.applied == "corrected" and found.earlier == KNOWN
    assert found.corrected.median_error < 0.3 * found.rescaled.median_error
    assert found.corrected.kendall > found.rescaled.kendall
    assert made.kinds == known.kinds  # as they were measured
    wide = np.mean([f for kind, f in found.factors.items() if "kernel=5" in kind])
    plain = np.mean([f for kind, f in found.factors.items() if "kernel=3" in kind])
    assert wide / plain > 1.4
    theirs = [notation.from_notation(SPACE.menu, json.loads(name)) for name in made.networks]
    others = timing.spread(SPACE, SPACE.sizes, costs.latency(SPACE, known), 50, without=theirs)
    before, after = errors(here, known, others), errors(here, made, others)
    assert np.median(after) < 0.3 * np.median(before)
    assert made.calibration is not None and made.calibration.fitted_on == 32
    assert made.calibration.median_error < 0.3 * np.median(before)
    assert "adapted to 32 whole networks; 32 whole" in latency_table.provenance(made)


def test_what_was_learnt_follows_from_the_file(
    here: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "NETWORKS_AT_A_TIME", 9)
    adapted(tmp_path)
    made = latency_table.read(tmp_path / "adapted.json")
    assert made.correction is not None
    earlier = dataclasses.replace(made, correction=None, calibration=made.correction.earlier)
    learnt_on = [
        notation.from_notation(SPACE.menu, json.loads(name)) for name in made.correction.learnt_on
    ]
    assert latency_correction.learn(SPACE, earlier, learnt_on, SPACE.sizes) == made


@pytest.mark.parametrize(
    ("here", "applied"), [("scale", "rescaled"), ("right", "before")], indirect=["here"]
)
def test_no_more_is_applied_than_helps(here: Machine, applied: str, tmp_path: pathlib.Path) -> None:
    made, known = adapted(tmp_path), latency_table.read(tmp_path / "table.json")
    assert made.correction is not None
    assert (made.correction.applied, made.correction.factors) == (applied, {})
    archs = timing.archs(SPACE, SPACE.sizes, 12)[1]
    assert errors(here, made, archs).max() < 1e-6
    if applied == "before":
        assert made.calibration == KNOWN
        assert latency_table.provenance(made) == latency_table.provenance(known)


def test_noise_is_not_learnt(
    here: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks whose times have nothing to do with their kinds beyond the sum."""
    here.factor, here.mixed = lambda _: 1.0, 0.0
    rng, true = np.random.default_rng(0), here.ms
    noise: dict[str, float] = {}
    monkeypatch.setattr(
        here,
        "ms",
        lambda arch: (
            true(arch)
            * noise.setdefault(timing.notation(SPACE, arch), float(rng.normal(1.0, 0.05)))
        ),
    )
    assert (found := adapted(tmp_path).correction) is not None and found.applied == "before"


def test_networks_are_spread_and_none_is_there_twice() -> None:
    cost = costs.latency(SPACE, table_of(MACHINES["right"]()))
    without = timing.archs(SPACE, SPACE.sizes, 30)[1]
    many = timing.spread(SPACE, SPACE.sizes, cost, 40, without=without)
    assert len(elastic_space.distinct(SPACE, [*without, *many])) == 70
    few = timing.spread(SPACE, SPACE.sizes, cost, 10, without=without)
    names = [timing.notation(SPACE, arch) for arch in many]
    assert [timing.notation(SPACE, arch) for arch in few] == names[:10]
    spent = np.sort(cost(choices.stack(many)))
    assert np.ptp(spent) > np.ptp(cost(choices.stack(without)))
    assert np.diff(spent).max() < 0.1 * np.ptp(spent)


def test_killed_and_gone_on_with(
    here: Machine, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = adapted(tmp_path, networks=12)
    (tmp_path / "adapted.json").unlink()
    command = ("latency", "digits", "--table", tmp_path / "table.json", "--adapt", 12)
    command += ("--rounds", 3, "--out", tmp_path / "adapted.json")
    used = here.visits
    here.visits, here.most = 0, used - 10  # in the last of three rounds
    assert supernet(capsys, *command).status == 130
    left = latency_table.read(tmp_path / "adapted.json")
    assert left.calibration is None and [len(ms) for ms in left.visits.values()] == [2] * 12
    here.visits, here.most = 0, 10**9
    said = supernet(capsys, *command)
    assert (said.status, here.visits < used) == (0, True)
    assert latency_table.read(tmp_path / "adapted.json").correction == whole.correction
    here.most = 0  # what is known is not measured again
    assert supernet(capsys, *command).out == said.out
    assert "of 12 networks, each by what was learnt from others" in said.out
    assert f"wrote {tmp_path / 'adapted.json'}" in said.out


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({}, ("--adapt", 9), ("--adapt is 9", "at least 10")),
        ({}, (), ("--adapt and --table need each other",)),
        ({}, ("--adapt", 12, "--batch", 2), ("--batch is that of --table",)),
        ({}, ("--adapt", 12, "--rounds", 1), ("--rounds is 1",)),
        ({"calibration": None}, ("--adapt", 12), ("table.json is not finished",)),
        ({"space": "other"}, ("--adapt", 12), ("space is 'other' there and 'digits' now",)),
        ({"device": "TPU v4"}, ("--adapt", 12), ("device is 'TPU v4' there", "on the machine")),
        ({"visits": {"{}": (1.0,)}}, ("--adapt", 12), ("is adapted already",)),
    ],
)
def test_mistakes(
    change: dict[str, Any],
    more: tuple[object, ...],
    words: tuple[str, ...],
    here: Machine,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "table.json"
    table = latency_table.read(path)
    own = {k: v for k, v in change.items() if k in ("space", "device")}
    rest = {k: v for k, v in change.items() if k not in own}
    conditions = dataclasses.replace(table.conditions, **own)
    files.write_json(
        path, dataclasses.asdict(dataclasses.replace(table, conditions=conditions, **rest))
    )
    command = ("latency", "digits", "--table", path, "--out", tmp_path / "adapted.json")
    said = supernet(capsys, *command, *more)
    assert said.status == 2 and said.err.count("\n") == 1
    assert [word for word in words if word not in said.err] == []
    assert not (tmp_path / "adapted.json").exists()


def test_files_that_are_not_adapted_over(
    here: Machine, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "table.json", tmp_path / "adapted.json"
    command = ("latency", "digits", "--table", table, "--adapt", 10, "--rounds", 3, "--out")
    said = supernet(capsys, *command, table)
    assert said.status == 2 and "is a table that is not adapted; choose another --out" in said.err
    assert supernet(capsys, *command, out).status == 0
    said = supernet(capsys, "latency", "digits", "--out", out)
    assert said.status == 2 and "is an adapted table, to which nothing is added" in said.err


def test_a_space_with_too_few_networks(
    here: Machine,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "DRAWN", 8)
    command = ("--table", tmp_path / "table.json", "--adapt", 10, "--out", tmp_path / "a.json")
    said = supernet(capsys, "latency", "digits", *command)
    assert said.status == 2 and "--adapt needs 10 networks" in said.err
