"""Tables and pictures of the fidelity experiment."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import measure
import numpy as np
import ranking
from ranking import Interval

PAIRS = (
    ("fair", "single path"),
    ("sandwich, labels", "single path"),
    ("sandwich, KL", "sandwich, labels"),
    ("sandwich, alpha", "sandwich, KL"),
    ("attentive", "sandwich, KL"),
    ("delayed", "sandwich, KL"),
    ("progressive", "sandwich, KL"),
    ("nested", "sandwich, KL"),
    ("shift", "sandwich, KL"),
    ("projection", "sandwich, KL"),
)


class Found(NamedTuple):
    """What the experiment measured.

    Attributes:
        macs: `[N]`, of an image.
        parameters: `[N]`.
        truth: `[T, N]`, test accuracies of each arch trained alone, by seed.
        alone_macs: of training one arch alone, mean over archs.
        supernets: by method, a record of each seed.
        about: by method, what it is.
        bands: number of ranges of MACs.
    """

    macs: np.ndarray
    parameters: np.ndarray
    truth: np.ndarray
    alone_macs: float
    supernets: Mapping[str, Sequence[Mapping[str, Any]]]
    about: Mapping[str, str]
    bands: int

    @property
    def mean_truth(self) -> np.ndarray:
        """Mean over seeds, `[N]`."""
        return self.truth.mean(0)

    @property
    def groups(self) -> list[np.ndarray]:
        """Places of archs in each band."""
        return ranking.bands(self.macs, self.bands)

    def scores(self, method: str, what: str) -> np.ndarray:
        """Of all seeds of a method: `[S, N]`."""
        return np.asarray([record[what] for record in self.supernets[method]])

    def spent(self, method: str, what: str) -> float:
        """Images, MACs or seconds of a supernet, mean over seeds."""
        return float(np.mean([record[what] for record in self.supernets[method]]))


def show(found: Found) -> dict[str, Any]:
    """Prints the tables; returns them as JSON values."""
    truth = found.mean_truth
    print(
        f"{len(found.macs)} archs trained alone, {len(found.truth)} times each: "
        f"{truth.min():.2%} to {truth.max():.2%} on test images, standard deviation "
        f"{truth.std():.2%}; between trainings of one arch {_noise(found)}"
    )
    rows = rankings(found)
    print("\nOrder of the archs beside that of the truth, 95 % intervals over archs:")
    heads = ["scores by", "Kendall's tau", "Spearman's rho", f"tau in {found.bands} bands", "pick"]
    lines = [
        [name, str(row["tau"]), str(row["rho"]), str(row["banded"]), row["pick"].percent]
        for name, row in rows.items()
    ]
    measure.table(heads, lines)
    print("Supernets, means over seeds; the gap is inherited minus alone, in bands of MACs:")
    bands = [f"gap, band {i + 1}" for i in range(found.bands)]
    heads = ["method", "", "seeds", "images, M", "MACs, T", "s", "smallest", "largest", *bands]
    measure.table(heads, [_supernet(found, name) for name in found.supernets])
    print("Differences of pairs, 95 % intervals over archs:")
    pairs = differences(found)
    heads = ["", "tau", "tau in bands", "inherited accuracy"]
    lines = [
        [name, str(row["tau"]), str(row["banded"]), row["accuracy"].percent]
        for name, row in pairs.items()
    ]
    measure.table(heads, lines)
    print("The same budget spent on training random archs alone:")
    budgets = {name: budget(found, name) for name in found.supernets}
    heads = ["method", "archs alone", "best of those", "best by the supernet", "best of all"]
    measure.table(heads, [[name, *(_cell(v) for v in row)] for name, row in budgets.items()])
    return {
        "macs": found.macs.tolist(),
        "parameters": found.parameters.tolist(),
        "alone": found.truth.tolist(),
        "supernets": dict(found.supernets),
        "ranking": {name: _plain(row) for name, row in rows.items()},
        "differences": {name: _plain(row) for name, row in pairs.items()},
        "budget": {name: row._asdict() for name, row in budgets.items()},
    }


def rankings(found: Found) -> dict[str, dict[str, Interval]]:
    """Scores of all kinds: costs, a second training, supernets with calibration and without."""
    rows = {
        "MACs": order(found, found.macs[None]),
        "parameters": order(found, found.parameters[None]),
    }
    if len(found.truth) > 1:
        first, others = found.truth[:1], found._replace(truth=found.truth[1:])
        rows["trained alone, once more"] = order(others, first)
    for name in found.supernets:
        rows[name] = order(found, found.scores(name, "held_out"))
        rows[f"{name}, not calibrated"] = order(found, found.scores(name, "uncalibrated"))
    return rows


def order(found: Found, seeds: np.ndarray) -> dict[str, Interval]:
    """How scores `[S, N]` order the archs, and what a pick by them gains."""
    truth, groups, n = found.mean_truth, found.groups, len(found.macs)
    tau = ranking.mean_over(seeds, truth, ranking.kendall)
    rho = ranking.mean_over(seeds, truth, ranking.spearman)
    return {
        "tau": ranking.interval(tau, n),
        "rho": ranking.interval(rho, n),
        "banded": ranking.interval(ranking.within(groups, tau), n, groups=groups),
        "pick": ranking.interval(ranking.picked(seeds, truth, groups), n, groups=groups),
    }


def differences(found: Found) -> dict[str, dict[str, Interval]]:
    """One method minus another, on the same archs."""
    truth, groups, n = found.mean_truth, found.groups, len(found.macs)
    made = {}
    for one, other in PAIRS:
        if not {one, other} <= set(found.supernets):
            continue
        taus = [
            ranking.mean_over(found.scores(name, "held_out"), truth, ranking.kendall)
            for name in (one, other)
        ]
        gains = found.scores(one, "test").mean(0) - found.scores(other, "test").mean(0)
        both = [taus, [ranking.within(groups, tau) for tau in taus]]
        tau, banded = (lambda of, p=pair: p[0](of) - p[1](of) for pair in both)
        made[f"{one} - {other}"] = {
            "tau": ranking.interval(tau, n),
            "banded": ranking.interval(banded, n, groups=groups),
            "accuracy": ranking.interval(lambda of, g=gains: float(g[of].mean()), n),
        }
    return made


class Budget(NamedTuple):
    """What a supernet's MACs buy.

    Attributes:
        archs: that could be trained alone for them.
        best: expected accuracy of the best of so many random ones.
        picked: accuracy, trained alone, of the arch that the supernet scores best; mean over seeds.
        most: accuracy of the best of all.
    """

    archs: float
    best: float
    picked: float
    most: float


def budget(found: Found, method: str) -> Budget:
    """The arch that a supernet finds beside random search at the same cost."""
    truth = found.mean_truth
    count = found.spent(method, "macs") / found.alone_macs
    best = [truth[np.argmax(row)] for row in found.scores(method, "held_out")]
    return Budget(count, ranking.best_of(truth, count), float(np.mean(best)), float(truth.max()))


def _cell(value: float) -> str:
    return f"{value:.1f}" if value > 1 else f"{value:.2%}"


def _plain(row: Mapping[str, Interval]) -> dict[str, Any]:
    return {key: value._asdict() for key, value in row.items()}


def _noise(found: Found) -> str:
    if len(found.truth) < 2:
        return "not known"
    return f"{found.truth.std(0, ddof=1).mean():.2%}"


def _supernet(found: Found, name: str) -> list[Any]:
    inherited = found.scores(name, "test").mean(0)
    gaps = [np.mean(inherited[group] - found.mean_truth[group]) for group in found.groups]
    return [
        name,
        found.about[name],
        len(found.supernets[name]),
        found.spent(name, "images") / 1e6,
        found.spent(name, "macs") / 1e12,
        round(found.spent(name, "seconds")),
        f"{inherited[0]:.2%}",
        f"{inherited[-1]:.2%}",
        *(f"{gap:+.2%}" for gap in gaps),
    ]


def draw(found: Found, folder: pathlib.Path) -> None:
    """Draws inherited accuracy over accuracy alone, and the correlations with their intervals."""
    folder.mkdir(parents=True, exist_ok=True)
    _scatter(found, folder / "fidelity_accuracies.png")
    _bars(found, folder / "fidelity_ranking.png")


def _scatter(found: Found, path: pathlib.Path) -> None:
    names, columns = list(found.supernets), 4
    rows = -(-len(names) // columns)
    figure = matplotlib.figure.Figure((3 * columns, 3 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for place, name in zip(axes.flat, names, strict=False):
        place.plot([0, 1], [0, 1], color="0.8", zorder=0)
        for row in found.scores(name, "test"):
            points = place.scatter(found.mean_truth, row, c=found.macs / 1e6, s=14)
        tau = order(found, found.scores(name, "held_out"))["tau"].value
        place.set_title(f"{name}: tau {tau:.2f}", fontsize="medium")
    every = np.concatenate([found.scores(name, "test").ravel() for name in names])
    for place in axes.flat[len(names) :]:
        place.set_visible(False)
    for place in axes.flat[: len(names)]:
        place.set_xlim(found.mean_truth.min() - 0.01, found.mean_truth.max() + 0.01)
        place.set_ylim(every.min() - 0.01, max(every.max(), found.mean_truth.max()) + 0.01)
    figure.supxlabel("accuracy alone")
    figure.supylabel("accuracy with the supernet's weights")
    figure.colorbar(points, ax=axes, label="MACs, millions")
    figure.savefig(path)


def _bars(found: Found, path: pathlib.Path) -> None:
    rows = rankings(found)
    figure = matplotlib.figure.Figure((9, 0.8 + 0.27 * len(rows)), dpi=110, layout="constrained")
    whole, banded = figure.subplots(1, 2, sharey=True)
    for place, key, title in (
        (whole, "tau", "Kendall's tau, all archs"),
        (banded, "banded", f"Kendall's tau, within {found.bands} bands of MACs"),
    ):
        for i, (name, row) in enumerate(rows.items()):
            one = row[key]
            colour = "tab:blue" if name in found.supernets else "0.6"
            place.plot([one.low, one.high], [i, i], color=colour)
            place.plot([one.value], [i], "o", color=colour)
        place.axvline(0, color="0.8", zorder=0)
        place.set_title(title, fontsize="medium")
        place.set_yticks(range(len(rows)), list(rows))
        place.set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(path)
