"""Archs from what a user gave: a name, JSON, or a file."""

import json
import pathlib

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.notation import from_notation
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near
from supernet_jax.storage import files


def read_archs(space: Space, text: str) -> list[Arch]:
    """Reads archs from what a user gave: a name, JSON, or a file of JSON.

    Args:
        space: whose archs.
        text: `smallest`, `largest`, an arch in the notation of the space as JSON, or a path of a
            JSON file with one arch, a list of them, results that hold them under "arch", or the
            result of a search, whose front is taken.

    Raises:
        UserError: not readable as any of those; an arch that is not in the space.
    """
    if text in ("smallest", "largest"):
        pick = choices.smallest if text == "smallest" else choices.largest
        return [pick(space.menu)]
    if text.lstrip().startswith(("{", "[")):
        source, content = "the given JSON", text
    else:
        source, content = text, _read_text(text)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("front"), list):
        value = value["front"]
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UserError(f"{source} holds no arch")
    archs = []
    for i, item in enumerate(items):
        notation = item["arch"] if isinstance(item, dict) and "arch" in item else item
        try:
            archs.append(from_notation(space.menu, notation))
        except UserError as error:
            place = f"{source}, arch {i}" if len(items) > 1 else source
            raise UserError(f"{place}: {error} (space {space.name})") from None
    return archs


def _read_text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        there = [file.name for file in pathlib.Path(path).parent.glob("*.json")]
        hint = near(pathlib.Path(path).name, ["smallest", "largest", *there])
        raise UserError(
            f"there is no file {path}; give a JSON file, an arch as JSON, `smallest` or `largest`"
            f"{hint}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise files.unreadable(path, error, kind="JSON file") from error
