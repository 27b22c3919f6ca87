"""What a run is, how far it is, and what could still be done with it."""

import datetime
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from supernet_jax.errors import UserError
from supernet_jax.experiment.config import Config
from supernet_jax.reporting import metrics_history, run_results, tolerant_json
from supernet_jax.reporting.metrics_history import History, Times
from supernet_jax.reporting.run_results import Front, Network, Pair, Subnet
from supernet_jax.reporting.tolerant_json import Broken, mapping, number
from supernet_jax.storage import checkpoint, files
from supernet_jax.tasks import Metric


class Facts(NamedTuple):
    """All that is read of a run folder.

    Attributes:
        folder: of the run.
        config: its `config.json`.
        meta: of the last checkpoint; empty where there is none.
        metric: by which subnets are compared.
        checkpoint: its step, or None.
        history: what training wrote.
        times: when.
        evaluated: subnets, of all splits and checkpoints.
        search: the last one, or None.
        races: those that finished.
        pairs: of `fidelity.json`.
        networks: extracted ones.
        broken: what could not be read.
    """

    folder: pathlib.Path
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    metric: Metric
    checkpoint: int | None
    history: History
    times: Times
    evaluated: list[Subnet]
    search: Front | None
    races: list[Front]
    pairs: list[Pair]
    networks: list[Network]
    broken: list[Broken]

    @property
    def done(self) -> int:
        """Steps that were trained, as far as metrics and checkpoints know."""
        last = int(self.history.steps[-1]) if self.history.steps.size else 0
        return max(last, self.checkpoint or 0)

    @property
    def planned(self) -> int | None:
        """Steps that the configuration asks for."""
        steps = number(mapping(self.config.get("train")).get("steps"))
        return None if steps is None else int(steps)


def gather(folder: pathlib.Path) -> Facts:
    """Reads a run folder.

    Raises:
        UserError: it is none.
    """
    described = _config(folder)
    meta, step, bad = _checkpoint(folder / "checkpoints")
    metric = run_results.metric_of(meta, tolerant_json.read(folder / "search.json")[0])
    metrics = metrics_history.read(folder / "metrics.jsonl", metric)
    times = metrics_history.read_times(folder / "times.jsonl")
    evaluated, bad_evaluations = run_results.evaluations(folder / "evaluations.jsonl", metric)
    search, bad_search = run_results.search(folder / "search.json", metric)
    races, bad_races = run_results.races(folder / "races", metric)
    pairs, bad_pairs = run_results.fidelity(folder / "fidelity.json")
    networks, bad_networks = run_results.networks(folder)
    maybe = [bad, metrics.broken, times.broken, bad_evaluations, bad_search, bad_pairs]
    broken = [one for one in (*maybe, *bad_races, *bad_networks) if one is not None]
    return Facts(
        folder=folder,
        config=described,
        meta=meta,
        metric=metric,
        checkpoint=step,
        history=metrics,
        times=times,
        evaluated=evaluated,
        search=search,
        races=races,
        pairs=pairs,
        networks=networks,
        broken=broken,
    )


def _config(folder: pathlib.Path) -> Mapping[str, Any]:
    if not files.is_folder(folder):
        raise UserError(f"there is no run folder {folder}; `supernet train` makes one")
    path = folder / "config.json"
    value, broken = tolerant_json.read(path)
    if broken is not None:
        raise UserError(f"{path} {broken.why}; it must be that of a run")
    if value is None:
        raise UserError(f"{folder} is not a run folder: it has no config.json")
    if mapping(value).get("type") != Config.__name__:
        raise UserError(f"{path} is not that of a run; give a folder that `supernet train` made")
    known: Mapping[str, Any] = value
    return known


def _checkpoint(folder: pathlib.Path) -> tuple[Mapping[str, Any], int | None, Broken | None]:
    """What the last checkpoint says, and its step."""
    try:
        steps = checkpoint.steps(folder) if files.is_folder(folder) else ()
    except OSError as error:
        return {}, None, Broken("checkpoints", 1, 0, str(files.unreadable(folder, error)))
    if not steps:
        return {}, None, None
    try:
        return mapping(checkpoint.read_meta(folder)), steps[-1], None
    except UserError as error:
        return {}, steps[-1], Broken("checkpoints", 1, 0, str(error))


class Row(NamedTuple):
    """One line of the header's table."""

    name: str
    value: str


def rows(facts: Facts) -> list[Row]:
    """What the run is, line by line."""
    c = facts.config
    data, train = mapping(c.get("data")), mapping(c.get("train"))
    space = mapping(facts.meta.get("space"))
    held = data.get("held_out", "?")
    out = [
        Row("space", _part(c.get("space"), space.get("name"))),
        Row("data", f"{data.get('name', '?')} (fingerprint {facts.meta.get('data', 'unknown')})"),
        Row(
            "held out",
            f"{held} of the training {facts.metric.examples}, split seed "
            f"{data.get('split_seed', '?')}",
        ),
        Row("sampler", _part(c.get("sampler"))),
        Row("loss", _part(c.get("loss"))),
        *[Row(part, _part(c[part])) for part in ("teacher", "task") if c.get(part) is not None],
        Row("optimizer", _part(c.get("optimizer"))),
        Row("training", _settings(train, ("steps", "batch", "seed", "dtype", "arch_shards"))),
    ]
    last = facts.times.starts[-1] if facts.times.starts else {}
    device = last.get("device", "not recorded")
    many = f"{last.get('devices', facts.meta.get('devices', '?'))} device(s)"
    out.append(Row("machine", f"{last.get('processor', '')} {device}, {many}".strip()))
    names = ("supernet_jax", "jax", "jaxlib", "python")
    versions = {name: last[name] for name in names if name in last}
    versions = versions or {"jax": facts.meta.get("jax", "not recorded")}
    out.append(Row("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    out.append(Row("trained", _when(facts)))
    return out


def _part(value: Any, name: object = None) -> str:
    """A part of a configuration in a line."""
    part = mapping(value)
    shown = _settings(part, [key for key in part if key != "type"])
    kind = str(part.get("type", "?"))
    called = f"{name} ({kind})" if name is not None else kind
    return f"{called}: {shown}" if shown else called


def _settings(part: Mapping[str, Any], names: Any) -> str:
    return ", ".join(f"{name} {_plain(part[name])}" for name in names if name in part)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else files.dumps(value)


def _when(facts: Facts) -> str:
    times = facts.times
    if times.first is None or times.last is None:
        return "when is not recorded"
    parts = "" if len(times.starts) < 2 else f", in {len(times.starts)} parts"
    return f"{moment(times.first)} to {moment(times.last)}{parts}"


def moment(seconds: float) -> str:
    """A time, to the minute, UTC."""
    try:
        at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return "an impossible time"
    return f"{at:%Y-%m-%d %H:%M} UTC"


class Missing(NamedTuple):
    """Something that the folder does not have yet, and the command that makes it."""

    what: str
    command: str


def missing(facts: Facts) -> list[Missing]:
    """What could still be done, in the order in which one would."""
    run = shlex.quote(str(facts.folder))
    out = []
    planned = facts.planned
    if planned is not None and facts.done < planned:
        what = "no step yet" if not facts.done else f"{planned - facts.done:,} steps to go"
        out.append(Missing(what, f"supernet train CONFIG --out {run}"))
    if facts.checkpoint is None:
        return [*out, Missing("no checkpoint yet: nothing can be evaluated", "")]
    if facts.search is None:
        out.append(Missing("no search yet", f"supernet search {run}"))
    elif not any(one.split == "test" for one in facts.evaluated):
        what = "the front has not been evaluated on the test split"
        out.append(Missing(what, f"supernet evaluate {run} --front --split test"))
    if not facts.networks:
        out.append(
            Missing("no extracted network", f"supernet extract {run} --arch front:0 --out NETWORK")
        )
    return out
