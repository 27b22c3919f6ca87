"""Latency tables: how long each kind of block takes on one machine.

A *kind* is what decides how long a block runs by itself: its module, its sizes and the shapes of
its inputs. Blocks and archs share kinds, so a few hundred of them make up every network of a space.
A table holds the milliseconds of each, where they were measured, and how well their sum predicts
whole networks. `supernet latency` writes such tables; `costs.latency` reads archs' costs off them.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from supernet_jax.elastic import elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.elastic_block import Spec
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.nn import block_shapes
from supernet_jax.nn.block_shapes import BlockShapes
from supernet_jax.storage import files
from supernet_jax.storage.typed_json import parse
from supernet_jax.tasks.task import Size

FORMAT, VERSION = "supernet_jax latency", 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long one program takes.

    Attributes:
        ms: median over the rounds, milliseconds; of a block without `overhead`.
        low: lower quartile of the rounds.
        high: upper quartile.
        overhead: milliseconds that were subtracted, those of calling a program that does nothing;
            0 for a whole network.
        rounds: how many there were.
    """

    ms: float
    low: float
    high: float
    overhead: float
    rounds: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) and v >= 0 for v in (self.ms, self.overhead)):
            raise ValueError(f"{self.ms} ms with an overhead of {self.overhead} ms is no latency")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """All that latencies depend on besides the network; a table has one.

    Attributes:
        space: name of the space.
        fingerprint: of its sizes, see `space_identity.describe_space`.
        batch: images per call.
        dtype: of weights and activations.
        engine: what runs the networks: "jit", or another runtime and its version.
        kernels: "native" where the compiled ones of `runtime.native` are used, else "xla". This
            and what follows of JAX is empty where another runtime runs.
        processor, cores, system: of the machine.
        backend, device: kind of the device, as JAX names it.
        jax, jaxlib: versions.
        flags: `XLA_FLAGS`.
    """

    space: str
    fingerprint: str
    batch: int
    dtype: str
    engine: str
    kernels: str
    processor: str
    cores: int
    system: str
    backend: str
    device: str
    jax: str
    jaxlib: str
    flags: str


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How blocks add up to networks: `constant + scale * sum`, and how well that does.

    Errors are relative to the measured network, over archs that nothing was fitted on.

    Attributes:
        constant: milliseconds of a network beside its blocks.
        scale: of the sum.
        resolutions: of the archs; so it is called in the files.
        fitted_on: number of archs.
        checked_on: number of other archs; of an adapted table the same, each by others.
        median_error: of the calibrated sum.
        largest_error: likewise.
        plain_median_error: of the sum as it is.
        plain_largest_error: likewise.
        spearman: rank correlation of sums and networks; NaN is written as 0.
        kendall: likewise.
        spread: median over the networks of the distance of their quartiles, relative to their
            median: what of the errors may be noise.
    """

    constant: float
    scale: float
    resolutions: tuple[object, ...]
    fitted_on: int
    checked_on: int
    median_error: float
    largest_error: float
    plain_median_error: float
    plain_largest_error: float
    spearman: float
    kendall: float
    spread: float

    def __post_init__(self) -> None:
        if not (self.constant >= 0 and self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"{self.constant} ms + {self.scale} x sum cannot be a calibration")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How milliseconds that are computed agree with measured ones.

    Attributes:
        median_error: median of the absolute differences, relative to what was measured.
        kendall: rank correlation; 0 where either is the same for all.
    """

    median_error: float
    kendall: float


@dataclasses.dataclass(frozen=True)
class Correction:
    """What further whole networks say about the kinds of block; `latency_correction` learns it.

    Everything in it follows from the timings in the table. Agreements are of networks that nothing
    was learnt from: those of a fold, by the networks of the other folds.

    Attributes:
        learnt_on: the networks, by their arch in JSON.
        earlier: the calibration that the table had before.
        before: agreement of the table as it was.
        rescaled: that of its sums with a constant and a scale that are fitted anew.
        corrected: that of the sums of corrected kinds, fitted likewise.
        applied: which of the three the table now goes by.
        factors: what the milliseconds of a kind are multiplied by, 1 where none is given.
        spread: median over the networks of the distance of their quartiles, relative to their
            median.
    """

    learnt_on: tuple[str, ...]
    earlier: Calibration
    before: Agreement
    rescaled: Agreement
    corrected: Agreement
    applied: Literal["before", "rescaled", "corrected"]
    factors: dict[str, float]
    spread: float

    def __post_init__(self) -> None:
        wrong = [f for f in self.factors.values() if not (f > 0 and math.isfinite(f))]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be a factor of milliseconds")


@dataclasses.dataclass(frozen=True)
class Table:
    """A latency table, as its file holds it.

    Attributes:
        format: "supernet_jax latency".
        version: of the format.
        conditions: where and how it was measured.
        kinds: of single blocks, by the name of their kind.
        networks: of whole networks, by their arch in JSON.
        calibration: None as long as measuring is not finished; of corrected sums where there is a
            correction.
        visits: milliseconds of each visit of networks that are being measured, by arch likewise.
        correction: of an adapted table; `kinds` are as they were measured.
    """

    format: str
    version: int
    conditions: Conditions
    kinds: dict[str, Timing]
    networks: dict[str, Timing]
    calibration: Calibration | None
    visits: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    correction: Correction | None = None


class Kind(NamedTuple):
    """A block of one size at one place of a network.

    Attributes:
        name: tells it from all others, as `Stem(c_in=3, c_out=16, stride=2) on 192x192x3`.
        module: `spec -> nn.Module`.
        spec: its sizes.
        inputs: shapes and dtypes of its inputs, without the batch.
        shapes: of its parameters and statistics.
    """

    name: str
    module: Callable[[Spec], nn.Module]
    spec: Spec
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    shapes: BlockShapes


def kinds(space: Space, sizes: Iterable[Size]) -> dict[str, Kind]:
    """Every kind of block that archs of these sizes consist of, by name."""
    return {kind.name: kind for r in sizes for _, _, kind in _each(space, r)}


def _each(space: Space, size: Size) -> Iterator[tuple[str, int, Kind]]:
    """Block, number of the spec, and its kind."""
    for name, shape in elastic_space.geometry(space, size).items():
        block = shape.block
        for spec in block.specs:
            i = space.blocks[name].specs.index(spec)
            ordinary = block.ordinary(spec)
            given = elastic_block.own_inputs(block, block.taken_out(spec), shape.inputs)
            own = tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in given)
            shapes = block_shapes.describe(ordinary.module, ordinary.spec, given)
            module, sizes = block_shapes.plain(ordinary.module, ordinary.spec)
            made = type(module(sizes)).__name__
            yield name, i, Kind(_named(made, sizes, own), module, sizes, own, shapes)


def _named(made: str, spec: Spec, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> str:
    values = dataclasses.asdict(spec).items()
    sizes = ", ".join(f"{k}={v}" for k, v in values if not isinstance(v, float))  # rates
    shapes = " and ".join("x".join(map(str, x.shape)) for x in inputs)
    return f"{made}({sizes}) on {shapes}"


def block_tables(
    space: Space, table: Table, *, sizes: Sequence[Size] | None = None
) -> dict[str, np.ndarray]:
    """Per block milliseconds `[sizes of the space, specs]`, float64; NaN for others.

    Where the table has a correction, the kinds are corrected.

    Args:
        space: whose blocks.
        table: with the latency of every kind.
        sizes: those that matter; None means all of the space.

    Raises:
        UserError: kinds are missing; the message names how many, one of them, and what to do.
    """
    wanted = space.sizes if sizes is None else tuple(sizes)
    found = {
        name: np.full((len(space.sizes), len(b.specs)), np.nan) for name, b in space.blocks.items()
    }
    missing: dict[str, Size] = {}
    factors = {} if table.correction is None else table.correction.factors
    for r in wanted:
        for name, i, kind in _each(space, r):
            if kind.name in table.kinds:
                found[name][space.sizes.index(r), i] = (
                    factors.get(kind.name, 1.0) * table.kinds[kind.name].ms
                )
            else:
                missing[kind.name] = r
    if missing:
        lacking = sorted(map(str, set(missing.values())))
        raise UserError(
            f"the latency table lacks {len(missing)} of the kinds of block of space {space.name} "
            f"for inputs of size {', '.join(lacking)}, as {next(iter(missing))}; measure them with "
            f"`supernet latency SPACE --batch {table.conditions.batch} --out FILE`, which adds "
            "what its file lacks"
        )
    return found


def counts(space: Space, archs: Arch, sizes: Iterable[Size]) -> dict[str, np.ndarray]:
    """How many blocks of each kind archs `[N]` of these sizes have, `[N]` by the name of the kind.

    Args:
        space: whose archs.
        archs: NumPy leaves.
        sizes: which they may have.
    """
    which = np.asarray(space.which_size(archs))
    found: dict[str, np.ndarray] = {}
    for size in sizes:
        here = which == space.sizes.index(size)
        for name, i, kind in _each(space, size):
            block = space.blocks[name]
            there = here & (np.asarray(block.index(archs)) == i)
            alive = 1 if block.alive is None else np.asarray(block.alive(archs)) > 0
            found[kind.name] = found.get(kind.name, 0) + (there * alive).astype(np.int64)
    return found


def read(path: pathlib.Path) -> Table:
    """Reads a table.

    Raises:
        UserError: there is none, or it is not what `supernet latency` wrote.
    """
    try:
        value = json.loads(files.content_of(path).decode("utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(
            f"there is no latency table {path}; `supernet latency SPACE --out {path}` measures one"
        ) from None
    except OSError as error:
        raise files.unreadable(path, error, kind="latency table") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(path, error, kind='latency table')}; measure one under another name"
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a latency table; `supernet latency SPACE --out FILE` writes such"
        )
    if value.get("version") != VERSION:
        raise UserError(
            f"{path} has version {value.get('version')}, this library reads {VERSION}; "
            "measure it again under another name"
        )
    table: Table = parse(Table, value, str(path))
    return table


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def sizes_of(known: Calibration) -> tuple[Size, ...]:
    """Of the archs that a calibration is of; JSON has lists in place of tuples."""
    return tuple(tuple(s) if isinstance(s, list) else s for s in known.resolutions)  # type: ignore


def differences(old: Conditions, new: Conditions) -> list[str]:
    """In what conditions differ, as `jax is '0.10.2' there and '0.11.0' now`."""
    before, now = dataclasses.asdict(old), dataclasses.asdict(new)
    return [f"{k} is {before[k]!r} there and {now[k]!r} now" for k in now if before[k] != now[k]]


def provenance(table: Table) -> str:
    """Where a finished table comes from, and how far it can be trusted, in one line."""
    said, known = place(table.conditions), table.calibration
    if known is None:
        return said
    learnt = table.correction
    if learnt is not None and learnt.applied != "before":
        said = f"{said}, adapted to {len(learnt.learnt_on)} whole networks"
    return (
        f"{said}; {known.checked_on} whole networks differ from it by {known.median_error:.1%} "
        f"(median), at most {known.largest_error:.1%}"
    )


def place(c: Conditions) -> str:
    """Where and how something was measured, in a few words."""
    device = c.processor if c.backend == "cpu" else c.device
    by, kernels = c.engine, ""
    if c.jax:
        by, kernels = f"{c.engine} of jax {c.jax}", f", {c.kernels} kernels"
    return f"batch {c.batch}, {c.dtype}, {by} on {c.backend} ({device}, {c.cores} cores{kernels})"
