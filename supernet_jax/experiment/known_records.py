"""Earlier evaluations of a run, for a search that begins with them."""

import json
import pathlib
from typing import Any

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.errors import LOG, UserError
from supernet_jax.experiment import results
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed
from supernet_jax.storage import files


def read(path: pathlib.Path, run: Run, split: str) -> list[dict[str, Any]]:
    """The records of a file that were measured under the conditions of a run, each network once.

    Args:
        path: `evaluations.jsonl` of a run, or a JSON file of records or of a search.
        run: whose subnets they are.
        split: that they must have been measured on.

    Raises:
        UserError: it cannot be read, or has no such records; which space or conditions it has
            instead is said.
    """
    conditions, space = results.conditions(run, split), run.space
    found = [record for record in _records(path) if isinstance(record, dict) and "arch" in record]
    of = {str(record.get("space")) for record in found}
    if found and space.name not in of:
        raise UserError(
            f"{path} has subnets of the space {', '.join(sorted(of))}, but this run's is "
            f"{space.name}; give evaluations of this run"
        )
    same = [one for one in found if {key: one.get(key) for key in conditions} == conditions]
    if not same:
        differing = [key for key in conditions if found and found[-1].get(key) != conditions[key]]
        why = f" (the last one differs in {', '.join(differing)})" if differing else ""
        raise UserError(
            f"{path} has no subnet that was evaluated under the same conditions{why}; give "
            f"evaluations of this run's last checkpoint on the {split} split"
        )
    metric = space.task.metric
    try:
        checked = [results.checked(record, metric) for record in same]
        archs = choices.stack([notation.from_notation(space.menu, one["arch"]) for one in checked])
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path} has a record that is damaged ({error}); leave it out") from error
    rows = choices.pack(elastic_space.normal(space, archs))
    return list({row.tobytes(): one for row, one in zip(rows, checked, strict=True)}.values())


def at_the_start(
    path: pathlib.Path, run: Run, split: str, state: pathlib.Path | None
) -> list[dict[str, Any]]:
    """The records as they were when a search began: the same however often it is gone on with.

    The file of a run grows meanwhile, not least by what the search itself evaluates. So a copy of
    the records is kept beside the state of the search.

    Args:
        path: as `read` takes it.
        run: whose subnets they are.
        split: that they must have been measured on.
        state: file of the search, or None if it is not kept.

    Raises:
        UserError: as `read` does; or the copy cannot be written.
    """
    if state is None:
        return read(path, run, split)
    copy = state.with_suffix(".json")
    if files.exists(state) and files.exists(copy):
        return read(copy, run, split)
    found = read(path, run, split)
    distributed.once(lambda: files.write_json(copy, found))
    return found


def _records(path: pathlib.Path) -> list[Any]:
    text = files.read_text(path, kind="file of evaluations")
    try:
        if path.suffix == ".jsonl" and (found := _lines(path, text)):
            return found
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(path, error, kind='file of evaluations')}; give a run's "
            "evaluations.jsonl, or JSON of `supernet evaluate --out`"
        ) from None
    if isinstance(value, dict):
        value = value.get("front")
    return value if isinstance(value, list) else []


def _lines(path: pathlib.Path, text: str) -> list[Any]:
    """The values of all lines that can be read; of the others it is said that there are some."""
    found, damaged = [], []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError):
            damaged.append(number)
    if found and damaged:
        LOG.warning(
            f"warning: {path} has damaged lines ({len(damaged)}, the first is line {damaged[0]}); "
            "they are left out"
        )
    return found
