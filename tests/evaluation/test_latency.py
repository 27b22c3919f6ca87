"""Latency tables: what is measured, how it is read, and the cost that archs get of it."""

import dataclasses
import json
import pathlib
import shutil
import types
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import exported
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from tiny_run import ARCH, CONFIG, supernet

from supernet_jax import searching
from supernet_jax.elastic import choices, elastic_block, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import low_rank
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.latency_table import Calibration, Conditions, Table, Timing
from supernet_jax.experiment import budgets, config, latency, search
from supernet_jax.networks import extract, timing
from supernet_jax.networks.formats import onnx_timing
from supernet_jax.networks.network import Network
from supernet_jax.spaces import mobilenet
from supernet_jax.storage import files

HERE = Conditions(
    "digits",
    "f",
    1,
    "float32",
    "jit",
    "xla",
    "Some CPU",
    2,
    "Linux",
    "cpu",
    "cpu",
    "0.1",
    "0.1",
    "",
)
KNOWN = Calibration(0.25, 1.5, (8,), 10, 30, 0.02, 0.07, 0.1, 0.2, 0.98, 0.9, 0.03)
IDLE = 0.125  # ms of calling any program, in `Clock`


def milliseconds(spec: Any, inputs: tuple[tuple[int, ...], ...]) -> float:
    """A latency that tells any two kinds apart."""
    return (1 + zlib.crc32(repr((elastic_block.sizes(spec), inputs)).encode()) % 1000) / 64


def table_of(space: Space, *, resolutions: Sequence[int] | None = None, **fields: Any) -> Table:
    """A finished table of made-up latencies."""
    wanted = latency_table.kinds(space, resolutions or space.sizes)
    timings = {
        name: Timing(milliseconds(kind.spec, tuple(x.shape for x in kind.inputs)), 0.0, 0.0, 0.1, 5)
        for name, kind in wanted.items()
    }
    table = Table(latency_table.FORMAT, latency_table.VERSION, HERE, timings, {}, KNOWN)
    return dataclasses.replace(table, **fields)


@pytest.fixture(scope="module")
def space() -> Space:
    """Two resolutions, a skipped block, and stages that share kinds."""
    return mobilenet.mobilenet(
        "two",
        resolutions=(8, 12),
        stem=(4, 8),
        stem_stride=1,
        stages=(mobilenet.Stage((4, 8), (1, 3), (3,), (1, 2), 2),),
        last=(8,),
        classes=3,
        input_channels=1,
    )


def tiny() -> Space:
    return config.load_file(CONFIG)[0].space.build(classes=10, input_channels=1)


def looped(space: Space, arch: Any) -> float:
    """The sum over the blocks of one arch, by running its topology on shapes."""
    total = 0.0

    def run(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        nonlocal total
        block = space.blocks[name]
        spec = block.spec(arch)
        if spec is None:
            return shape
        total += milliseconds(spec, (shape[1:],))
        inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
        return elastic_block.shapes(block, spec, [inputs]).output.shape

    r = space.sizes[int(space.which_size(arch))]
    space.forward(run, (1, r, r, space.task.input_channels))  # type: ignore[arg-type]
    return total


# --- the cost --------------------------------------------------------------------------------


def test_cost_is_the_sum_over_the_blocks_of_an_arch(space: Space) -> None:
    archs = choices.sample(space.menu, jax.random.key(0), (5, 6))
    host = jax.tree.map(np.asarray, archs)
    plain = costs.latency(space, table_of(space), calibrated=False)
    wanted = np.asarray(
        [looped(space, arch) for arch in choices.unstack(jax.tree.map(np.ravel, host))]
    ).reshape(5, 6)
    assert len(np.unique(wanted)) > 10
    np.testing.assert_array_equal(plain(host), wanted)  # sums of 64ths are exact
    cost = costs.latency(space, table_of(space))
    np.testing.assert_array_equal(cost(host), np.round(0.25 + 1.5 * wanted, 6))  # nanoseconds
    for answer in (jax.jit(cost)(archs), jax.vmap(jax.jit(cost))(archs), cost(archs)):
        assert isinstance(answer, jax.Array) and answer.dtype == jnp.float32
        np.testing.assert_allclose(answer, 0.25 + 1.5 * wanted, rtol=1e-6)  # float32


def test_a_table_of_some_resolutions(space: Space) -> None:
    table = table_of(space, resolutions=(12,))
    cost = costs.latency(space, table, sizes=(12,))
    archs = [{**choices.largest(space.menu), "resolution": np.int32(i)} for i in (0, 1)]
    assert np.isnan(cost(archs[0]))
    assert cost(archs[1]) == np.round(0.25 + 1.5 * looped(space, archs[1]), 6)


def test_kinds_that_a_table_lacks(space: Space) -> None:
    table = table_of(space, resolutions=(12,))
    missing = len(
        latency_table.kinds(space, (8,)).keys() - latency_table.kinds(space, (12,)).keys()
    )
    with pytest.raises(UserError) as error:
        costs.latency(space, table)
    for word in (
        f"lacks {missing} of",
        "space two for inputs of size 8",
        "as Stem(c_in=1, c_out=4, stride=1) on 8x8x1",
        "supernet latency SPACE --batch 1 --out FILE",
    ):
        assert word in str(error.value)


def test_a_table_that_is_not_finished(space: Space) -> None:
    with pytest.raises(UserError, match="not finished; give the `supernet latency` command"):
        costs.latency(space, table_of(space, calibration=None))


# --- what is measured ------------------------------------------------------------------------


class Clock:
    """A machine on which time passes only while programs run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.modules: list[tuple[Any, Any, Any]] = []

    def call(self, ms: float) -> Callable[[], None]:
        """A program that takes so long."""

        def run() -> None:
            self.now += 1e-3 * ms

        return run

    @property
    def engine(self) -> timing.Engine:
        return timing.Engine("clock", self.program, lambda arrays: self.call(IDLE))

    def program(self, module: Any, variables: Any, inputs: Any) -> Callable[[], None]:
        """Blocks take what `milliseconds` says, networks 1 ms and twice their blocks."""
        self.modules.append((module, variables, inputs))
        if not isinstance(module, Network):
            shapes = tuple(x.shape[1:] for x in inputs)
            return self.call(IDLE + milliseconds(module.spec, shapes))
        total, x = 0.0, jax.ShapeDtypeStruct(inputs[0].shape, jnp.float32)
        for block in module.blocks:
            total += milliseconds(block.spec, (x.shape[1:],))
            own = {kind: variables[kind][block.name] for kind in variables}
            x = jax.eval_shape(block.module(block.spec).apply, own, x)  # type: ignore[assignment]
        return self.call(1.0 + 2.0 * total)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_every_kind_by_itself(space: Space, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = latency_table.kinds(space, space.sizes)
    monkeypatch.setattr(timing, "KINDS_AT_A_TIME", 6)
    ready: list[None] = []
    how = {"batch": 3, "rounds": 4, "engine": clock.engine}
    groups = list(timing.kinds(wanted, on_ready=lambda: ready.append(None), **how))
    found = {name: t for group in groups for name, t in group.items()}
    assert found.keys() == wanted.keys() and len(clock.modules) == len(wanted)
    assert max(map(len, groups)) == 6 and len(ready) == len(wanted)
    for name, kind in wanted.items():
        shapes = tuple(x.shape for x in kind.inputs)
        assert found[name].ms == pytest.approx(milliseconds(kind.spec, shapes), abs=1e-6)
        assert (found[name].overhead, found[name].rounds) == (IDLE, 4)
    module, variables, inputs = clock.modules[0]
    output, changed = jax.eval_shape(
        lambda v, x: module.apply(v, x, mutable=["moments"]), variables, *inputs
    )
    assert output.shape[0] == 3 and not changed  # statistics are given, none are computed


def test_errors_are_relative_to_the_network(space: Space) -> None:
    fitted, checked = timing.archs(space, space.sizes, 5)
    table = table_of(space, calibration=None)
    total = costs.latency(space, table, calibrated=False)
    factors = dict(zip(map(id, checked), (1.0, 0.5, 0.8, 2.0, 1.25), strict=True))
    found = {
        timing.notation(space, arch): Timing(
            float(total(arch)) * factors.get(id(arch), 1.0), 3.0, 4.0, 0.0, 5
        )
        for arch in [*fitted, *checked]
    }
    table = dataclasses.replace(table, networks=found)
    known = timing.calibration(space, table, fitted, checked, space.sizes)
    assert (known.median_error, known.largest_error) == pytest.approx((0.25, 1.0), abs=1e-4)
    assert (known.plain_median_error, known.plain_largest_error) == pytest.approx((0.25, 1.0))
    times = [found[timing.notation(space, arch)].ms for arch in checked]
    assert known.spread == pytest.approx(np.median(1.0 / np.asarray(times)))


def test_programs_are_visited_in_turn(clock: Clock) -> None:
    order: list[int] = []

    def program(i: int) -> Callable[[], None]:
        def run() -> None:
            order.append(i)
            clock.now += 1e-3 * (5 if len(order) % 3 else 2)

        return run

    times = timing._in_rounds([program(0), program(1)], 3)
    np.testing.assert_allclose(times, np.full((2, 3), 2.0))  # the fastest of three calls or more
    later = order[8:]  # compiled and tried before
    turns = [i for i, before in zip(later, [None, *later], strict=False) if i != before]
    assert turns == [0, 1] * 3


def test_blocks_add_up_to_networks(space: Space, clock: Clock) -> None:
    fitted, checked = timing.archs(space, space.sizes, 12)
    both = [*fitted, *checked]
    found: dict[str, Timing] = {}
    for group in timing.networks(space, both, batch=1, rounds=3, engine=clock.engine):
        found |= group
    table = table_of(space, calibration=None, networks=found)
    known = timing.calibration(space, table, fitted, checked, space.sizes)
    assert (known.constant, known.scale) == pytest.approx((1.0, 2.0), abs=1e-5)
    assert known.median_error <= known.largest_error < 1e-5
    assert 0.5 < known.plain_median_error <= known.plain_largest_error
    assert (known.spearman, known.kendall) == pytest.approx((1.0, 1.0))
    assert (known.fitted_on, known.checked_on, known.spread) == (10, 12, 0.0)
    cost = costs.latency(space, dataclasses.replace(table, calibration=known))
    for arch in both:
        assert cost(arch) == pytest.approx(found[timing.notation(space, arch)].ms, rel=1e-5)


def test_networks_without_their_adapters(space: Space, clock: Clock) -> None:
    adapted = low_rank.adapted(space, ranks=(1,))
    arch = choices.smallest(adapted.menu)
    groups = timing.networks(adapted, [arch], batch=1, rounds=1, engine=clock.engine)
    plain = timing.networks(
        space, [choices.smallest(space.menu)], batch=1, rounds=1, engine=clock.engine
    )
    [[ours]], [[theirs]] = ([list(g.values()) for g in of] for of in (groups, plain))
    assert ours.ms == pytest.approx(theirs.ms)


def test_archs_to_check_on_are_others(space: Space) -> None:
    fitted, checked = timing.archs(space, (12,), 7)
    names = [timing.notation(space, arch) for arch in [*fitted, *checked]]
    assert len(checked) == 7 and len(set(names)) == len(names)
    assert {json.loads(name)["resolution"] for name in names} == {12}
    whole = [timing.notation(space, arch) for arch in timing.archs(space, (8, 12), 3)[0]]
    for pick in (choices.smallest, choices.largest):
        assert timing.notation(space, pick(space.menu)) in whole
    few, rest = timing.archs(tiny(), (8,), 100)
    assert len(few) + len(rest) == tiny_run.NETWORKS  # none twice, by whatever name


@pytest.mark.parametrize(
    ("sums", "times", "wanted"),
    [
        ((1.0, 2.0, 5.0), (3.0, 5.0, 11.0), (1.0, 2.0)),
        ((1.0, 2.0, 4.0), (0.5, 2.5, 6.5), (0.0, 14.5 / 11.75)),
        ((1.0, 2.0, 3.0), (6.0, 5.0, 4.0), (3.0, 1.0)),
    ],
    ids=["a line", "no constant below 0", "no scale below 0"],
)
def test_fit(sums: Any, times: Any, wanted: tuple[float, float]) -> None:
    found = timing.fit(np.asarray(sums), np.asarray(times))
    if wanted[0] == 0.0:  # least relative squares through the origin
        ratio = np.asarray(sums) / np.asarray(times)
        wanted = (0.0, ratio.sum() / (ratio**2).sum())
    assert found == pytest.approx(wanted)


# --- files -----------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was(space: Space, tmp_path: pathlib.Path) -> None:
    table = table_of(space, networks={"{}": Timing(1.0, 0.9, 1.1, 0.0, 10)})
    for one in (table, dataclasses.replace(table, calibration=None)):
        files.write_json(tmp_path / "t.json", dataclasses.asdict(one))
        assert latency_table.read(tmp_path / "t.json") == one


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"format": "supernet_jax latency"', '"format": "x"', "is not a latency table; `supernet"),
        ('"version": 1', '"version": 2', "has version 2, this library reads 1"),
        ('"batch": 1', '"batch": "1"', 'conditions.batch is "1", but must be a whole number'),
        (
            '"overhead": 0.1',
            '"over": 0.1',
            "unknown over, did you mean overhead? and missing overhead",
        ),
        ('"overhead": 0.1', '"overhead": NaN', "NaN is not a number"),
        ('"overhead": 0.1', '"overhead": -0.1', "overhead of -0.1 ms is no latency"),
        ('"scale": 1.5', '"scale": 0.0', "0.25 ms + 0.0 x sum cannot be a calibration"),
        ("{", "", "is not a latency table, or was cut short ("),
    ],
)
def test_a_table_that_is_broken(
    old: str, new: str, words: str, space: Space, tmp_path: pathlib.Path
) -> None:
    text = json.dumps(dataclasses.asdict(table_of(space)))
    assert old in text
    (tmp_path / "t.json").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        latency_table.read(tmp_path / "t.json")
    assert words in str(error.value) and str(tmp_path / "t.json") in str(error.value)


def test_tables_of_two_processes_become_one(space: Space, tmp_path: pathlib.Path) -> None:
    path, whole = tmp_path / "t.json", table_of(space, calibration=None)
    (first, *_), names = whole.kinds, list(whole.kinds)
    halves = [
        dataclasses.replace(whole, kinds={name: whole.kinds[name] for name in some})
        for some in (names[:4], names[4:])
    ]
    assert latency._write(path, halves[0]) == halves[0]
    assert latency._write(path, halves[1]) == whole == latency_table.read(path)
    again = Timing(9.0, 9.0, 9.0, 0.0, 5)  # what was measured here counts
    later = dataclasses.replace(halves[0], kinds={first: again}, calibration=KNOWN)
    latency._write(path, later)
    assert latency_table.read(path).kinds == {**whole.kinds, first: again}
    assert latency._write(path, halves[0]).calibration == KNOWN
    content = path.read_text()
    other = dataclasses.replace(whole, conditions=dataclasses.replace(HERE, batch=2))
    with pytest.raises(UserError, match="batch is 1 there and 2 now"):
        latency._write(path, other)
    assert path.read_text() == content


def test_no_table(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"no latency table .*t\.json; `supernet latency SPACE"):
        latency_table.read(tmp_path / "t.json")


# --- commands --------------------------------------------------------------------------------

COMMAND = ("latency", CONFIG, "--archs", 3, "--rounds", 3, "--out")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A table of the tiny space, measured in two pieces: killed after the first kinds."""
    path = tmp_path_factory.mktemp("latency") / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "KINDS_AT_A_TIME", 6)
        original = timing._in_rounds

        def killed(*arguments: Any) -> Any:
            if path.exists():
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(timing, "_in_rounds", killed)
        with pytest.raises(SystemExit):
            tiny_run.main.main([str(a) for a in (*COMMAND, path)])
        assert (len(latency_table.read(path).kinds), latency_table.read(path).calibration) == (
            6,
            None,
        )
        before = latency_table.read(path).kinds
        patch.setattr(timing, "_in_rounds", original)
        tiny_run.main.main([str(a) for a in (*COMMAND, path)])
        assert {name: latency_table.read(path).kinds[name] for name in before} == before
    return path


def test_latency_of_a_space(
    measured: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = latency_table.read(measured)
    assert table.kinds.keys() == latency_table.kinds(tiny(), (8,)).keys() and len(table.kinds) == 15
    assert table.conditions == timing.conditions(tiny(), batch=1)
    assert len(table.networks) == 12 and table.calibration is not None  # of 18, 9 fit it
    assert all(t.ms > 0 and t.low <= t.ms <= t.high for t in table.networks.values())
    path = shutil.copy(measured, tmp_path / "copy.json")
    monkeypatch.setattr(timing, "_in_rounds", None)  # what is known is not measured again
    said = supernet(capsys, *COMMAND, path)
    assert (said.status, said.err) == (0, "")
    assert latency_table.read(pathlib.Path(path)) == table
    assert f"wrote {path}: 15 kinds of block" in said.out
    assert "sum over blocks" in said.out and "rank correlation: Spearman" in said.out
    assert latency_table.provenance(table) in said.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--batch", 2), ("batch is 1 there and 2 now", "choose another --out")),
        (("--resolutions", 9), ("--resolutions has 9", "offers 8")),
        (("--archs", 2), ("--archs is 2", "at least 3")),
        (("--rounds", 2), ("--rounds is 2", "at least 3")),
        (
            ("--runtime", "onnx"),
            ("engine is 'jit' there and 'onnxruntime ", "choose another --out"),
        ),
    ],
)
def test_mistakes_in_measuring(
    more: tuple[object, ...],
    words: tuple[str, ...],
    measured: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = supernet(capsys, *COMMAND, measured, *more)
    assert said.status == 2 and said.err.count("\n") == 1
    assert [word for word in words if word not in said.err] == []


def test_in_onnx_runtime(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, how = tmp_path / "onnx.json", ("--archs", 3, "--rounds", 3, "--runtime", "onnx")
    said = supernet(capsys, "latency", "digits", *how, "--out", path)
    assert said.status == 0, said
    table = latency_table.read(path)
    digits = mobilenet.digits()
    assert (
        table.kinds.keys() == latency_table.kinds(digits, (8,)).keys() and len(table.networks) == 13
    )
    assert table.conditions.engine.startswith("onnxruntime ") and table.conditions.jax == ""
    assert "float32, onnxruntime " in said.out and "kernels" not in said.out
    assert table.calibration is not None and table.calibration.scale > 0


@pytest.mark.parametrize("whole", [True, False])
def test_onnx_runtime_computes_what_is_timed(whole: bool) -> None:
    space = mobilenet.digits()
    made = extract.module(space, choices.largest(space.menu))
    block = made.blocks[2]
    [inputs] = elastic_space.geometry(space, 8)[block.name].inputs
    module = made if whole else block.module(block.spec)
    shape = (2, 8, 8, 1) if whole else (2, *inputs.shape[1:])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = timing._variables(shapes["params"], shapes["moments"])
    [found] = onnx_timing.program(module, variables, [images])()
    wanted = np.asarray(jax.jit(module.apply)(variables, images))
    found = found if whole else found.transpose(0, 2, 3, 1)
    assert np.max(np.abs(found - wanted)) <= 1e-5 * np.max(np.abs(wanted))  # float32 sums


@pytest.mark.parametrize("block", [None, "embed", "grouped", "head"])
def test_onnx_runtime_computes_text_that_is_timed(block: str | None) -> None:
    made, ids = exported.export("text, rotary"), exported.images("text, rotary")
    module, params, inputs = made.network, made.variables["params"], ids
    if block is not None:
        [one] = [b for b in module.blocks if b.name == block]
        module, params = one.module(one.spec), params[block]
        tokens = np.random.default_rng(0).normal(size=(3, 9, 6)).astype(np.float32)
        inputs = ids if block == "embed" else tokens
    [found] = onnx_timing.program(module, {"params": params, "stats": {}}, [inputs])()
    whole = exported.logits("text, rotary")
    wanted = whole if block is None else np.asarray(module.apply({"params": params}, inputs))
    assert exported.difference(found, wanted) <= exported.TOLERANCE


def test_blocks_that_onnx_runtime_cannot_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = supernet(capsys, *COMMAND, tmp_path / "onnx.json", "--runtime", "onnx")
    assert said.status == 2 and "block 'first', which is a Filter" in said.err
    assert "--runtime jit measures any network" in said.err
    assert list(tmp_path.iterdir()) == []


def test_search_within_milliseconds(
    measured: pathlib.Path,
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run")
    cost = costs.latency(tiny(), latency_table.read(measured))
    archs = choices.sample(tiny().menu, jax.random.key(0), (200,))
    spent = np.unique(cost(jax.tree.map(np.asarray, archs)))
    high = float(spent[len(spent) // 2])
    named = f"latency:{measured}"
    options = ("--config", CONFIG, "--cost", named, "--high", high, "--evaluations", 8)
    said = supernet(capsys, "search", run, *options, "--searcher.population", 4)
    assert said.status == 0, said
    result = json.loads((run / "search.json").read_text())
    assert (result["cost"], result["unit"], result["budgets"][0]["high"]) == ("latency", "ms", high)
    assert result["latency_table"]["file"] == str(measured)
    assert latency_table.provenance(latency_table.read(measured)) in said.out
    assert 1 <= len(result["all"]) <= 8 and all(ms <= high + 1e-6 for ms, _ in result["all"])
    for entry in result["front"]:
        arch = notation.from_notation(tiny().menu, entry["arch"])
        assert entry["latency"] == pytest.approx(float(cost(arch)), abs=1e-6)


def test_info_tells_milliseconds(
    measured: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("info", CONFIG, "--latency", measured)
    said = supernet(capsys, *command, "--archs", json.dumps(ARCH), "--json")
    (row,) = json.loads(said.out)
    cost = costs.latency(tiny(), latency_table.read(measured))
    wanted = float(cost(notation.from_notation(tiny().menu, ARCH)))
    assert row["latency"] == pytest.approx(wanted, abs=1e-6)
    said = supernet(capsys, *command, "--archs", "smallest")
    assert latency_table.provenance(latency_table.read(measured)) in said.out and " ms" in said.out
    said = supernet(capsys, *command)
    assert said.status == 2 and "--latency needs --archs" in said.err


def test_a_table_is_a_cost_of_a_search_from_its_file_or_from_memory(
    space: Space, tmp_path: pathlib.Path
) -> None:
    path, table = tmp_path / "t.json", table_of(space)
    files.write_json(path, dataclasses.asdict(table))
    archs = choices.sample(space.menu, jax.random.key(0), (9,))
    expected = costs.latency(space, table)(archs)
    for name, own in (("latency", [table]), (f"latency:{path}", [])):
        [priced] = budgets.goal(space, {name: (None, 9.0)}, own=own).priced
        np.testing.assert_array_equal(priced.cost(archs), expected)
        assert (priced.name, priced.unit, priced.table) == ("latency", "ms", table)
        assert len(priced.source["latency_table"]["sha256"]) == 64


def test_a_search_takes_a_table_in_any_form(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where the cost is made of it."""

    def asked(space: Any, given: Any, *_: Any) -> Any:
        raise UserError(f"asked for {list(given)}")

    monkeypatch.setattr(search.experiment_run, "opened", lambda run: run)
    config = types.SimpleNamespace(searcher=searching.Evolution(), costs=())
    run: Any = types.SimpleNamespace(space=space, config=config)
    with pytest.raises(UserError, match="there is no cost 'flops'"):
        search.search(run, cost="flops")
    monkeypatch.setattr(search.experiment_budgets, "goal", asked)
    for given in ("t.json", pathlib.Path("t.json"), "latency:t.json"):
        with pytest.raises(UserError, match=r"asked for \['latency:t\.json'\]"):
            search.search(run, cost=given)
    with pytest.raises(UserError, match=r"asked for \['latency'\]"):
        search.search(run, cost=table_of(space))
