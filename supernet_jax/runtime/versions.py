"""Versions of other packages that do not fit together, reported before one of them fails."""

import functools
import importlib.metadata
import operator
import re

from supernet_jax.errors import UserError

# Whose wishes are looked at, beside this package's own: who installs one of them by itself is
# not asked. Of theirs only those about the packages of NAMES count.
OTHERS = ("jax", "flax", "optax", "orbax-checkpoint", "chex")
NAMES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "tensorstore")
COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
REQUIREMENT = re.compile(r"Requires-Dist: *([\w.-]+) *(?:\[[^]]*\])? *\(?([^;()]*)\)? *")


@functools.cache
def check() -> None:
    """Makes sure that the installed versions fit together, by what the packages say they need.

    What is needed under a condition (a version of Python, an extra), or is not installed, is not
    looked at: the former is pip's to know, the latter is named by whatever imports it.

    Raises:
        UserError: two of them do not; the message says which, and what to install.
    """
    _check("supernet_jax", None)
    for name in OTHERS:
        _check(name, NAMES)


def within(version: str, wanted: str) -> bool:
    """Whether a version is within bounds, as `>=0.10.1,<=0.10.2`, by its numbers alone; bounds of
    another form, as `~=1.2` or `==1.*`, hold.
    """
    bounds = re.findall(r"(>=|<=|==|!=|(?<![~=])>|<)([\w.!+]+)(?=,|$)", wanted)
    return all(COMPARE[how](*_numbers(version, bound)) for how, bound in bounds)


def _check(package: str, names: tuple[str, ...] | None) -> None:
    """Of what one package needs; with `names`, of these alone."""
    metadata = _metadata(package)
    for line in metadata.splitlines():
        found = REQUIREMENT.fullmatch(line)
        if found is None or (names is not None and found[1] not in names):
            continue
        name, wanted = found[1], found[2].replace(" ", "")
        version = _version(_metadata(name))
        if version and not within(version, wanted):
            raise UserError(
                f"{package} {_version(metadata)} needs {name}{wanted}, but {name} {version} is "
                f'installed; install another one: pip install "{name}{wanted}"'
            )


@functools.cache
def _metadata(package: str) -> str:
    """The head of what is known of an installed package, "" of one that is not there.

    As text: parsing it as an e-mail, as `importlib.metadata.version` does, takes ten times as long.
    """
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    return text.partition("\n\n")[0]


def _version(metadata: str) -> str:
    found = re.search(r"^Version: *(\S+)", metadata, re.M)
    return found[1] if found else ""


def _numbers(*versions: str) -> list[tuple[int, ...]]:
    """The numbers of versions, as many of each: (0, 12, 7) of 0.12.7rc1."""
    found = [re.findall(r"\d+", re.split(r"[a-z+]", version)[0]) for version in versions]
    longest = max(map(len, found))
    return [tuple(map(int, [*numbers, *["0"] * (longest - len(numbers))])) for numbers in found]
