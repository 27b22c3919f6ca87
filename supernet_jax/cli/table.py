"""`supernet table`: what samplers need to know of a space before training."""

import dataclasses
import pathlib
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from supernet_jax import data
from supernet_jax.cli import shared
from supernet_jax.elastic import choices, notation, shared_params
from supernet_jax.elastic import space as elastic_space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import proxies
from supernet_jax.experiment import build, config, results
from supernet_jax.experiment.build import Experiment
from supernet_jax.runtime import progress
from supernet_jax.storage import files
from supernet_jax.training.samplers import macs_table
from supernet_jax.training.samplers.preferred import select

EXAMPLES = """
supernet table attentivenas --out macs.json
supernet table configs/cifar10.py --bins 60 --samples 500000 --out macs.json
supernet table configs/digits.py --score snip --out preferred.json"""
SAMPLES = {"none": 100_000, "snip": 200}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make the table of a space over MACs, or choose archs by a score before training.

    Samplers of the kinds Attentive and Shift take the first, Preferred takes the second.
    """

    space: Annotated[str, tyro.conf.Positional]
    """attentivenas | ofa_mobilenetv3 | cifar | ofa_small | digits | a config file (which --score
    needs, for its images)"""
    out: pathlib.Path
    """JSON file"""
    bins: int = 40
    """ranges of MACs between the smallest and the largest subnet"""
    samples: int = 0
    """random archs that it is made of; 0 for 100,000, or 200 with --score"""
    score: str = "none"
    """none | snip: choose the best archs of each range by this score of untrained weights"""
    keep: int = 2
    """with --score: archs of each range"""
    batch: int = 64
    """with --score: training images that it is computed on"""
    seed: int = 0
    """of the random archs, and of the untrained weights"""


def run(arguments: Arguments) -> None:
    """Makes the file, and says what is in it."""
    shared.one_of("--score", arguments.score, SAMPLES)
    for name, value, low in (
        ("--bins", arguments.bins, 1),
        ("--samples", arguments.samples, 0),
        ("--keep", arguments.keep, 1),
        ("--batch", arguments.batch, 2),
        ("--seed", arguments.seed, 0),
    ):
        shared.at_least(name, value, low)
    shared.check_writable("--out", arguments.out)
    samples = arguments.samples or SAMPLES[arguments.score]
    if arguments.score == "none":
        _over_macs(arguments, samples)
    else:
        _preferred(arguments, samples)


def _over_macs(arguments: Arguments, samples: int) -> None:
    space = shared.space_of(arguments.space)
    with progress.bar("archs", samples, unit="arch") as advance:
        made = macs_table.build(
            space, bins=arguments.bins, samples=samples, seed=arguments.seed, advance=advance
        )
    _write(arguments.out, dataclasses.asdict(made))
    empty = sum(share == 0 for share in made.probability)
    print(
        f"wrote {arguments.out}: {space.name}, {samples:,} archs in {arguments.bins} ranges of "
        f"{(made.edges[1] - made.edges[0]) / 1e6:,.4g} M MACs, of which {empty} are empty"
    )
    print(f'next: sampler=Attentive(table="{arguments.out}") in a config file')


def _preferred(arguments: Arguments, samples: int) -> None:
    if not arguments.space.endswith(".py"):
        raise UserError(f"--score needs a config file for its images; {arguments.space} is none")
    built = build.build(config.load_file(arguments.space)[0])
    space, macs = built.space, macs_table.reference_macs(built.space)
    archs = _distinct(space, jax.random.key(arguments.seed), samples)
    count = len(jax.tree.leaves(archs)[0])
    score = _scorer(built, arguments)
    scores = []
    with progress.bar("scoring", count, unit="arch") as advance:
        for arch in choices.unstack(archs):
            scores.append(float(score(arch)))
            advance(1)
    numbers = np.flatnonzero(np.isfinite(scores))
    if not len(numbers):
        raise UserError(
            f"the score of none of {count:,} archs is a number; try another --seed or --batch"
        )
    how = {"bins": arguments.bins, "keep": arguments.keep}
    chosen = numbers[select(np.asarray(macs(archs))[numbers], np.asarray(scores)[numbers], **how)]
    records = [_record(space, archs, int(i), macs, scores[i], arguments.score) for i in chosen]
    _write(arguments.out, records)
    print(
        f"wrote {arguments.out}: {len(records)} archs of {space.name}, the best "
        f"{arguments.keep} by {arguments.score} in each of {arguments.bins} ranges of MACs, of "
        f"{count:,} different networks among {samples:,} random archs"
    )
    if len(numbers) < count:
        print(f"the score of {count - len(numbers)} of these is not a number; they are left out")
    print(f'next: sampler=Preferred(archs="{arguments.out}") in a config file')


def _distinct(space: elastic_space.Space, key: choices.Array, samples: int) -> choices.Arch:
    """The networks of so many uniform archs, at the largest resolution: there they are scored."""
    archs = jax.device_get(choices.sample(space.menu, key, (samples,)))
    last = np.full(samples, len(space.resolutions) - 1, np.int32)
    archs = elastic_space.normal(space, choices.replace(archs, space.resolution, last))
    return choices.unpack(space.menu, np.unique(np.asarray(choices.pack(archs)), axis=0))


def _scorer(built: Experiment, arguments: Arguments) -> Any:
    """The jitted score, on a random batch of training images."""
    space, several = built.space, data.shuffled(built.dataset.train, seed=arguments.seed)
    n = min(arguments.batch, len(several.labels))
    some = data.Images(*(part[:n] for part in several))
    pixels, labels = (part[0] for part in data.padded_batches(some, n))
    inputs = built.prepare(jnp.asarray(pixels))
    params = jax.jit(lambda: shared_params.init(space, jax.random.key(arguments.seed)))()
    score = proxies.snip(
        space, params, inputs, jnp.asarray(labels), resolution=space.resolutions[-1]
    )
    return jax.jit(score)


def _record(
    space: elastic_space.Space, archs: Any, i: int, macs: Any, score: float, name: str
) -> dict[str, Any]:
    """One line of the file."""
    arch = jax.tree.map(lambda leaf: leaf[i], archs)
    return {
        "arch": notation.to_notation(space.menu, arch),
        "macs": int(macs(arch)),
        name: score,
        "space": space.name,
    }


def _write(path: pathlib.Path, value: Any) -> None:
    shared.check_writable("--out", path)  # it was free when this began
    files.write_text(
        path, (results.dump(value) if isinstance(value, list) else files.dumps(value)) + "\n"
    )
