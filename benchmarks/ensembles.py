"""Is the best pair of subnets better than the best single subnet of as many MACs?

    python benchmarks/ensembles.py --quick
    python benchmarks/ensembles.py --seeds 3
    python benchmarks/ensembles.py --seeds 3 --weights own

For each seed a supernet of ensembles of two is trained on digits as `configs/neas_digits.py` has
it; with weights of their own, by three uniform ensembles per step. In the same supernet evolution
then searches pairs that part, and single subnets, with as many evaluations each. What is best on
held-out images within a budget of MACs is evaluated on test images.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

import measure
import numpy as np

import supernet_jax as sj
from supernet_jax.elastic import ensembles
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import config


@dataclasses.dataclass(frozen=True)
class Parted:
    """Whether members part at all: 0 is one subnet."""

    name: ClassVar[str] = "parted"
    unit: ClassVar[str] = ""

    def build(self, space: Space) -> Callable[[Arch], Any]:
        """The cost of a space of ensembles."""
        about = ensembles.parts(space)
        return lambda arch: (about.splits < about.blocks).astype(np.int32)[
            np.asarray(arch["split"])
        ]


def main() -> None:
    """Trains, searches and prints the table."""
    parser = measure.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=192, help="of each search")
    parser.add_argument("--weights", choices=("shared", "own"), default="shared")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=[75e3, 120e3, 200e3], help="most MACs"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.steps, arguments.evaluations = 1, 20, 16
    here = pathlib.Path(__file__).parent.parent / "configs" / "neas_digits.py"
    settings, _ = config.load_file(here)
    if arguments.weights == "own":
        settings = dataclasses.replace(
            settings,
            space=dataclasses.replace(settings.space, weights="own"),
            sampler=sj.samplers.Uniform(n_random=3),
        )
    rows = []
    for seed in range(arguments.seeds):
        train = dataclasses.replace(settings.train, seed=seed, steps=arguments.steps)
        with tempfile.TemporaryDirectory() as folder:
            run = sj.train(dataclasses.replace(settings, train=train), f"{folder}/run")
            for name, low in (("single", 0), ("pair", 1)):
                for budget in arguments.budgets:
                    rows.append(
                        {"seed": seed, "kind": name, "budget": budget}
                        | best(run, low, budget, arguments.evaluations, seed)
                    )
                    print(rows[-1], flush=True)
    measure.write(arguments.json, rows)


def best(run: sj.Run, parted: int, budget: float, evaluations: int, seed: int) -> dict[str, Any]:
    """The best of one kind within a budget."""
    limits = {"macs": (None, budget), "parted": (parted, parted)}
    front = sj.search(
        run,
        budgets=limits,
        objectives=["accuracy:max"],
        costs=[Parted()],
        evaluations=evaluations,
        baseline=False,
        seed=seed,
    )
    found = max(front, key=lambda entry: entry.value)
    (tested,) = sj.evaluate(run, [found], split="test")
    return {
        "macs": tested["macs"],
        "held_out": found.value,
        "test": tested["accuracy"],
        "split": tested["arch"]["split"],
    }


if __name__ == "__main__":
    main()
