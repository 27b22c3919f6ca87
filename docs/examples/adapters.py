"""Adapters on a frozen supernet: it learns digits, and they learn digits turned by a quarter.

python docs/examples/adapters.py runs
"""

import pathlib
import sys

import numpy as np
from sklearn.datasets import load_digits

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic.transforms import adapter_parameters


def main(folder: pathlib.Path, steps: int = 200) -> list[tuple[int, int, float]]:
    """Trains both, and returns rank, parameters of the adapters and accuracy of largest subnets."""
    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    turned = np.rot90(images, axes=(1, 2))
    common = {
        "sampler": sj.samplers.Sandwich(n_random=2),
        "optimizer": sj.optimizers.Sgd(learning_rate=0.05, warmup=0.1),
        "train": sj.Train(steps=steps),
    }
    base = sj.Config(space=sj.spaces.Digits(), data=sj.Data(name="digits"), **common)
    sj.train(base, folder / "base")

    config = sj.Config(
        space=sj.spaces.Adapted(
            space=sj.spaces.Digits(), base=str(folder / "base"), ranks=(0, 2, 4, 8)
        ),
        data=sj.data.arrays(turned, load_digits().target, folder=folder / "turned"),
        **common,
    )
    run = sj.train(config, folder / "adapted")

    largest, rows = choices.largest(run.space.menu), []
    count = adapter_parameters(run.space)
    for i, rank in enumerate(config.space.ranks):
        arch = {**largest, "rank": {block: np.int32(i) for block in largest["rank"]}}
        [record] = sj.evaluate(run, [arch], split="test")
        rows.append((rank, int(count(arch)), record["accuracy"]))
    return rows


if __name__ == "__main__":
    print("rank  parameters added  accuracy on the test split")
    for rank, added, accuracy in main(pathlib.Path(sys.argv[1])):
        print(f"{rank:4}  {added:16,}  {accuracy:.3f}")
