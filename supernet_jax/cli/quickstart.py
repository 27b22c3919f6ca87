"""`supernet quickstart`: train, search and extract on digits."""

import dataclasses
import pathlib
import shlex
import time
from typing import Any

import rich.console
import rich.table

from supernet_jax import data, spaces
from supernet_jax.errors import at_least
from supernet_jax.experiment import config, extract, front, search, train
from supernet_jax.experiment.extract import Extracted
from supernet_jax.experiment.front import Entry
from supernet_jax.networks import manifest
from supernet_jax.runtime import stopping
from supernet_jax.storage import files, whole_folder
from supernet_jax.training import optimizers

EXAMPLES = """
supernet quickstart
supernet quickstart --out runs/first
The same command again goes on where an interrupted one stopped."""
EVALUATIONS = 256  # subnets searched
NETWORKS = ("small", "medium", "large")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train, evaluate, search and extract on 8x8 digits: the whole job in three minutes."""

    out: pathlib.Path = pathlib.Path("runs/quickstart")
    """folder of the run"""
    steps: int = 300
    """training steps; more take longer"""
    seed: int = 0
    """seed of all random numbers"""


def run(arguments: Arguments) -> None:
    """Does the whole job and leaves one run folder."""
    start, out = time.monotonic(), arguments.out
    at_least("--steps", arguments.steps, 1)
    at_least("--seed", arguments.seed, 0)
    try:
        run = train.train(_settings(arguments), out)
    except stopping.Stopped as stopped:
        if stopped.step is not None:
            print(f"stopped at step {stopped.step} of {arguments.steps} and saved")
        raise
    found = search.search(run, evaluations=EVALUATIONS, seed=arguments.seed)
    # The cheapest, the middle and the best; fewer where the front is shorter.
    places = dict.fromkeys((0, len(found) // 2, len(found) - 1))
    networks = {}
    for name, place in zip(NETWORKS, places, strict=False):
        folder = out / "networks" / name
        if not whole_folder.is_free(folder):  # an interrupted quickstart has done so already
            network = extract.described(folder, manifest.read_description(folder))
        else:
            network = extract.extract(run, found[place].arch, folder)
        networks[place] = _result(found[place], network)
    tested = {place: network["test_accuracy"] for place, network in networks.items()}
    found = found.tested(tested)
    found.save(out / front.FILE, out / front.PICTURE)
    seconds = time.monotonic() - start
    files.write_json(
        out / "results.json",
        {
            "networks": list(networks.values()),
            "front": found.result["front"],
            "evaluations": found.result["evaluations"],
            "seconds": round(seconds, 1),
        },
    )
    _print(list(networks.values()), found.result["evaluations"], out, seconds)


def _settings(arguments: Arguments) -> config.Config:
    return config.Config(
        space=spaces.Digits(),
        data=data.Data(name="digits", held_out=0.2),
        optimizer=optimizers.Sgd(learning_rate=0.05, weight_decay=1e-4, warmup=0.1),
        train=config.Train(
            steps=arguments.steps, batch=64, seed=arguments.seed, checkpoint_every=100
        ),
        evaluation=config.Evaluation(calibration_batches=2, batch=128, chunk=16),
    )


def _result(entry: Entry, network: Extracted) -> dict[str, Any]:
    """What is known of an extracted entry of the front, as JSON values."""
    return {
        "folder": str(network.folder),
        "arch": network.arch,
        "macs": entry.macs,
        "parameters": entry.parameters,
        "held_out_accuracy": entry.accuracy,
        "test_accuracy": network.accuracy["test"],
        "logit_difference": network.proof,
    }


def _print(
    networks: list[dict[str, Any]], evaluations: int, out: pathlib.Path, seconds: float
) -> None:
    table = rich.table.Table(
        "network", "MACs", "parameters", "held-out", "test", "logits differ by", box=None
    )
    for network in networks:
        table.add_row(
            pathlib.Path(network["folder"]).name,
            f"{network['macs']:,}",
            f"{network['parameters']:,}",
            f"{network['held_out_accuracy']:.2%}",
            f"{network['test_accuracy']:.2%}",
            f"{network['logit_difference']:.0e}",
        )
    console = rich.console.Console()
    console.print(table)
    print(f"{evaluations} subnets searched on images held out; all in {seconds:.0f} s")
    print(f"look at {out / 'front.png'}; the networks are in {out / 'networks'}")
    command = f"supernet search {shlex.quote(str(out))} --high 200000"
    print(f"next: {command}   (the best network under a budget)")
