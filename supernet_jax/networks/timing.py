"""Measuring latency: blocks by themselves, whole networks, how well blocks predict networks.

Everything runs as an extracted network runs: at its own sizes, for inference, with calibrated
statistics, jitted or by another engine. Weights are random, which changes no time.

Machines are noisy, so programs are timed in rounds, a group of them in turn, each visited in every
round. What a visit gives is the fastest of a few calls after one that is thrown away, because other
jobs of a machine only ever make a call slower; the result is the median over the rounds. Calling a
program costs time too, on a CPU more than a small block does; a network pays it once and its blocks
not at all. So in every round the time of a program with as many arrays that does next to nothing is
subtracted. What then is left to the sum (that one call, what happens between blocks, fusion, caches
that are warmer or colder than in a network) is calibrated on a few networks and checked on others.
"""

import json
import math
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are imported when they are used: they take time at each start

from supernet_jax.elastic import choices, elastic_block, space_identity
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Choice
from supernet_jax.elastic.notation import to_notation
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import Cost
from supernet_jax.evaluation.latency_table import Calibration, Conditions, Kind, Table, Timing
from supernet_jax.networks import extract
from supernet_jax.networks.engine import JIT, Call, Engine
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import hardware, native
from supernet_jax.tasks import Size

# The more are timed in turn, the more alike are the moments at which they were; a kill loses them.
KINDS_AT_A_TIME, NETWORKS_AT_A_TIME = 128, 40
VISIT_SECONDS = 5e-3  # how long a visit is to last
VISIT_CALLS = (3, 20)  # the fewest and the most calls that are timed in it
ROUNDS = 15  # unless others are asked for
FITTED = 10  # networks that calibrate the sum
DRAWN = 4096  # archs from which those to measure are taken


def conditions(space: Space, *, batch: int, engine: Engine = JIT) -> Conditions:
    """Those of measuring here and now; what is of JAX only where it runs the programs."""
    here, jitted = hardware.describe(), engine is JIT
    has_kernels = native.takes(jnp.zeros((1, 1, 1, 1)), jnp.zeros((3, 3, 1, 1)))
    kernels = "native" if here["backend"] == "cpu" and has_kernels else "xla"
    return Conditions(
        space=space.name,
        fingerprint=space_identity.describe_space(space)["fingerprint"],
        batch=batch,
        dtype="float32",
        engine=engine.name,
        kernels=kernels if jitted else "",
        flags=os.environ.get("XLA_FLAGS", "").strip() if jitted else "",
        backend=here["backend"] if jitted else "cpu",
        device=here["device"] if jitted else "",
        jax=here["jax"] if jitted else "",
        jaxlib=here["jaxlib"] if jitted else "",
        processor=here["processor"],
        cores=here["cores"],
        system=here["system"],
    )


def kinds(
    wanted: Mapping[str, Kind],
    *,
    batch: int,
    rounds: int,
    engine: Engine = JIT,
    on_ready: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Timing]]:
    """Measures kinds of block, group after group.

    Args:
        wanted: by name.
        batch: examples per call.
        rounds: how often each is visited.
        engine: what runs them.
        on_ready: called for each when it has been compiled, which takes most of the time.

    Yields:
        Timings of a group, by name.
    """
    # In an order that says nothing, so that drift from group to group is no bias of a stage.
    order = sorted(wanted, key=lambda name: zlib.crc32(name.encode()))
    for names in _groups(order, KINDS_AT_A_TIME):
        runs, counts = [], []
        for kind in map(wanted.__getitem__, names):
            variables = _variables(kind.shapes.params, kind.shapes.moments)
            inputs = [_random((batch, *x.shape), x.dtype) for x in kind.inputs]
            runs.append(engine.program(kind.module(kind.spec), variables, inputs))
            runs[-1]()  # compiles
            on_ready()
            counts.append(len(jax.tree.leaves(variables)) + len(inputs))
        sizes = sorted(set(counts))
        times = _in_rounds([*map(engine.idle, sizes), *runs], rounds)
        idle, times = dict(zip(sizes, times, strict=False)), times[len(sizes) :]
        yield {
            name: _timing(row, idle[count])
            for name, row, count in zip(names, times, counts, strict=True)
        }


def networks(
    space: Space,
    archs: Sequence[Arch],
    *,
    batch: int,
    rounds: int,
    engine: Engine = JIT,
    on_ready: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Timing]]:
    """Measures whole networks as they would be extracted, group after group.

    Yields:
        Timings of a group, by the arch as `notation` writes it.
    """
    for group in _groups(archs, NETWORKS_AT_A_TIME):
        runs = []
        for arch in group:
            runs.append(_network(space, arch, batch, engine))
            on_ready()
        times = _in_rounds(runs, rounds)
        yield {notation(space, a): of_visits(t) for a, t in zip(group, times, strict=True)}


def visits(
    space: Space,
    archs: Sequence[Arch],
    *,
    batch: int,
    rounds: int,
    known: Mapping[str, Sequence[float]],
    engine: Engine = JIT,
    on_ready: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, float]]:
    """Measures whole networks as `networks` does, and gives what each round found when it is over.

    Args:
        space: whose archs.
        archs: of the networks.
        batch: examples per call.
        rounds: how often each is to be visited in all.
        known: milliseconds of the visits that each has had already, by `notation`.
        engine: what runs them.
        on_ready: called for each when it has been compiled.

    Yields:
        Milliseconds of a visit of each network that lacked one, by `notation`.
    """
    had = {notation(space, arch): len(known.get(notation(space, arch), ())) for arch in archs}
    lacking = [arch for arch in archs if had[notation(space, arch)] < rounds]
    for group in _groups(lacking, NETWORKS_AT_A_TIME):
        names, runs = [notation(space, arch) for arch in group], []
        for arch in group:
            runs.append(_network(space, arch, batch, engine))
            on_ready()
        for times in _rounds(runs, [rounds - had[name] for name in names]):
            pairs = zip(names, times, strict=True)
            yield {name: round(float(ms), 6) for name, ms in pairs if not math.isnan(ms)}


def joined(
    known: Mapping[str, Sequence[float]], more: Mapping[str, float]
) -> dict[str, tuple[float, ...]]:
    """Visits that are known and those of one more round, by `notation`."""
    found = {name: tuple(times) for name, times in known.items()}
    return found | {name: (*found.get(name, ()), ms) for name, ms in more.items()}


def of_visits(times: Sequence[float] | np.ndarray) -> Timing:
    """The timing of a whole network by the milliseconds of its visits."""
    return _timing(np.asarray(times), np.zeros(len(times)))


def _network(space: Space, arch: Arch, batch: int, engine: Engine) -> Call:
    """A program, compiled, of a network as it would be extracted."""
    made = extract.module(space, arch)
    geometry = elastic_space.geometry(space, made.size)
    shapes = {}
    for b in made.blocks:
        block = geometry[b.name].block
        taken = block.taken_out(block.spec(arch))
        given = elastic_block.own_inputs(block, taken, geometry[b.name].inputs)
        shapes[b.name] = block_shapes.describe(b.module, b.spec, given)
    variables = _variables(
        {name: own.params for name, own in shapes.items()},
        {name: own.moments for name, own in shapes.items()},
    )
    inputs = [
        _random((batch, *x.shape[1:]), x.dtype)
        for x in jax.tree.leaves(space.task.inputs(made.size))
    ]
    run = engine.program(made, variables, inputs)
    run()
    return run


def notation(space: Space, arch: Arch) -> str:
    """An arch as one line of JSON."""
    return json.dumps(to_notation(space.menu, arch))


def archs(space: Space, sizes: Sequence[Size], n: int) -> tuple[list[Arch], list[Arch]]:
    """Archs to calibrate on, the smallest and the largest among them, and `n` others to check on.

    Uniform, no network twice; of a small space there may be fewer.
    """
    many = choices.sample(space.menu, jax.random.key(0), (DRAWN,))  # the same ones whatever n is
    drawn = _drawn(space, sizes, choices.unstack(jax.tree.map(np.asarray, many)))
    fitted = min(FITTED, len(drawn) // 2)
    return drawn[:fitted], drawn[fitted : fitted + n]


def spread(
    space: Space, sizes: Sequence[Size], cost: Cost, n: int, *, without: Sequence[Arch]
) -> list[Arch]:
    """`n` archs whose costs are spread evenly from the least to the most.

    No network twice; of a small space there may be fewer. The first ones are the same whatever `n`
    is.

    Args:
        space: whose archs.
        sizes: which they may have.
        cost: what is spread.
        n: how many.
        without: archs whose networks are left out.
    """
    # Uniform archs are all of middling size. These are an end but for some decisions, or for all.
    rng = np.random.default_rng(0)
    rates = np.linspace(0.0, 1.0, DRAWN // 2)

    def near(choice: Choice, end: int) -> np.ndarray:
        other = rng.integers(len(choice), size=rates.shape)
        return np.where(rng.random(rates.shape) < rates, other, end).astype(np.int32)

    low = jax.tree.map(lambda choice: near(choice, 0), space.menu)
    high = jax.tree.map(lambda choice: near(choice, len(choice) - 1), space.menu)
    many = [*choices.unstack(low), *choices.unstack(high)]
    others = elastic_space.distinct(space, without)
    drawn = elastic_space.distinct(space, [*others, *_drawn(space, sizes, many)])[len(others) :]
    if not drawn:
        return []
    spent = np.asarray(cost(choices.stack(drawn)), np.float64)
    chosen: list[int] = []
    for share in _evenly(min(n, len(drawn))):
        wanted = spent.min() + share * np.ptp(spent)
        left = np.abs(spent - wanted)
        left[chosen] = np.inf
        chosen.append(int(np.argmin(left)))
    return [drawn[i] for i in chosen]


def _evenly(n: int) -> list[float]:
    """0, 1, and what lies between in halves, quarters and so on (van der Corput), `n` in all."""
    between = [int(f"{i:b}"[::-1], 2) / 2 ** len(f"{i:b}") for i in range(1, n)]
    return [0.0, 1.0, *between][:n]


def _drawn(space: Space, sizes: Sequence[Size], archs: Sequence[Arch]) -> list[Arch]:
    """The smallest arch, the largest and others, at some sizes; no network twice."""
    places = np.asarray(
        [space.sizes.index(size) for size in space.sizes if size in sizes], np.int32
    )
    many = choices.stack(archs)
    many = space.at_size(many, places[space.which_size(many) % len(places)])
    ends = [
        space.at_size(pick(space.menu), places[place])
        for pick, place in ((choices.smallest, 0), (choices.largest, -1))
    ]
    return elastic_space.distinct(space, [*ends, *choices.unstack(many)])


def calibration(
    space: Space,
    table: Table,
    fitted: Sequence[Arch],
    checked: Sequence[Arch],
    sizes: Sequence[Size],
) -> Calibration:
    """Fits `constant + scale * sum` to some networks, and compares it with others."""
    total = costs.latency(space, table, sizes=sizes, calibrated=False)

    def sums_and_times(some: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        times = [table.networks[notation(space, arch)].ms for arch in some]
        return np.asarray(total(choices.stack(some))), np.asarray(times)

    constant, scale = fit(*sums_and_times(fitted))
    sums, times = sums_and_times(checked)
    errors = np.abs(constant + scale * sums - times) / times
    plain = np.abs(sums - times) / times
    timings = [table.networks[notation(space, arch)] for arch in checked]
    return Calibration(
        constant=round(constant, 6),
        scale=round(scale, 6),
        resolutions=tuple(size for size in space.sizes if size in sizes),
        fitted_on=len(fitted),
        checked_on=len(checked),
        median_error=float(np.median(errors)),
        largest_error=float(np.max(errors)),
        plain_median_error=float(np.median(plain)),
        plain_largest_error=float(np.max(plain)),
        spearman=correlation(scipy.stats.spearmanr, sums, times),
        kendall=correlation(scipy.stats.kendalltau, sums, times),
        spread=statistics.median((t.high - t.low) / t.ms for t in timings),
    )


def fit(sums: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Constant >= 0 and scale > 0 of `times = constant + scale * sums`, least relative squares.

    Where noise would have it otherwise, the constant is 0, or the scale is 1 and the constant the
    median of what is left.
    """
    rows = np.stack([1 / times, sums / times], axis=1)
    constant, scale = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)[0]
    if constant < 0:
        ratio = sums / times
        constant, scale = 0.0, ratio.sum() / max(np.square(ratio).sum(), 1e-30)
    if not scale > 0:
        constant, scale = max(0.0, np.median(times - sums)), 1.0
    return float(constant), float(scale)


def correlation(test: Callable[..., Any], first: np.ndarray, second: np.ndarray) -> float:
    """A rank correlation of `scipy.stats`; 0 where either is the same for all."""
    alike = len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0
    return 0.0 if alike else float(test(first, second).statistic)


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _in_rounds(runs: Sequence[Call], rounds: int) -> list[np.ndarray]:
    """Milliseconds of every visit, `[rounds]` for each program."""
    return list(np.stack([*_rounds(runs, [rounds] * len(runs))], axis=1))


def _rounds(runs: Sequence[Call], rounds: Sequence[int]) -> Iterator[np.ndarray]:
    """Milliseconds of a visit of each program, round after round; NaN where it has had its own."""
    calls = []
    for run in runs:
        run()
        seconds = min(_seconds(run) for _ in range(3))
        calls.append(int(np.clip(VISIT_SECONDS / seconds, *VISIT_CALLS)))
    for i in range(max(rounds, default=0)):
        times = np.full(len(runs), np.nan)
        for place, (run, n, own) in enumerate(zip(runs, calls, rounds, strict=True)):
            if i < own:
                run()
                times[place] = 1e3 * min(_seconds(run) for _ in range(n))
        yield times


def _seconds(run: Call) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _timing(times: np.ndarray, idle: np.ndarray) -> Timing:
    net = np.percentile(times - idle, [25, 50, 75])
    low, middle, high = (round(max(0.0, float(value)), 6) for value in net)
    return Timing(middle, low, high, round(float(np.median(idle)), 6), len(times))


def _variables(params: Any, moments: Any) -> dict[str, Any]:
    """Random weights of about unit gain, and statistics that are no variances of 0."""
    return {
        "params": jax.tree.map(lambda s: _random(s.shape), params),
        "stats": jax.tree.map(lambda s: 1.0 + 0.1 * np.abs(_random(s.shape)), moments),
    }


def _random(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    if not np.issubdtype(dtype, np.floating):
        return np.zeros(shape, dtype)  # ids, of whatever a block knows
    scale = 1 / math.sqrt(max(1, math.prod(shape[:-1])))
    return scale * np.random.default_rng(0).standard_normal(shape, np.float32)
