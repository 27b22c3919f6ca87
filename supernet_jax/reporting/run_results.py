"""What a run folder knows of single subnets: evaluations, searches, races, networks, rankings."""

import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from supernet_jax.errors import UserError
from supernet_jax.networks import manifest
from supernet_jax.reporting import search_goal
from supernet_jax.reporting.search_goal import MEASURED, Goal, measured
from supernet_jax.reporting.tolerant_json import (
    Broken,
    Lines,
    mapping,
    notation,
    number,
    numbers,
    read,
    share,
)
from supernet_jax.storage import files
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import Metric

ACCURACY = Metric("accuracy", "%", examples="images")  # of runs that do not say theirs
NETWORKS = 200  # extracted networks that are shown
FOLDERS = 5000  # that are looked into around a run
DEPTH = 3  # of folders beside a run, as networks/front/NETWORK


class Subnet(NamedTuple):
    """One subnet, as a file tells of it.

    Attributes:
        arch: as JSON.
        macs: multiply-accumulates.
        value: of the run's metric, as an accuracy in [0, 1].
        split: of the images that it was measured on.
        images: how many; None where it is not said.
        parameters: how many, or None.
        calibration: batches and images in each, or "".
        checkpoint: step, or None.
        values: costs and objectives of a search by name, as far as they are known.
        place: in the list of its file, from 0.
        test: the metric on the test split that a front says beside its own, or None.
        seen: images that a raced subnet saw, or None.
        conditions: what results must share to be compared.
    """

    arch: str
    macs: float
    value: float
    split: str
    images: float | None
    parameters: float | None
    calibration: str
    checkpoint: float | None
    values: Mapping[str, float]
    place: int
    test: float | None
    seen: float | None
    conditions: str


class Front(NamedTuple):
    """Chosen subnets, and all that were scored for them.

    Attributes:
        source: the file.
        chosen: as the file sorts them, cheapest first.
        others: what else was scored, if the file names it.
        said: sentences about it.
        goal: its budgets and objectives.
        scored: costs and metric of all that a search scored, by name.
        random: the front of the random search beside it.
    """

    source: str
    chosen: list[Subnet]
    others: list[Subnet]
    said: list[str]
    goal: Goal
    scored: list[dict[str, float]]
    random: list[Subnet]


class Pair(NamedTuple):
    """A subnet's accuracy with inherited weights and trained alone; see `docs/report.md`."""

    arch: str
    macs: float | None
    inherited: float
    alone: float
    seed: str
    method: str


class Network(NamedTuple):
    """An extracted network: its folder, and what `network.json` says."""

    folder: pathlib.Path
    description: Mapping[str, Any]


def evaluations(path: pathlib.Path, metric: Metric) -> tuple[list[Subnet], Broken | None]:
    """Subnets of `evaluations.jsonl`; of an arch under equal conditions the last line counts."""
    lines = Lines(path)
    found: dict[tuple[str, str], Subnet] = {}
    for line in lines:
        one = subnet(line, metric)
        if one is None:
            lines.note(f"no arch, MACs or {metric.name}")
        else:
            found[one.conditions, one.arch] = one
    return list(found.values()), lines.broken


def subnet(
    record: Any, metric: Metric, *, names: Iterable[str] = (), place: int = 0
) -> Subnet | None:
    """A record as `results.Scorer` writes them, or None if it is none.

    Args:
        record: any value.
        metric: that it needs to have.
        names: of further costs and objectives that it may have.
        place: of the record in its file.
    """
    record = mapping(record)
    costs, value = numbers(record, "macs"), measured(record.get(metric.name), metric)
    if costs is None or costs[0] < 0 or value is None or "arch" not in record:
        return None
    sizes = record.get("calibration")
    two = isinstance(sizes, list) and len(sizes) == 2 and all(number(n) is not None for n in sizes)
    calibration = f"{sizes[0]} x {sizes[1]} {metric.examples}" if two and sizes is not None else ""
    images, step = number(record.get("images")), number(record.get("checkpoint"))
    split = str(record.get("split", "?"))
    further = {name: number(record.get(name)) for name in ("latency", MEASURED, *names)}
    same = [str(record.get(k)) for k in ("split", "checkpoint", "data", "dtype")]
    return Subnet(
        arch=notation(record["arch"]),
        macs=costs[0],
        value=value,
        split=split,
        images=images,
        parameters=number(record.get("parameters")),
        calibration=calibration,
        checkpoint=step,
        values={name: value for name, value in further.items() if value is not None},
        place=place,
        test=measured(record.get(f"test_{metric.name}"), metric),
        seen=None,
        conditions=notation([*same, images, calibration]),
    )


def search(path: pathlib.Path, metric: Metric) -> tuple[Front | None, Broken | None]:
    """The result of the last search."""
    value, broken = read(path)
    if value is None:
        return None, broken
    result = mapping(value)
    goal = search_goal.goal(result, metric)
    chosen, bad = _subnets(result.get("front"), path.name, metric, goal.units)
    beside = mapping(result.get("random"))
    random, bad_random = _subnets(beside.get("front"), path.name, metric, goal.units)
    if bad is None and bad_random is not None and beside:
        bad = bad_random._replace(why=f"random: {bad_random.why}")
    said = (
        f"{_count(result.get('evaluations'))} subnets scored by {search_goal.searcher(result)} "
        f"search on {_count(result.get('images'))} {result.get('split', '?')} {metric.examples}."
    )
    sentences = [said, search_goal.wanted(goal)] if "objectives" in result else [said]
    if races := search_goal.raced(result, metric):
        sentences.append(races)
    front = Front(
        path.name,
        chosen,
        [],
        [*sentences, search_goal.compared(result), *search_goal.timed(result)],
        goal,
        search_goal.scored(result, metric, goal),
        random,
    )
    return front, bad


def races(folder: pathlib.Path, metric: Metric) -> tuple[list[Front], list[Broken]]:
    """The finished races of a run, by name."""
    fronts, broken = [], []
    for path in files.found(folder, "*.json"):
        value, bad = read(path)
        result = mapping(value)
        if bad is None:
            chosen, bad = _subnets(result.get("front"), path.name, metric)
            all_of_it = result.get("all")
            raced = [
                (one, number(mapping(record).get("images")))
                for record in (all_of_it if isinstance(all_of_it, list) else [])
                if (one := subnet(record, metric)) is not None
            ]
            full = number(mapping(next(iter(_list(result.get("front"))), None)).get("images"))
            others = [one._replace(seen=seen) for one, seen in raced if seen != full]
            seen, whole = (
                number(result.get("images_seen")),
                number(result.get("images_of_full_evaluation")),
            )
            spared = f", {seen / whole:.1%} of all evaluations" if seen and whole else ""
            said = f"{_count(result.get('candidates'))} subnets raced{spared}."
            goal = search_goal.goal({}, metric)
            fronts.append(Front(f"races/{path.name}", chosen, others, [said], goal, [], []))
        broken += [bad] if bad else []
    return fronts, broken


def fidelity(path: pathlib.Path) -> tuple[list[Pair], Broken | None]:
    """Pairs of `fidelity.json`, a list of objects."""
    value, broken = read(path)
    if value is None:
        return [], broken
    if not isinstance(value, list):
        return [], Broken(path.name, 1, 0, "not a list")
    pairs, bad = [], None
    for place, record in enumerate(value, 1):
        one = _pair(mapping(record))
        if one is not None:
            pairs.append(one)
            continue
        why = "arch, inherited and alone are needed, both accuracies in 0..1"
        bad = Broken(path.name, 1, place, why) if bad is None else bad._replace(times=bad.times + 1)
    return pairs, bad


def _pair(record: Mapping[str, Any]) -> Pair | None:
    inherited, alone = share(record.get("inherited")), share(record.get("alone"))
    if inherited is None or alone is None or "arch" not in record:
        return None
    seed, method = str(record.get("seed", 0)), str(record.get("method", "supernet"))
    arch, macs = notation(record["arch"]), number(record.get("macs"))
    return Pair(arch, macs, inherited, alone, seed, method)


def networks(run: pathlib.Path) -> tuple[list[Network], list[Broken]]:
    """Extracted networks: all below the run folder, and those nearby that name it as source."""
    home = run.resolve().parent
    # A listing in a bucket is of all below: not of what other runs hold.
    beside = home / "networks" if isinstance(run, Bucket) else home
    nearby = dict.fromkeys((beside, home.parent / "networks", pathlib.Path.cwd()))
    found: dict[pathlib.Path, Network] = {}
    broken: list[Broken] = []
    refused: list[OSError] = []
    for folder in _folders(run, depth=None, refused=refused):
        try:
            found[folder.resolve()] = Network(folder, manifest.read_description(folder))
        except UserError as error:
            why = str(error).removeprefix(f"{folder}/network.json ")
            broken.append(Broken(f"{folder.relative_to(run)}/network.json", 1, 0, why))
    for one in refused:
        place = os.path.relpath(one.filename or run, run)
        why = str(files.unreadable(place, one, kind="folder")).removeprefix(f"{place} ")
        broken.append(Broken(place, 1, 0, why))
    for folder in itertools.chain(*(_folders(parent, depth=DEPTH) for parent in nearby)):
        if folder.resolve() in found:
            continue
        try:
            description = manifest.read_description(folder)
        except UserError:  # nobody says that it is of this run
            continue
        if _names(description, run):
            found[folder.resolve()] = Network(folder, description)
    return list(found.values())[:NETWORKS], broken


def _folders(
    parent: pathlib.Path, *, depth: int | None, refused: list[OSError] | None = None
) -> Iterator[pathlib.Path]:
    """Folders below one that hold a `network.json`, by name; hidden ones are unfinished.

    Args:
        parent: where to begin.
        depth: levels that are gone down, not into other runs; None goes down all the way.
        refused: what goes wrong with folders that cannot be looked into is added.
    """
    walk = files.walk(parent, onerror=None if refused is None else refused.append)
    for path, folders, names in itertools.islice(walk, FOLDERS):
        is_run = "config.json" in names
        level = len(path.relative_to(parent).parts)
        if level and "network.json" in names:
            yield path
            folders.clear()
        if depth is not None and (level >= depth or (level and is_run)):
            folders.clear()
        left_out = {"checkpoints"} if is_run else set()  # many files, and none of them a network
        folders[:] = sorted(f for f in folders if f not in left_out and not f.startswith("."))


def _names(description: Mapping[str, Any], run: pathlib.Path) -> bool:
    source = description["source"].get("run")
    try:
        return isinstance(source, str) and expanded(source).resolve() == run.resolve()
    except (UserError, OSError, ValueError, RuntimeError):  # no path, or links in a circle
        return False


def _subnets(
    records: Any, file: str, metric: Metric, names: Iterable[str] = ()
) -> tuple[list[Subnet], Broken | None]:
    if not isinstance(records, list):
        return [], Broken(file, 1, 0, "no list called front")
    found = [subnet(one, metric, names=names, place=i) for i, one in enumerate(records)]
    bad = [place for place, one in enumerate(found, 1) if one is None]
    known = [one for one in found if one is not None]
    why = f"no arch, MACs or {metric.name}"
    return known, Broken(file, len(bad), bad[0], f"front: {why}") if bad else None


def metric_of(meta: Mapping[str, Any], search: Any) -> Metric:
    """The metric of a run, as its last search or its checkpoint says; older ones are of images.

    Args:
        meta: of the last checkpoint.
        search: content of `search.json`.
    """
    for said in (mapping(search).get("metric"), meta.get("metric")):
        known = mapping(said)
        name, unit, higher = (known.get(key) for key in ("name", "unit", "higher_is_better"))
        if isinstance(name, str) and isinstance(unit, str) and isinstance(higher, bool):
            examples = known.get("examples")
            if not isinstance(examples, str):  # older than the word
                examples = ACCURACY.examples if name == ACCURACY.name else "examples"
            return Metric(name, unit, higher, examples=examples)
    return ACCURACY


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> str:
    known = number(value)
    return "?" if known is None else f"{known:,.0f}"
