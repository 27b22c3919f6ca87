"""What a training run will take, found out by a few of its steps; nothing is written.

MACs are those of one image. A training step's count as three times the forward pass, the usual
rule: a backward pass multiplies with the weights once for the input's gradient and once for theirs.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.experiment import build, config
from supernet_jax.experiment.build import Experiment
from supernet_jax.runtime import progress
from supernet_jax.tasks import Size
from supernet_jax.training import loop, recipe, samplers, train_step
from supernet_jax.training.batches import Batches

TIMED = 5  # steps, after one that does not count
PATIENCE = 60.0  # seconds after which two steps are enough
COUNTED = 20_000  # steps whose sizes are drawn to count programs; of longer runs a part
SAMPLES = 1000  # uniform archs for a mean


@dataclasses.dataclass(frozen=True)
class Member:
    """One subnet of a step.

    Attributes:
        role: of it.
        size: of its inputs.
        macs: forward, of one image; of a random member the mean of uniform archs.
        computed: what its strategy computes for it; a masked member pays for the largest.
    """

    role: str
    size: Size
    macs: int
    computed: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A kind of training step, by the sizes of its members' inputs.

    Steps of several kinds share what is compiled for the fixed members; the random ones are
    compiled for each size.

    Attributes:
        members: in order, the fixed ones first.
        steps: of the run that use it.
    """

    members: tuple[Member, ...]
    steps: int

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Of the members."""
        return tuple(member.size for member in self.members)

    @property
    def computed(self) -> int:
        """MACs of one image, forward, over the members."""
        return sum(member.computed for member in self.members)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device that the compiler plans for a step.

    Attributes:
        arguments: the state and the batch.
        outputs: what the members hand on, gradients above all, and what of the new state does not
            take the place of the old one.
        temporaries: of the member that needs most.
        peak: all together.
    """

    arguments: int
    outputs: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Range:
    """Seconds: what is likely, and between what it should lie."""

    seconds: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a run will take.

    Attributes:
        programs: all kinds of steps, most used first.
        steps: of the run.
        batch: images per step, over all devices.
        devices: number.
        device: their kind.
        strategy: how random members run, "masked", "switched" or "blockwise".
        parameters: shared, over all rows of a bank.
        checkpoint_bytes: of one checkpoint, before compression.
        timed: sizes of the kind that was compiled, the most expensive one.
        memory: of it; None where the backend does not tell.
        compile_seconds: of it, tracing included, as far as it was waited for.
        parts: how many compiled programs it consists of.
        from_cache: how many of them an earlier process had compiled.
        step: its median, fastest and slowest step, with the loading of its batch.
        timed_steps: how many were timed.
        total: of the whole run, compilation included.
    """

    programs: tuple[Program, ...]
    steps: int
    batch: int
    devices: int
    device: str
    strategy: str
    parameters: int
    checkpoint_bytes: int
    timed: tuple[Size, ...]
    memory: Memory | None
    compile_seconds: float
    parts: int
    from_cache: int
    step: Range
    timed_steps: int
    total: Range


def rehearse(built: Experiment) -> Rehearsal:
    """Compiles the most expensive step of a run, and takes a few of its steps."""
    counted = programs(built.recipe, built.config.train.steps)
    chosen = max(counted, key=lambda program: program.computed)
    with progress.bar("rehearsing", 2 + TIMED, unit="stage") as advance:
        found = _run(built, chosen.sizes, advance)
    times = found.pop("times")
    step = Range(statistics.median(times), min(times), max(times))
    again = found.pop("again_seconds")
    return Rehearsal(
        programs=tuple(counted),
        steps=built.config.train.steps,
        batch=built.config.train.batch,
        devices=built.mesh.size,
        device=built.mesh.devices.flat[0].device_kind,
        strategy=config.name_of(built.recipe.strategy),
        timed=chosen.sizes,
        step=step,
        timed_steps=len(times),
        total=total(counted, chosen, step, found["compile_seconds"] + again * (len(counted) - 1)),
        **found,
    )


def programs(recipe: recipe.Recipe, steps: int) -> list[Program]:
    """The programs of a run, most used first; exact for runs of up to `COUNTED` steps."""
    drawn = min(steps, COUNTED)
    uses = collections.Counter(train_step.step_sizes(recipe, step=i) for i in range(drawn))
    return [
        Program(_members(recipe, sizes), round(count * steps / drawn))
        for sizes, count in uses.most_common()
    ]


def total(counted: list[Program], timed: Program, step: Range, compiling: float) -> Range:
    """Seconds of a run of which one kind of step was timed.

    The timed one is the most expensive. Steps of another should take the same share of the time as
    of the MACs; at the most as long, for not everything in a step grows with the size.
    """
    shares = [(program.steps, program.computed / timed.computed) for program in counted]
    return Range(
        seconds=compiling + sum(n * share * step.seconds for n, share in shares),
        low=compiling + sum(n * share * step.low for n, share in shares),
        high=compiling + sum(n * step.high for n, _ in shares),
    )


def _members(recipe: recipe.Recipe, sizes: tuple[Size, ...]) -> tuple[Member, ...]:
    space, sampler = recipe.space, recipe.sampler
    macs = costs.macs(space)
    fixed = [
        Member(role, r, n := int(macs(jax.tree.map(np.asarray, arch))), n)
        for arch, role, r in zip(sampler.fixed, samplers.roles(sampler), sizes, strict=False)
    ]
    several = jax.device_get(choices.sample(space.menu, jax.random.key(0), (SAMPLES,)))
    random = []
    drawn = zip(
        samplers.roles(sampler)[len(sampler.fixed) :], sizes[len(sampler.fixed) :], strict=False
    )
    for role, r in drawn:
        mean = round(float(np.mean(macs(_at(space, several, r)))))
        largest = int(macs(_at(space, choices.largest(space.menu), r)))
        paid = largest if recipe.strategy is strategies.masked else mean
        random.append(Member(role, r, mean, paid))
    return (*fixed, *random)


def _at(space: Space, arch: Arch, size: Size) -> Arch:
    """The same arch or archs at a size of inputs."""
    old = np.asarray(space.which_size(arch))
    return space.at_size(arch, np.full_like(old, space.sizes.index(size)))


def _run(built: Experiment, sizes: tuple[Size, ...], advance: progress.Advance) -> dict[str, Any]:
    """Compiles one program and takes a few steps. Returns fields of a `Rehearsal`, and `times`."""
    recipe, mesh = built.recipe, built.mesh
    state = loop.creator(recipe, mesh, rules=built.rules)()
    counts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "checkpoint_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
    }
    advance(1, "tracing and compiling")
    examples, second = build.training_examples(built)
    with Batches(
        examples,
        second=second,
        batch=built.config.train.batch,
        mesh=mesh,
        seed=recipe.seed,
        stop=1 + TIMED,
        reading=built.reading,
    ) as batches:
        batches.go_to(0, 0)
        batch = batches.next()
        arguments, sums = _on_one_device((state, batch)), _on_one_device(state.params)
        step = train_step.Step(recipe, mesh=mesh, rules=built.rules)
        take = functools.partial(step, sizes=sizes)
        made: list[_Compiled] = []
        pieces = ("reorder", "begin", "learn", "start", "fixed", "draw", "random", "finish")
        for name in () if step.is_blockwise else pieces:
            setattr(step, name, _recorded(name, getattr(step, name), made))
        begun = time.perf_counter()
        with _cache_hits() as hits:
            state, _ = jax.block_until_ready(take(state, batch))
        first = time.perf_counter() - begun
        advance(1, "taking steps")
        times = _time_steps(take, state, batches, advance)
    waited = max(0.0, first - statistics.median(times))
    again = sum(one.seconds for one in made if one.name == "random")
    memory: Memory | None
    if step.is_blockwise:
        # Other sizes are other programs of blocks, and so are other archs.
        again, parts = waited, len(step.blockwise.run.programs)
        held = step.blockwise.run.held_bytes()
        memory = Memory(arguments, sums, held, arguments + sums + held)
    else:
        memory, parts = _memory(arguments, [one.run for one in made]), len(made)
    return {
        **counts,
        "memory": memory,
        "compile_seconds": waited,
        "again_seconds": again,
        "parts": parts,
        "from_cache": len(hits),
        "times": times,
    }


class _Compiled(NamedTuple):
    """A program of a step, and the seconds that it took to trace and compile it."""

    name: str
    run: Any
    seconds: float


def _recorded(name: str, piece: Any, made: list[_Compiled]) -> Callable[..., Any]:
    """A jitted function that adds each program it compiles to `made`; its arguments keep shape."""
    programs: dict[Any, Any] = {}

    def call(*args: Any, **static: Any) -> Any:
        key = tuple(static.items())
        if key not in programs:
            begun = time.perf_counter()
            run = programs[key] = piece.lower(*args, **static).compile()
            made.append(_Compiled(name, run, time.perf_counter() - begun))
        return programs[key](*args)

    return call


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """What JAX read from its cache of compiled programs inside, instead of compiling."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _time_steps(
    step: Callable[..., Any], state: recipe.State, batches: Batches, advance: progress.Advance
) -> list[float]:
    """Seconds of a few steps, with the loading of their batches."""
    times: list[float] = []
    for _ in range(TIMED):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batches.next()))
        times.append(time.perf_counter() - start)
        advance(1, f"{times[-1]:.3g} s a step")
        if len(times) >= 2 and sum(times) > PATIENCE:
            break
    return times


def _memory(arguments: int, programs: list[Any]) -> Memory | None:
    """Of a chain of programs: what each gives is held until the last has run."""
    planned = [program.memory_analysis() for program in programs]
    if None in planned:
        return None
    given = sum(p.output_size_in_bytes - p.alias_size_in_bytes for p in planned)
    temporaries = max(p.temp_size_in_bytes for p in planned)
    return Memory(arguments, given, temporaries, arguments + given + temporaries)


def _on_one_device(tree: Any) -> int:
    """Bytes of a tree of arrays on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def spelt_bytes(size: int) -> str:
    """A number of bytes in the unit that fits, as `36.1 MiB`."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(0, math.frexp(size)[1] - 1) // 10, len(units) - 1)
    return f"{size / 1024**power:,.{1 if power else 0}f} {units[power]}"


def spelt(seconds: float) -> str:
    """A time in the two units that matter, as `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole, units = round(seconds), (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    i = next(i for i, (_, size) in enumerate(units) if whole >= size)
    (name, size), (small, part) = units[i], units[i + 1]
    return f"{whole // size} {name} {math.floor(whole % size / part)} {small}"
