"""How the fidelity experiment tells whether scores rank subnets, and what it trains."""

import argparse
import functools
import importlib
import itertools
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.training import losses

sys.path.append(str(ROOT / "benchmarks"))  # at the end: it has names like data and compile
fidelity = importlib.import_module("fidelity")
fidelity_tables = importlib.import_module("fidelity_tables")
ranking = importlib.import_module("ranking")


def test_bands_have_the_cheapest_first_and_all_archs_once() -> None:
    costs = np.array([5.0, 1, 4, 2, 3, 0, 6])
    groups = ranking.bands(costs, 3)
    assert [len(group) for group in groups] == [3, 2, 2]
    assert np.concatenate(groups).tolist() == [5, 1, 3, 4, 2, 0, 6]


def test_an_order_is_one_its_reverse_minus_one_and_a_constant_nothing() -> None:
    up = np.arange(7.0)
    for measure in (ranking.kendall, ranking.spearman):
        assert measure(up, up**3) == pytest.approx(1)
        assert measure(up, -up) == pytest.approx(-1)
        assert measure(up, np.ones(7)) == 0
    # one neighbouring pair of six is swapped: 14 pairs agree, one does not
    assert ranking.kendall(np.arange(6.0), np.array([0.0, 2, 1, 3, 4, 5])) == pytest.approx(13 / 15)


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 24):
        a, b = rng.integers(0, 5, n), rng.normal(size=n)
        assert ranking.kendall(b, b[::-1]) == pytest.approx(stats.kendalltau(b, b[::-1]).statistic)
        if np.ptp(a):
            assert ranking.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
            assert ranking.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_within_bands_only_the_order_inside_counts() -> None:
    truth = np.arange(8.0)
    scores = np.array([[3.0, 2, 1, 0, 7, 6, 5, 4]])  # bands in order, each of them reversed
    tau = ranking.mean_over(scores, truth, ranking.kendall)
    everything = np.arange(8)
    assert tau(everything) > 0
    assert ranking.within(ranking.bands(truth, 2), tau)(everything) == pytest.approx(-1)


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    """Of 200 samples of 40 normal numbers about 95 % should have 0 within; binomial, sd 1.5 %."""
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        sample = rng.normal(size=40)
        mean = lambda of, s=sample: float(s[of].mean())  # noqa: E731
        one = ranking.interval(mean, 40, resamples=400, seed=i)
        assert one.low < one.value < one.high
        inside += one.low <= 0 <= one.high
    assert 0.89 <= inside / 200 <= 0.99


def test_archs_are_drawn_within_their_bands() -> None:
    truth = np.repeat([0.0, 10.0], 5)
    groups = [np.arange(5), np.arange(5, 10)]
    one = ranking.interval(lambda of: float(truth[of].mean()), 10, groups=groups)
    assert one == (5, 5, 5)


def test_a_pick_is_worth_what_it_has_over_the_mean_of_its_band() -> None:
    truth = np.array([0.1, 0.3, 0.2, 0.6, 0.8, 0.7])
    groups = [np.arange(3), np.arange(3, 6)]
    right = truth[None]
    wrong = -right
    everything = np.arange(6)
    assert ranking.picked(right, truth, groups)(everything) == pytest.approx(0.1)
    assert ranking.picked(wrong, truth, groups)(everything) == pytest.approx(-0.1)
    both = np.concatenate([right, wrong])
    assert ranking.picked(both, truth, groups)(everything) == pytest.approx(0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_best_of_some_is_the_mean_over_all_choices(count: int) -> None:
    truth = np.array([0.3, 0.9, 0.5, 0.1, 0.6])
    known = [max(some) for some in itertools.combinations(truth, count)]
    assert ranking.best_of(truth, count) == pytest.approx(np.mean(known))


def test_best_of_between_whole_numbers_and_beyond() -> None:
    truth = np.array([0.3, 0.9, 0.5, 0.1, 0.6])
    middle = (ranking.best_of(truth, 2) + ranking.best_of(truth, 3)) / 2
    assert ranking.best_of(truth, 2.5) == pytest.approx(middle)
    assert ranking.best_of(truth, 0.1) == pytest.approx(truth.mean())
    assert ranking.best_of(truth, 99) == pytest.approx(0.9)


def made_up() -> Any:
    """Two methods on twelve archs: one has the true order, one the reverse, and both lose 10 %."""
    truth = np.linspace(0.4, 0.51, 12)
    right, wrong = (truth - 0.1).tolist(), (truth[::-1] - 0.1).tolist()
    costs = {"images": 4e6, "macs": 4e12, "seconds": 60.0}

    def record(scores: list[float]) -> dict[str, Any]:
        return {"test": scores, "held_out": scores, "uncalibrated": [0.1] * 12, **costs}

    return fidelity_tables.Found(
        macs=np.arange(12.0) + 1,
        parameters=np.arange(12.0)[::-1] + 1,
        truth=np.stack([truth, truth]),
        alone_macs=1e12,
        supernets={
            "sandwich, KL": [record(right), record(right)],
            "sandwich, alpha": [record(wrong), record(wrong)],
        },
        about={"sandwich, KL": "a", "sandwich, alpha": "b"},
        bands=3,
    )


def test_tables_of_a_study(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = functools.partial(ranking.interval, resamples=20)
    monkeypatch.setattr(ranking, "interval", few)
    found = made_up()
    figures = fidelity_tables.show(found)
    rows = figures["ranking"]
    taus = {name: row["tau"]["value"] for name, row in rows.items()}
    assert taus == pytest.approx(
        {
            "MACs": 1,
            "parameters": -1,
            "trained alone, once more": 1,
            "sandwich, KL": 1,
            "sandwich, KL, not calibrated": 0,
            "sandwich, alpha": -1,
            "sandwich, alpha, not calibrated": 0,
        }
    )
    assert rows["trained alone, once more"]["banded"]["value"] == pytest.approx(1)
    assert rows["sandwich, KL"]["pick"]["value"] == pytest.approx(0.015)
    (pair,) = figures["differences"].values()
    assert pair["tau"]["value"] == pytest.approx(-2)
    assert pair["accuracy"]["value"] == pytest.approx(0, abs=1e-9)
    budget = figures["budget"]
    assert budget["sandwich, KL"]["archs"] == pytest.approx(4)
    assert budget["sandwich, KL"]["picked"] == budget["sandwich, alpha"]["most"]
    assert budget["sandwich, alpha"]["picked"] == pytest.approx(0.4)
    said = capsys.readouterr().out
    assert "12 archs trained alone, 2 times each: 40.00% to 51.00%" in said
    assert "-10.00%" in said and "sandwich, alpha - sandwich, KL" in said
    json.dumps(figures)
    fidelity_tables.draw(found, tmp_path)
    for name in ("accuracies", "ranking"):
        assert (tmp_path / f"fidelity_{name}.png").read_bytes().startswith(b"\x89PNG")


def asked(folder: pathlib.Path) -> argparse.Namespace:
    return argparse.Namespace(
        out=folder, quick=True, dataset="digits", data_dir=None, pixels=8, steps=12, batch=32,
        archs=5, truth_seeds=2, seeds=3, methods=list(fidelity.METHODS), bands=2,
    )  # fmt: skip


def test_budgets_of_a_study(tmp_path: pathlib.Path) -> None:
    """All methods train as many members, apart from those that leave members out at first."""
    study = fidelity.Study(asked(tmp_path))
    trainings = study.trainings
    assert len(trainings) == 5 * 2 + len(fidelity.METHODS) * 3
    assert len({one.name for one in trainings}) == len(trainings)
    built = study._built
    for one in trainings:
        if one.seed or one.arch not in (None, 0):
            continue
        made = fidelity.build.rebuilt(built, one.settings)
        spent = fidelity.spent(made)
        members = 12 if one.method is None else 4 * 12
        whole = spent["images"] == pytest.approx(members * 32, rel=1e-6)
        assert whole != (one.method in ("delayed", "progressive")), one.name
    costs = [spent_of(study, name) for name in ("sandwich, KL", "attentive", "delayed")]
    assert costs[2] < costs[0] < costs[1]


def spent_of(study: Any, method: str) -> float:
    (one,) = (t for t in study.trainings if t.method == method and t.seed == 0)
    return fidelity.spent(fidelity.build.rebuilt(study._built, one.settings))["macs"]


def test_an_arch_alone_is_what_trains(tmp_path: pathlib.Path) -> None:
    study = fidelity.Study(asked(tmp_path))
    arch = choices.unstack(study._archs)[2]
    (one,) = (t for t in study.trainings if t.arch == 2 and t.seed == 1)
    assert isinstance(one.settings.loss, losses.HardLabels) and one.settings.train.seed == 1
    sampler = fidelity.build.rebuilt(study._built, one.settings).recipe.sampler
    state = sampler.init(jax.random.key(0))
    drawn = sampler.sample(state, jax.random.key(5), 3, None)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), drawn, arch)


def test_a_folder_holds_one_study(tmp_path: pathlib.Path) -> None:
    fidelity.Study(asked(tmp_path))
    fidelity.Study(asked(tmp_path))
    other = argparse.Namespace(**{**vars(asked(tmp_path)), "steps": 13})
    with pytest.raises(UserError, match=r"holds a study with {'steps': 12}; choose another --out"):
        fidelity.Study(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--archs", "5"), "--archs must be at least 6: two for each of --bands"),
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--dataset", "tfds:cifar100x", "--data-dir", "nowhere"), "nowhere"),
        (("--methods", "magic"), "invalid choice: 'magic'"),
    ],
)
def test_mistakes(
    options: tuple[str, ...],
    words: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["fidelity.py", "--out", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as ended:
        fidelity.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
