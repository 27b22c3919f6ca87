"""Networks of a front, timed on this machine beside what a latency table says of them.

The visits of each network lie in `searches/` of the run folder, in a file for each machine and
batch, from which an interrupted measurement goes on; a round of visits is lost at most.
"""

import dataclasses
import hashlib
import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from supernet_jax.elastic import notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.latency_table import Conditions, Table
from supernet_jax.experiment import latency, latency_correction
from supernet_jax.experiment.budgets import LATENCY, Goal
from supernet_jax.experiment.front import MEASURED
from supernet_jax.experiment.run import Run
from supernet_jax.networks import timing
from supernet_jax.runtime import progress
from supernet_jax.storage import files
from supernet_jax.storage.typed_json import parse


@dataclasses.dataclass(frozen=True)
class Visits:
    """What a file holds.

    Attributes:
        conditions: under which all of it was measured.
        visits: milliseconds of each visit, by arch in JSON.
    """

    conditions: Conditions
    visits: dict[str, tuple[float, ...]]


def table_of(wanted: Goal) -> Table:
    """The latency table among the costs of a search.

    Raises:
        UserError: there is none, or what its networks run in is not there.
    """
    for one in wanted.priced:
        if one.table is not None:
            latency.engine_of(one.table)
            return one.table
    raise UserError(
        "--measure compares networks with a latency table, and this search has none; add --cost "
        f"{LATENCY}:FILE"
    )


def add(
    run: Run, result: dict[str, Any], table: Table, *, keep: bool, rounds: int = timing.ROUNDS
) -> None:
    """Measures the front of a search, and adds to its result how well the table agrees with it.

    Args:
        run: that was searched.
        result: as `search.json` holds it.
        table: whose batch and engine are used.
        keep: whether visits are kept in the run's folder, and those that are there are used.
        rounds: how often each network is visited.

    Raises:
        UserError: the file of the visits cannot be read or written.
    """
    space, front = run.space, result["front"]
    archs = [notation.from_notation(space.menu, record["arch"]) for record in front]
    names = [timing.notation(space, arch) for arch in archs]
    engine, batch = latency.engine_of(table), table.conditions.batch
    here = timing.conditions(space, batch=batch, engine=engine)
    path = run.folder / "searches" / f"measured-{_digest(here)}.json"
    visits = _read(path) if keep else {}
    done = sum(len(visits.get(name, ())) >= rounds for name in names)
    with progress.bar("measuring", len(archs), done=done, unit="network") as advance:
        for more in timing.visits(
            space,
            archs,
            batch=batch,
            rounds=rounds,
            known=visits,
            engine=engine,
            on_ready=advance,
        ):
            visits = timing.joined(visits, more)
            if keep:
                files.make_folder(path.parent)
                files.write_json(path, dataclasses.asdict(Visits(here, visits)))
    timings = [timing.of_visits(visits[name]) for name in names]
    times = [one.ms for one in timings]
    agreement = latency_correction.agreement([record[LATENCY] for record in front], times)
    where = ("space", "fingerprint")  # a table serves other spaces that have its blocks, too
    same = {name: getattr(here, name) for name in where}
    there = dataclasses.replace(table.conditions, **same)
    result["front"] = [{**record, MEASURED: ms} for record, ms in zip(front, times, strict=True)]
    result["measured"] = {
        "where": latency_table.place(here),
        "rounds": rounds,
        "networks": len(times),
        "median_error": agreement.median_error,
        "kendall": agreement.kendall if len(times) > 1 else None,
        "spread": statistics.median((t.high - t.low) / t.ms for t in timings),
        "elsewhere": latency_table.differences(there, here),
    }


def _digest(here: Conditions) -> str:
    text = json.dumps(dataclasses.asdict(here), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: pathlib.Path) -> dict[str, tuple[float, ...]]:
    if not files.exists(path):
        return {}
    found: Visits = parse(Visits, files.read_json(path), str(path))
    return found.visits


def said(result: Mapping[str, Any]) -> list[str]:
    """How a table and measured networks agree, in sentences; none where nothing was measured."""
    found = result.get("measured")
    if not isinstance(found, Mapping):
        return []
    tau = found["kendall"]
    ranked = "" if tau is None else f", Kendall's tau is {tau:.3f}"
    lines = [
        f"table against measurement: the {found['networks']} networks of the front differ from the "
        f"table by {found['median_error']:.1%} (median){ranked}; their own timings spread by "
        f"{found['spread']:.1%}",
        f"measured: {found['where']}",
    ]
    if found["elsewhere"]:
        lines.append(
            "note: the table was measured under other conditions than these networks "
            f"({'; '.join(found['elsewhere'])})"
        )
    return lines
