"""Cloud TPU slices: what types there are, which topologies each may have, and how many hosts.

Sources: the tables of types in the documentation of Cloud TPU and of GKE (2026), and xpk 1.16. What
xpk takes for a type is taken here, except where it has no table and so no compact topology: tpu7x
above 12288 cores.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from supernet_jax.errors import UserError, near


class TpuKind(NamedTuple):
    """One generation of TPU.

    Attributes:
        types: what names of its types begin with, as "v6e" of v6e-16; the first is ours, the last
            is that of gcloud.
        cores: what the number of a type counts, for each chip.
        topologies: those there are; of three dimensions, also all of multiples of 4.
        most: chips of the largest slice.
        gke: label of its nodes in GKE.
        machine: of GKE, for hosts of `host` chips; `{}` stands for their number.
        host: chips of a host.
        runtime: version of the software of queued resources; "" where there are none.
    """

    types: tuple[str, ...]
    cores: int
    topologies: tuple[str, ...]
    most: int
    gke: str
    machine: str
    host: int
    runtime: str


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # larger ones are of multiples of 4
KINDS = (
    TpuKind(
        ("v5e", "v5litepod"), 1, FLAT, 256, "tpu-v5-lite-podslice", "ct5lp-hightpu-{}t", 4,
        "v2-alpha-tpuv5-lite",
    ),
    TpuKind(("v5p",), 2, SMALL, 6144, "tpu-v5p-slice", "ct5p-hightpu-{}t", 4, "v2-alpha-tpuv5"),
    TpuKind(("v6e",), 1, FLAT, 256, "tpu-v6e-slice", "ct6e-standard-{}t", 4, "v2-alpha-tpuv6e"),
    TpuKind(("tpu7x",), 2, ("1x1x1", *SMALL), 9216, "tpu7x", "tpu7x-standard-{}t", 4, ""),
)  # fmt: skip


class TpuSlice(NamedTuple):
    """One slice: chips that are wired together.

    Attributes:
        kind: of TPU.
        accelerator: its type, as v6e-16.
        topology: how its chips are wired, as 4x4.
        chips: how many there are.
    """

    kind: TpuKind
    accelerator: str
    topology: str
    chips: int

    @property
    def hosts(self) -> int:
        """Machines of the slice, each with a process."""
        return max(1, self.chips // self.kind.host)

    @property
    def host_chips(self) -> int:
        """Chips of each host."""
        return min(self.chips, self.kind.host)

    @property
    def machine(self) -> str:
        """The machine type of its hosts in GKE."""
        return self.kind.machine.format(self.host_chips)


def tpu_slice(accelerator: str, topology: str = "") -> TpuSlice:
    """A slice by its type.

    Args:
        accelerator: type and size, as v6e-16 or v5p-8.
        topology: as 4x4 or 2x2x2; the most compact that there is where none is given.

    Raises:
        UserError: there is no such type, size or topology; the message lists those that fit.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d*)", accelerator)
    kinds = {name: kind for kind in KINDS for name in kind.types}
    named = kinds.get(match[1]) if match else None
    if match is None or named is None:
        listed = ", ".join(f"{kind.types[0]}-N" for kind in KINDS)
        known = [f"{kind.types[0]}-{4 * kind.cores}" for kind in KINDS]
        raise UserError(
            f"--accelerator is {accelerator!r}, which is none of {listed}{near(accelerator, known)}"
        )
    size = int(match[2])
    sizes = {math.prod(dims) for dims in _topologies(named)}
    if size % named.cores or size // named.cores not in sizes:
        allowed = sorted(named.cores * chips for chips in sizes)
        few = [n for n in allowed if n >= size][:3] + [n for n in allowed if n < size][-3:]
        counts = "chips" if named.cores == 1 else "cores, two a chip"
        raise UserError(
            f"--accelerator is {accelerator!r}, but there is no {match[1]} of {size} {counts}; the "
            f"nearest are {', '.join(f'{match[1]}-{n}' for n in sorted(few))}"
        )
    chips = size // named.cores
    fitting = [_spelt(dims) for dims in _topologies(named) if math.prod(dims) == chips]
    if topology and topology not in fitting:
        raise UserError(
            f"--topology is {topology!r}, but {accelerator} ({chips} chips) has "
            f"{' or '.join(fitting)}"
        )
    return TpuSlice(named, f"{named.types[0]}-{size}", topology or fitting[0], chips)


def _topologies(kind: TpuKind) -> Iterator[tuple[int, ...]]:
    """All topologies, of those of a size the most compact first."""
    yield from (tuple(map(int, text.split("x"))) for text in kind.topologies)
    if kind.topologies == FLAT:
        return
    edges = range(4, kind.most // 16 + 1, 4)
    cubes = [
        (a, b, c)
        for a, b in itertools.combinations_with_replacement(edges, 2)
        if a * b * b <= kind.most
        for c in range(b, kind.most // (a * b) + 1, 4)
    ]
    yield from sorted(cubes, key=lambda dims: (sum(dims), dims))


def _spelt(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))
