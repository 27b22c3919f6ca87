"""`supernet table`: what samplers need to know of a space before training."""

import dataclasses
import pathlib
from typing import Annotated, Any

import tyro

from supernet_jax.errors import UserError, at_least, one_of
from supernet_jax.experiment import config, sampler_tables, space_facts

EXAMPLES = """
supernet table attentivenas --out macs.json
supernet table configs/cifar10.py --bins 60 --samples 500000 --out macs.json
supernet table configs/digits.py --score snip --out preferred.json"""
SAMPLES = {"none": 100_000, "snip": 200}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write how the archs of a space lie over MACs, or which of them score best before training.

    The samplers Attentive and Shift take the first file, the sampler Preferred takes the second.
    """

    space: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="SPACE",
            help=f"{space_facts.SPACE_HELP} (which --score needs, for its images)",
        ),
    ]
    out: pathlib.Path
    """JSON file to write, which must not exist yet"""
    bins: int = 40
    """ranges of MACs between the smallest and the largest subnet; more are narrower"""
    samples: int = 0
    """random archs to draw; more make a finer file; 0 for 100,000, or 200 with --score"""
    score: str = "none"
    """none | snip: choose the archs of each range that score best with untrained weights"""
    keep: int = 2
    """with --score: archs to keep of each range"""
    batch: int = 64
    """with --score: training images that scores are computed on; more make them steadier"""
    seed: int = 0
    """seed of the random archs, and of the untrained weights"""


def run(arguments: Arguments) -> None:
    """Makes the file, and says what is in it."""
    one_of("--score", arguments.score, SAMPLES)
    at_least("--samples", arguments.samples, 0)
    samples = arguments.samples or SAMPLES[arguments.score]
    how: dict[str, Any] = {"bins": arguments.bins, "samples": samples, "seed": arguments.seed}
    if arguments.score == "none":
        _over_macs(arguments, how)
    else:
        _preferred(arguments, how)


def _over_macs(arguments: Arguments, how: dict[str, Any]) -> None:
    space = space_facts.space_of(arguments.space)
    made = sampler_tables.macs_table(space, arguments.out, **how)
    empty = sum(share == 0 for share in made.probability)
    print(
        f"wrote {arguments.out}: {space.name}, {how['samples']:,} archs in {arguments.bins} ranges "
        f"of {(made.edges[1] - made.edges[0]) / 1e6:,.4g} M MACs, of which {empty} are empty"
    )
    print(f'next: sampler=Attentive(table="{arguments.out}") in a config file')


def _preferred(arguments: Arguments, how: dict[str, Any]) -> None:
    if not arguments.space.endswith(".py"):
        raise UserError(f"--score needs a config file for its images; {arguments.space} is none")
    settings = config.load_file(arguments.space)[0]
    how = {**how, "keep": arguments.keep, "batch": arguments.batch}
    made = sampler_tables.preferred_archs(settings, arguments.out, **how)
    print(
        f"wrote {arguments.out}: {len(made.records)} archs of {made.records[0]['space']}, the best "
        f"{arguments.keep} by {arguments.score} in each of {arguments.bins} ranges of MACs, of "
        f"{made.tried:,} different networks among {how['samples']:,} random archs"
    )
    if made.broken:
        print(f"the score of {made.broken} of these is not a number; they are left out")
    print(f'next: sampler=Preferred(archs="{arguments.out}") in a config file')
