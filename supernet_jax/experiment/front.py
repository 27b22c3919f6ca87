"""The front that a search or a race found, from the cheapest to the best, and its picture."""

import html
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from supernet_jax.elastic import notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import arch_picture, parallel_axes
from supernet_jax.experiment import published as published_networks
from supernet_jax.experiment.run import Run
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import ImageClassification

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # whose import takes time that a training need not
    from matplotlib.figure import Figure

FILE = "search.json"  # of a run folder: the result of its last search
PICTURE = "front.png"  # of a run folder: its picture
MEASURED = "measured_ms"  # of a record: milliseconds on the machine that searched, see `measured`


class Entry(NamedTuple):
    """A subnet of a front.

    Attributes:
        arch: option indices, as strategies and extraction take them.
        value: the task's metric, as the share of images classified correctly in [0, 1].
        loss: mean, nats.
        macs: multiply-accumulates for one example.
        parameters: how many numbers it has.
        cost: the first that the search had a budget of: MACs, parameters, milliseconds or another.
        record: all of this as JSON values, the arch in the notation of the space.
    """

    arch: Arch
    value: float
    loss: float
    macs: int
    parameters: int
    cost: float
    record: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """The value, where the metric is the accuracy.

        Raises:
            UserError: it is another one.
        """
        if "accuracy" not in self.record:
            raise UserError("the subnets of this front have no accuracy; see value")
        return self.record["accuracy"]

    def __repr__(self) -> str:
        return (
            f"Entry(value={self.value}, macs={self.macs}, parameters={self.parameters}, "
            f"cost={self.cost}, arch={json.dumps(self.record['arch'])})"
        )


class Front(Sequence[Entry]):
    """The entries of a front, cheapest first; it does not change.

    Attributes:
        result: JSON values, as `search.json` or the file of a race holds them: "front" and "all"
            that was scored as records or as rows (cost, metric, further costs), and where they
            came from.
    """

    def __init__(self, space: Space, result: Mapping[str, Any], *, data: str = ""):
        """See above.

        Args:
            space: whose archs they are.
            result: see `result`.
            data: name of the dataset, which says whether published networks may stand beside it.

        Raises:
            UserError: it is no result of this space.
        """
        self.result, self._space, self._data = result, space, data
        self._cost = str(result.get("cost", "macs"))
        self._units = {
            str(one["cost"]): str(one["unit"])
            for one in result.get("budgets", [{"cost": self._cost, "unit": self._unit()}])
            if one["cost"] not in ("macs", "parameters")
        }
        self._metric = space.task.metric
        try:
            self._entries = tuple(self._entry(record) for record in result["front"])
        except (KeyError, TypeError) as error:
            raise UserError(f"not a result of a search: {error!r}") from None

    def _entry(self, record: Mapping[str, Any]) -> Entry:
        arch = notation.from_notation(self._space.menu, record["arch"])
        numbers = {name: record[name] for name in ("loss", "macs", "parameters")}
        return Entry(
            arch, record[self._metric.name], **numbers, cost=record[self._cost], record=record
        )

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, place: int | slice) -> Entry | tuple[Entry, ...]:
        return self._entries[place]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        return "\n".join([f"Front of {self._about()}", *lines])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in self._heads())
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
            for cells in self._rows()
        )
        about = html.escape(self._about())
        return f"<table><caption>Front of {about}</caption><tr>{heads}</tr>{rows}</table>"

    def table(self) -> list[tuple[str, ...]]:
        """Heads and rows, as people read them."""
        return [self._heads(), *self._rows()]

    def _about(self) -> str:
        subnets = self.result.get("evaluations", self.result.get("candidates"))
        return f"{self.result.get('space')}: {len(self)} of {subnets} subnets"

    def _heads(self) -> tuple[str, ...]:
        own = ["measured ms"] if self._is_measured() else []
        return ("", *self._units.values(), *own, "MACs", "parameters", self._metric.name)

    def _is_measured(self) -> bool:
        return any(MEASURED in entry.record for entry in self)

    def _unit(self) -> str:
        return str(self.result.get("unit", "MACs"))

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for i, entry in enumerate(self):
            others = [str(entry.record[name]) for name in self._units]  # whole: they can be bounds
            if self._is_measured():
                ms = entry.record.get(MEASURED)
                others.append("" if ms is None else f"{ms:.6g}")
            yield (
                *(str(i), *others, f"{entry.macs:,}", f"{entry.parameters:,}"),
                self._metric.shown(entry.value),
            )

    def tested(self, values: Mapping[int, float]) -> "Front":
        """The same front, whose entries have the metric on the test split too, by place."""
        records = [
            {**entry.record, **({f"test_{self._metric.name}": values[i]} if i in values else {})}
            for i, entry in enumerate(self)
        ]
        return Front(self._space, {**self.result, "front": records}, data=self._data)

    def save(self, path: pathlib.Path, picture: pathlib.Path) -> None:
        """Writes the result as JSON, and draws it as PNG; what is there is replaced.

        Raises:
            UserError: they cannot be written.
        """
        files.write_json(expanded(path), dict(self.result))
        figure = self.figure()
        files.write_bytes(expanded(picture), lambda file: figure.savefig(file, format="png"))

    def figure(self) -> "Figure":
        """The picture of the front, as `front.png` has it."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=self._size(), dpi=150, layout="constrained")
        self._draw(figure)
        return figure

    def plot(self, ax: "Axes | None" = None, *, published: bool = False) -> "Axes":
        """Draws all that was scored, and the front; entries with a test value get a second mark.

        The front of the random search beside it, if there was one, is thin and grey.

        Args:
            ax: Matplotlib axes to draw into; without, those of a new figure of `pyplot`, which
                has `plot_objectives` below them where there are more than two objectives.
            published: whether to draw published networks of ImageNet, too
                (`supernet_jax.experiment.published`).

        Returns:
            The axes, of cost and metric.

        Raises:
            UserError: published networks are wanted beside accuracies of other data, or costs
                that are not MACs.
        """
        if published:
            self._check_comparable()
        if ax is None:
            from matplotlib import pyplot  # which picks a window or a notebook

            figure = pyplot.figure(figsize=self._size(), layout="constrained")
            return self._draw(figure, published=published)
        points = [(cost, value) for cost, value in self._scored() if value is not None]
        metric = self._metric
        scale = 100 if metric.unit == "%" else 1
        ax.scatter(
            [cost for cost, _ in points],
            [scale * value for _, value in points],
            s=10,
            color="0.75",
            label="scored",
        )
        self._plot_random(ax, scale)
        ax.plot(
            [entry.cost for entry in self],
            [scale * entry.value for entry in self],
            "o-" if self._is_staircase() else "o",
            drawstyle="steps-post",
            color="tab:blue",
            markersize=4,
            label=f"front, {self.result.get('split', 'held-out')} {metric.examples}",
        )
        self._plot_tested(ax, scale)
        if published:
            published_networks.draw(ax, [(entry.macs, scale * entry.value) for entry in self])
        if max((cost for cost, _ in points), default=0) >= 1000:  # milliseconds need no prefix
            from matplotlib.ticker import EngFormatter

            ax.xaxis.set_major_formatter(EngFormatter())
        ax.set_xlabel(self._unit(), parse_math=False)
        ax.set_ylabel(_headed(metric.name, metric.unit), parse_math=False)
        subnets = self.result.get("evaluations", self.result.get("candidates"))
        ax.set_title(
            f"{self.result.get('space')}: {subnets} subnets, {self.result.get('searcher', 'race')}",
            parse_math=False,
        )
        ax.grid(alpha=0.3)
        ax.legend(
            loc="lower right" if metric.higher_is_better else "upper right",
            fontsize="x-small" if published else "medium",
        )
        return ax

    def _plot_random(self, ax: "Axes", scale: float) -> None:
        """The front of the random search beside this one, if there was one."""
        random = self.result.get("random")
        if not isinstance(random, Mapping):
            return
        name = self._metric.name
        beside = sorted((one[self._cost], scale * one[name]) for one in random["front"])
        ax.plot(
            [cost for cost, _ in beside],
            [value for _, value in beside],
            ".-" if self._is_staircase() else "x",
            drawstyle="steps-post",
            color="0.5",
            linewidth=0.8,
            markersize=3,
            label="front of random search",
        )

    def _plot_tested(self, ax: "Axes", scale: float) -> None:
        """The values on the test split, of entries that have one."""
        test = f"test_{self._metric.name}"
        tested = [entry for entry in self if test in entry.record]
        if tested:
            ax.plot(
                [entry.cost for entry in tested],
                [scale * entry.record[test] for entry in tested],
                "D",
                color="tab:orange",
                markersize=6,
                label=f"extracted, test {self._metric.examples}",
            )

    def plot_scores(self, ax: "Axes") -> None:
        """Draws a histogram of the metric of all that was scored, into Matplotlib axes."""
        scale = 100 if self._metric.unit == "%" else 1
        values = [scale * value for _, value in self._scored() if value is not None]
        ax.hist(values, bins=40, color="tab:blue")
        ax.set_xlabel(_headed(self._metric.name, self._metric.unit), parse_math=False)
        ax.set_ylabel("subnets")
        ax.set_title(f"{self.result.get('space')}: {len(values):,} subnets", parse_math=False)

    def draw(self, place: int = 0, ax: "Axes | None" = None) -> "Axes":
        """Draws one network of the front inside the largest: block by block, or its operations.

        Args:
            place: of the network in the front, 0 for the cheapest.
            ax: Matplotlib axes to draw into; without, those of a new figure of `pyplot`.

        Returns:
            The axes.

        Raises:
            UserError: there is no such place.
        """
        if not isinstance(place, int) or not -len(self) <= place < len(self):
            raise UserError(
                f"place is {place!r}, but the front has {len(self)} networks, from 0, the cheapest"
            )
        entry = self[place]
        if ax is None:
            from matplotlib import pyplot  # which picks a window or a notebook

            ax = pyplot.figure(figsize=(9.0, 2.8), layout="constrained").subplots()
        title = f"{self._metric.shown(entry.value)}, {entry.macs:,} MACs, {entry.parameters:,} "
        arch_picture.draw(ax, self._space, entry.arch, title=f"{title}parameters")
        return ax

    def _check_comparable(self) -> None:
        """Raises a `UserError` unless published networks may stand beside this front."""
        task = self._space.task
        classes = task.classes if isinstance(task, ImageClassification) else None
        if not published_networks.is_comparable(self._data, classes):
            raise UserError(
                f"published networks are of ImageNet's {published_networks.CLASSES:,} classes, but "
                f"this front is of {self._data or 'data that is not known'} with "
                f"{classes or 'no'}; plot it without published=True"
            )
        if self._cost != "macs":
            raise UserError(
                f"published networks are drawn over MACs, but this front is over {self._cost}; "
                "plot it without published=True"
            )

    def plot_objectives(self, ax: "Axes") -> None:
        """Draws the front over all its objectives as parallel coordinates, better at the top.

        Args:
            ax: Matplotlib axes to draw into.

        Raises:
            UserError: it has fewer than two objectives.
        """
        wanted = [(str(one["name"]), one["direction"] == "max") for one in self._objectives]
        if len(wanted) < 2:
            raise UserError(f"this front has {len(wanted)} objectives; axes need two or more")
        names = [name for name, _ in wanted]
        units = {"macs": "MACs", "parameters": "parameters", "loss": "nats", **self._units}
        units[self._metric.name] = self._metric.unit
        costs = [str(one["cost"]) for one in self.result.get("budgets", ())] or ["macs"]
        rows = [
            dict(zip([costs[0], self._metric.name, *costs[1:]], one, strict=True))
            for one in self.result["all"]
            if one[1] is not None
        ]
        parallel_axes.draw(
            ax,
            [parallel_axes.Axis(_headed(name, units.get(name, "")), more) for name, more in wanted],
            self._values([entry.record for entry in self], names),
            self._values(rows, names),
        )

    def _values(self, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
        """Values as people read them, `[records, names]`; NaN where a record has none."""
        percent = {self._metric.name: 100 if self._metric.unit == "%" else 1}
        values = [[percent.get(n, 1) * one.get(n, math.nan) for n in names] for one in records]
        return np.asarray(values, np.float64).reshape(len(records), len(names))

    @property
    def _objectives(self) -> Sequence[Mapping[str, str]]:
        return self.result.get("objectives", ())

    def _is_staircase(self) -> bool:
        """Whether the front weighs the metric against the first cost, and nothing else."""
        better = "max" if self._metric.higher_is_better else "min"
        wanted = {one["name"]: one["direction"] for one in self._objectives}
        return wanted in ({}, {self._metric.name: better, self._cost: "min"})

    def _size(self) -> tuple[float, float]:
        """Of the whole picture, inches."""
        return (7.0, 8.0 if len(self._objectives) > 2 else 4.5)

    def _draw(self, figure: "Figure", *, published: bool = False) -> "Axes":
        """The whole picture; returns its first axes."""
        if len(self._objectives) <= 2:
            return self.plot(figure.subplots(), published=published)
        first, below = figure.subplots(2, height_ratios=(4, 3))
        self.plot_objectives(below)
        return self.plot(first, published=published)

    def _scored(self) -> list[tuple[float, float | None]]:
        """Cost and metric of all; None of those whose loss is not a number."""
        name = self._metric.name
        return [
            (one[self._cost], None if one["loss"] is None else one[name])
            if isinstance(one, Mapping)
            else (one[0], one[1])
            for one in self.result["all"]
        ]


def _headed(name: str, unit: str) -> str:
    """A name with its unit."""
    return unit if name.lower() == unit.lower() else f"{name}, {unit}" if unit else name


def compared(result: Mapping[str, Any]) -> str:
    """How a search did beside a random one, in a sentence; "" if there was none."""
    random = result.get("random")
    if not isinstance(random, Mapping):
        return ""
    own, other = result["hypervolume"], random["hypervolume"]
    shares = f"{own:.1%} of the volume that both span, {random['evaluations']} random subnets "
    verdict = "" if own > other else ": the searcher did not beat random search"
    return f"{result['searcher']} dominates {shares}{other:.1%}{verdict}"


def last(run: Run) -> Front:
    """The front of the run's last search.

    Raises:
        UserError: there was none, or its file cannot be read.
    """
    path, hint = run.folder / FILE, f"`supernet search {run.folder}` writes one"
    if not files.exists(path):
        raise UserError(f"{run.folder} has no search yet; run `supernet search {run.folder}`")
    text = files.read_text(path, kind="result of a search")
    try:
        result = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(path, error, kind='result of a search')}; {hint}"
        ) from None
    try:
        found = Front(run.space, result, data=run.experiment.dataset.name)
        if not found:
            raise UserError("its front is empty")
        return found
    except (UserError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} is not the result of a search of this run ({error}); {hint}"
        ) from None
