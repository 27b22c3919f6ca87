"""Published networks: what the table says, and that it stands beside ImageNet alone."""

import dataclasses
import json

import matplotlib.figure
import numpy as np
import pytest
import tiny_run
import tiny_space
from conftest import ROOT
from tiny_run import CONFIG

import supernet_jax as sj
from supernet_jax.elastic import choices, notation
from supernet_jax.experiment import front as front_module
from supernet_jax.experiment import point_names, published

ALL = published.networks()
GOLDEN = json.loads((ROOT / "tests" / "goldens" / "attentivenas.json").read_text("utf-8"))


def test_every_row_says_where_it_is_from() -> None:
    assert 24 <= len(ALL) <= 60
    assert len({one.name for one in ALL}) == len(ALL)
    for one in ALL:
        assert len(one.source) > 40 and one.family, one.name
        assert 50 < one.top1 < 90 and 3e7 < one.macs < 2e10, one.name
        assert one.parameters is None or 1e6 < one.parameters < 1e8, one.name
        if "pytorch-image-models" in one.source:
            assert one.macs % 10**7 == 0 and "rounded" in one.source, one.name
            assert one.called == one.name.split(".")[0]
        else:
            assert one.called == one.name  # 0.5x stays whole
    families = [one.family for one in ALL]
    assert families == sorted(families, key=families.index)  # they stand together


@pytest.mark.parametrize("name", ["a0", "a3", "a6"])
@pytest.mark.parametrize("family", ["AlphaNet", "AttentiveNAS"])
def test_rows_are_those_of_the_golden_values(family: str, name: str) -> None:
    known = GOLDEN["nets"][name]
    (row,) = [one for one in ALL if one.name == f"{family}-{name.upper()}"]
    assert row.top1 == known[f"published_top1_{family.lower()}"]
    assert row.macs == round(1e6 * known["MMACs"])
    assert (row.parameters, row.resolution) == (
        known["effective_params"],
        known["cfg"]["resolution"],
    )


def test_the_subnet_of_the_paper_of_once_for_all() -> None:
    (row,) = [one for one in ALL if one.name == "OFA D4-W3-K3"]
    text = (ROOT / "configs" / "imagenet_ofa.py").read_text("utf-8")
    assert row.macs == 226_193_808  # as tests/spaces/test_once_for_all.py counts it
    assert f"with progressive shrinking     {row.top1}" in text


@pytest.mark.parametrize(
    ("data", "is_it"),
    [
        *((f"tfds:{name}", True) for name in ("imagenet2012", "imagenet2012:5.1.0")),
        *((f"folder:/data/{name}", True) for name in ("ImageNet", "imagenet-1k/", "ILSVRC2012")),
        ("folder:C:\\data\\imagenet", True),
        *((f"tfds:imagenet_{name}", False) for name in ("a", "v2", "resized/64x64", "sketch")),
        *((name, False) for name in ("digits", "", "None", "tfds:cifar10", "npz:imagenet.npz")),
        *((f"folder:/imagenet/{name}", False) for name in ("cats", "tiny", "train")),
        ("tfds:imagenet2012_subset/1pct", False),
    ],
)
def test_what_may_be_compared(data: str, is_it: bool) -> None:
    assert published.is_comparable(data, 1000) is is_it
    for classes in (999, 21_841, None, "1000", [1000]):
        assert not published.is_comparable(data, classes)


def test_those_beside_some_macs() -> None:
    assert published.beside([]) == ()
    some = published.beside([200e6, 400e6])
    assert {one.macs for one in some} == {one.macs for one in ALL if 1e8 <= one.macs <= 8e8}
    assert 0 < len(some) < len(ALL)


def axes() -> matplotlib.axes.Axes:
    return matplotlib.figure.Figure().subplots()


def test_fronts_of_other_data_are_not_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = sj.open_run(tiny_run.searched(tmp_path_factory), CONFIG, read=False)
    front = front_module.last(run)
    with pytest.raises(sj.UserError, match="this front is of digits with 10; plot it without"):
        front.plot(axes(), published=True)
    assert front.plot(axes())


def imagenet(cost: str = "macs", data: str = "tfds:imagenet2012") -> sj.Front:
    """A front of a tiny space that is said to tell ImageNet's classes apart."""
    space = dataclasses.replace(tiny_space.tiny(), task=sj.tasks.ImageClassification(2, 1000))
    arch = notation.to_notation(space.menu, choices.smallest(space.menu))
    record = {"arch": arch, "accuracy": 0.75, "loss": 1.0, "macs": 300_000_000, "parameters": 9}
    record |= {"latency": 1.0}
    result = {"front": [record], "all": [[record[cost], 0.75]], "cost": cost, "unit": "MACs"}
    return sj.Front(space, {**result, "evaluations": 1, "space": "tiny"}, data=data)


def test_a_front_of_imagenet_is_drawn_beside_them() -> None:
    plain, drawn = imagenet().plot(axes()), imagenet().plot(axes(), published=True)
    beside = published.beside([300_000_000])
    marks = np.concatenate([one.get_offsets() for one in drawn.collections[1:]])
    assert sorted(map(tuple, marks.tolist())) == sorted((one.macs, one.top1) for one in beside)
    named = {text.get_text() for text in drawn.texts}
    assert len(named) >= 3 and named <= {one.called for one in beside}
    assert not plain.texts and len(plain.collections) == 1
    with pytest.raises(sj.UserError, match="over MACs, but this front is over latency"):
        imagenet("latency").plot(axes(), published=True)
    with pytest.raises(sj.UserError, match="of data that is not known with 1000"):
        imagenet(data="").plot(axes(), published=True)
    # What is known of the data stays with a front that has test values.
    assert imagenet().tested({0: 0.7}).plot(axes(), published=True)


def test_names_stand_clear_of_each_other() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 100, (2, 40))
    widths = [10.0] * 30
    free = point_names.apart(x, y, widths, height=4.0)
    assert len(free) == 30 and 0 < sum(free) < 30
    boxes = [(x[i] + 2, y[i] - 2, x[i] + 12, y[i] + 2) for i in range(30) if free[i]]
    for i, (left, low, right, high) in enumerate(boxes):
        for a, b in zip(x, y, strict=True):
            assert not (left < a < right and low < b < high)
        for other in boxes[:i]:
            apart = right <= other[0] or other[2] <= left
            assert apart or high <= other[1] or other[3] <= low
    above = np.zeros(2), np.array([0.0, 3.0])  # only the names are in each other's way
    assert point_names.apart(*above, [10.0, 10.0], height=4.0) == [True, False]
    assert point_names.apart(np.zeros(0), np.zeros(0), [], height=4.0) == []


def test_the_table_comes_with_the_package() -> None:
    described = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '"supernet_jax.experiment" = ["*.csv"]' in described
