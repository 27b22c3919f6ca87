"""Packages that few need: they come with an extra, and are imported when something wants them."""

import importlib
import importlib.util
from types import ModuleType

from supernet_jax.errors import UserError, require


def package(name: str, *, extra: str, who: str, otherwise: str = "") -> ModuleType:
    """An optional package, imported.

    Args:
        name: as it is imported.
        extra: of this project, that installs it.
        who: needs it, as "the searcher bayesian".
        otherwise: what else one may do, as "choose another searcher".

    Raises:
        UserError: it is not installed, or does not load.
    """
    rest = f'"supernet_jax[{extra}]"' + (otherwise and f", or {otherwise}")
    found = importlib.util.find_spec(name)
    # A folder of that name, as wandb makes one where it runs, is taken for a package without files.
    is_there = found is not None and found.origin is not None
    require(is_there, f"{who} needs the package {name}: pip install {rest}")
    try:
        return importlib.import_module(name)
    except ImportError as error:  # of something that it needs
        text = " ".join(str(error).split())
        raise UserError(
            f"the package {name} does not load ({text}): pip install --upgrade {rest}"
        ) from error
