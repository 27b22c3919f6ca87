"""`supernet quickstart`: train, evaluate, search and extract on digits."""

import dataclasses
import pathlib
import shlex
import time
from typing import Any

import rich.console
import rich.table

from supernet_jax import spaces
from supernet_jax.cli import search, shared
from supernet_jax.elastic import notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.experiment import build, config, extract, run_folder, train
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.networks import manifest
from supernet_jax.reporting import front_png
from supernet_jax.runtime import stopping
from supernet_jax.storage import files
from supernet_jax.training import loop, optimizers

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
    """run folder"""
    steps: int = 300
    """training steps"""
    seed: int = 0
    """of everything random"""


def run(arguments: Arguments) -> None:
    """Does the whole job and leaves one run folder."""
    start = time.monotonic()
    shared.at_least("--steps", arguments.steps, 1)
    shared.at_least("--seed", arguments.seed, 0)
    settings = _settings(arguments)
    with run_folder.writing(arguments.out, settings):
        _fill(arguments, settings, start)


def _fill(arguments: Arguments, settings: config.Config, start: float) -> None:
    """Does what is left to do in the run folder."""
    built = build.build(settings)
    state, finished = loop.fit(train.job(built, arguments.out))
    if not finished:
        print(f"stopped at step {int(state.step)} of {arguments.steps} and saved")
        stopping.stop()
    opened = experiment_run.open_run(arguments.out)
    wanted = search.Arguments(
        run=arguments.out, evaluations=EVALUATIONS, population=128, seed=arguments.seed
    )
    result = search.find(opened, wanted)
    picked = _pick(result["front"])
    networks = [_take_out(opened, name, entry) for name, entry in picked.items()]
    for entry, network in zip(picked.values(), networks, strict=True):
        entry["test_accuracy"] = network["test_accuracy"]
    files.write_json(arguments.out / shared.SEARCH_FILE, result)
    front_png.draw(arguments.out / "front.png", result)
    files.write_json(
        arguments.out / "results.json",
        {
            "networks": networks,
            "front": result["front"],
            "evaluations": result["evaluations"],
            "seconds": round(time.monotonic() - start, 1),
        },
    )
    _print(networks, result, arguments.out, time.monotonic() - start)


def _settings(arguments: Arguments) -> config.Config:
    return config.Config(
        space=spaces.Digits(),
        data=config.Data(name="digits", held_out=0.2),
        optimizer=optimizers.Sgd(learning_rate=0.05, weight_decay=1e-4, warmup=0.1),
        train=config.Train(
            steps=arguments.steps, batch=64, seed=arguments.seed, checkpoint_every=100
        ),
        evaluation=config.Evaluation(calibration_batches=2, batch=128, chunk=16),
    )


def _pick(front: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cheapest, the middle and the best of a front (fewer where the front is shorter)."""
    places = dict.fromkeys((0, len(front) // 2, len(front) - 1))
    return {name: front[i] for name, i in zip(NETWORKS, places, strict=False)}


def _take_out(opened: Run, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Extracts one entry of the front, unless an interrupted quickstart has done so already."""
    space = opened.experiment.space
    arch: Arch = notation.from_notation(space.menu, entry["arch"])
    folder = opened.folder / "networks" / name
    if not folder.exists():
        extract.take_out(opened, arch, folder)
    description = manifest.read_description(folder)
    return {
        "folder": str(folder),
        "arch": entry["arch"],
        "macs": entry["macs"],
        "parameters": entry["parameters"],
        "held_out_accuracy": entry["accuracy"],
        "test_accuracy": description["accuracy"]["test"],
        "logit_difference": description["proof"]["difference"],
    }


def _print(
    networks: list[dict[str, Any]], result: dict[str, Any], out: pathlib.Path, seconds: float
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
    print(f"{result['evaluations']} subnets searched on images held out; all in {seconds:.0f} s")
    print(f"look at {out / 'front.png'}; the networks are in {out / 'networks'}")
    command = f"supernet search {shlex.quote(str(out))} --high 200000"
    print(f"next: {command}   (the best network under a budget)")
