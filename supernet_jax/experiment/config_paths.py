"""Paths in a configuration, made absolute: a run is opened from other folders than its own.

A field of a part says that it is a path: `dataclasses.field(metadata={"path": True})`.
"""

import dataclasses
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.experiment.config import LIBRARY
from supernet_jax.storage.paths import expanded

PATHS = {  # which fields are paths, by the type of a part; those of `Data` are below
    "Train": ["teacher", "teacher_file"],
    **{
        name: [field.name for field in dataclasses.fields(kind) if field.metadata.get("path")]
        for name, kind in LIBRARY.items()
        if name != "Train"
    },
}


def with_absolute_paths(value: Any) -> Any:
    """A configuration as JSON, with its relative paths as they are from the current folder.

    Args:
        value: what `typed_json.to_json` gave, or what a run's `config.json` holds.
    """
    if isinstance(value, list):
        return [with_absolute_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: with_absolute_paths(item) for key, item in value.items()}
    for name in PATHS.get(str(value.get("type")), ()):
        if isinstance(made.get(name), str) and made[name]:
            made[name] = _expanded(made[name])
    return made | _of_data(made) if value.get("type") == "Data" else made


def _of_data(value: dict[str, Any]) -> dict[str, str]:
    """Where images lie; a relative path in the name starts at `data_dir`, if there is one."""
    name, folder = value.get("name"), value.get("data_dir")
    if isinstance(folder, str):
        return {"data_dir": _expanded(folder)}
    kind, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    return (
        {"name": f"{kind}:{_expanded(path)}"} if kind in ("folder", "npz", "text") and path else {}
    )


def _expanded(path: str) -> str:
    try:
        return str(expanded(path).absolute())
    except UserError:  # of a user who is not there, which is said where it is read
        return path
