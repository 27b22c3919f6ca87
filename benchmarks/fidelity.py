r"""Does a supernet rank subnets as training them alone does? Which way of training makes it?

    python benchmarks/fidelity.py --quick --out fidelity-quick
    python benchmarks/fidelity.py --data-dir DIR --out runs/fidelity
    python benchmarks/fidelity.py --data-dir DIR --out runs/fidelity-full --pixels 32 \
        --steps 20000 --batch 256 --archs 60 --truth-seeds 3

Archs of a reduced space (fidelity_config.py), spread over its MACs, are trained alone: the truth.
Then supernets are trained in several ways, with several seeds each, and give each of the archs a
score, with and without calibration of BatchNorm. All trainings have the same optimiser, batch and
images; none was tuned for itself. A supernet trains `4 x steps` members, as many as `steps` steps
of the sandwich rule with two random members; an arch alone trains `steps` steps.

Protocol after "Evaluating the Search Phase of Neural Architecture Search" (arXiv 1902.08142) and
"How to Train Your Super-Net" (arXiv 2003.04276). What was trained is kept in --out, each training a
run folder, and is not trained again; a training that was stopped is gone on with. Tables are
Markdown.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import fidelity_tables
import jax
import measure
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.notation import to_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.experiment import build, config, run_folder, sampler_visits
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.train import job
from supernet_jax.storage import files
from supernet_jax.training import loop, train_step
from supernet_jax.training.gradients import ConflictProjection
from supernet_jax.training.losses import AlphaDivergence, HardLabels, SoftCrossEntropy
from supernet_jax.training.samplers import (
    Attentive,
    Delayed,
    Fair,
    Nested,
    Progressive,
    Shift,
    Uniform,
)

MEMBERS = 4  # of a step of the sandwich, the unit of budgets
SHARED = 64  # random archs whose statistics make those without calibration
CONFIG = pathlib.Path(__file__).with_name("fidelity_config.py")


class Method(NamedTuple):
    """A way of training a supernet.

    Attributes:
        parts: of the configuration that differ.
        members: trained in a step.
        about: what it is, for the table.
    """

    parts: dict[str, Any]
    members: int
    about: str


KL, LABELS = SoftCrossEntropy(smoothing=0.0), HardLabels(smoothing=0.0)
ALPHA = AlphaDivergence(smoothing=0.0)
METHODS = {
    "single path": Method({"sampler": Uniform(1), "loss": LABELS}, 1, "one random arch a step"),
    "fair": Method({"sampler": Fair(6), "loss": LABELS}, 6, "every option equally often"),
    "sandwich, labels": Method({"loss": LABELS}, MEMBERS, "sandwich, no distillation"),
    "sandwich, KL": Method({"loss": KL}, MEMBERS, "sandwich, the largest teaches"),
    "sandwich, alpha": Method({"loss": ALPHA}, MEMBERS, "the same by alpha-divergence"),
    "attentive": Method({"sampler": Attentive(), "loss": KL}, MEMBERS, "best-up of 3, KL"),
    "delayed": Method({"sampler": Delayed(), "loss": KL}, MEMBERS, "half the steps only largest"),
    "progressive": Method({"sampler": Progressive(), "loss": KL}, MEMBERS, "opened in phases, KL"),
    "nested": Method({"sampler": Nested(3), "loss": KL}, MEMBERS, "members of one chain, KL"),
    "shift": Method({"sampler": Shift(), "loss": KL}, MEMBERS, "probability over MACs, KL"),
    "projection": Method(
        {"loss": KL, "combine": ConflictProjection()}, MEMBERS, "KL, conflicts projected"
    ),
}
USUAL = tuple(name for name in METHODS if name not in ("nested", "shift", "projection"))


def main() -> None:
    """Trains what is missing, and writes the tables and pictures."""
    parser = measure.parser(__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of all trainings")
    parser.add_argument("--data-dir", help="where CIFAR-10 lies as TFDS prepares it")
    parser.add_argument("--dataset", default="tfds:cifar10", help="as data.name of a config")
    parser.add_argument("--pixels", type=int, default=16)
    parser.add_argument("--steps", type=int, default=700, help="of the sandwich, and of one alone")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--archs", type=int, default=24, help="trained alone")
    parser.add_argument("--truth-seeds", type=int, default=2, help="trainings of each alone")
    parser.add_argument("--seeds", type=int, default=3, help="supernets of each method")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(USUAL), metavar="METHOD",
        help=f"of {', '.join(METHODS)}",
    )  # fmt: skip
    parser.add_argument("--bands", type=int, default=3, help="ranges of MACs")
    parser.add_argument("--pictures", type=pathlib.Path, help="folder of the pictures (PNG)")
    parser.add_argument("--tables", action="store_true", help="train nothing; show what is there")
    arguments = parser.parse_args()
    if arguments.quick:
        # Compiling is most of it. Read when JAX first computes something, which is later.
        quickly = "--xla_backend_optimization_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quickly}"
        arguments.dataset, arguments.pixels, arguments.steps, arguments.batch = "digits", 8, 20, 32
        arguments.archs, arguments.truth_seeds, arguments.seeds, arguments.bands = 4, 1, 1, 2
        arguments.methods = ["single path", "sandwich, KL"]
    for name in ("steps", "truth_seeds", "seeds", "bands"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.archs < 2 * arguments.bands:
        parser.error(f"--archs must be at least {2 * arguments.bands}: two for each of --bands")
    try:
        study = Study(arguments)
    except UserError as error:
        parser.error(str(error))
    if not arguments.tables:
        study.train()
    found = study.found()
    figures = fidelity_tables.show(found)
    if arguments.pictures is not None:
        fidelity_tables.draw(found, arguments.pictures)
    measure.write(arguments.json, figures)


class Training(NamedTuple):
    """One training of the study.

    Attributes:
        name: of its folder.
        settings: its configuration.
        method: of a supernet, None of an arch alone.
        arch: its number, of one alone.
        seed: of it.
    """

    name: str
    settings: Config
    method: str | None
    arch: int | None
    seed: int


class Study:
    """All trainings of the experiment, and what was measured of them."""

    def __init__(self, arguments: argparse.Namespace):
        self._asked = arguments
        base, types = config.load_file(CONFIG)
        images = dataclasses.replace(
            base.data,
            name=arguments.dataset,
            data_dir=arguments.data_dir,
            size=arguments.pixels,
            **({"held_out": 0.2, "flip": False} if arguments.quick else {}),
        )
        own = dataclasses.replace(
            base.train,
            steps=arguments.steps,
            batch=arguments.batch,
            checkpoint_every=max(1, arguments.steps // 2),
        )
        space = types["Reduced"](pixels=arguments.pixels)
        self._alone = types["Alone"]
        limits = {"batch": 32, "calibration_batches": 2} if arguments.quick else {}
        evaluation = dataclasses.replace(base.evaluation, **limits)
        self._base = dataclasses.replace(
            base, data=images, train=own, space=space, evaluation=evaluation
        )
        self._folder = arguments.out
        self._built = build.build(self._base)
        self._check_same()
        self._archs = chosen(self._built, arguments.archs)
        self._steps: dict[str, Callable[..., Any]] = {}

    def _check_same(self) -> None:
        """Notes what the folder is about, or makes sure that it is about the same."""
        names = ("dataset", "pixels", "steps", "batch", "archs")
        own = {name: vars(self._asked)[name] for name in names}
        path = self._folder / "study.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else own
        other = {name: known[name] for name in names if known[name] != own[name]}
        if other:
            raise UserError(f"{self._folder} holds a study with {other}; choose another --out")
        self._folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, own)

    @functools.cached_property
    def _judge(self) -> "Judge":
        return Judge(self._built)

    @property
    def trainings(self) -> list[Training]:
        """Every training, first those of the truth, then one seed of every method after another."""
        menu, asked, found = self._built.space.menu, self._asked, []
        for seed in range(asked.truth_seeds):
            for i, arch in enumerate(choices.unstack(self._archs)):
                notation = json.dumps(to_notation(menu, arch))
                parts = {"sampler": self._alone(notation), "loss": LABELS}
                # Switched is faster than masked over many steps, but compiles for longer.
                strategy = "masked" if asked.quick else "switched"
                settings = self._with(parts, 1, seed, strategy=strategy, steps=asked.steps)
                found.append(Training(f"alone-{i}-{seed}", settings, None, i, seed))
        for seed in range(asked.seeds):
            for name in asked.methods:
                method = METHODS[name]
                settings = self._with(method.parts, method.members, seed)
                folder = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
                found.append(Training(folder, settings, name, None, seed))
        return found

    def _with(
        self,
        parts: dict[str, Any],
        members: int,
        seed: int,
        *,
        steps: int | None = None,
        strategy: str = "auto",
    ) -> Config:
        steps = steps or round(MEMBERS * self._asked.steps / members)
        own = dataclasses.replace(self._base.train, steps=steps, seed=seed, strategy=strategy)
        return dataclasses.replace(self._base, train=own, **parts)

    def train(self) -> None:
        """Trains and evaluates what is missing."""
        todo = [one for one in self.trainings if not self._file(one).exists()]
        every, start = len(self.trainings), time.perf_counter()
        for i, one in enumerate(todo):
            pace = (time.perf_counter() - start) / max(i, 1) / 60
            about = f", about {pace * (len(todo) - i):,.0f} min left at this pace" if i else ""
            print(f"{every - len(todo) + i + 1} of {every}: {one.name}{about}", file=sys.stderr)
            self._do(one)

    def _file(self, one: Training) -> pathlib.Path:
        return self._folder / one.name / "fidelity_scores.json"

    def _do(self, one: Training) -> None:
        start = time.perf_counter()
        built = build.rebuilt(self._built, one.settings)
        folder = self._folder / one.name
        run_folder.start_run(folder, one.settings)
        # One compiled step for all seeds of a method, and for all archs alone.
        kind = one.method or "alone"
        if kind not in self._steps:
            self._steps[kind] = train_step.Step(built.recipe, mesh=built.mesh, rules=built.rules)
        work = job(built, folder)._replace(step=self._steps[kind])
        with work.checkpoints:
            state, finished = loop.fit(work)
        if not finished:
            raise SystemExit(f"stopped; the same command goes on with {one.name}")
        seconds = time.perf_counter() - start
        judge, archs = self._judge, self._archs
        if one.arch is None:
            found = {
                "test": judge.accuracies(state.params, archs, "test"),
                "held_out": judge.accuracies(state.params, archs, "held-out"),
                "uncalibrated": judge.uncalibrated(state.params, archs),
                **spent(built),
            }
        else:
            arch = jax.tree.map(lambda leaf: leaf[one.arch : one.arch + 1], archs)
            found = {"test": judge.accuracies(state.params, arch, "test")[0]}
        files.write_json(self._file(one), {**found, "seconds": seconds})

    def found(self) -> fidelity_tables.Found:
        """What was measured, of the trainings that are done."""
        asked, space = self._asked, self._built.space
        done = [
            (one, json.loads(self._file(one).read_text("utf-8")))
            for one in self.trainings
            if self._file(one).exists()
        ]
        truth = np.full((asked.truth_seeds, asked.archs), np.nan)
        supernets: dict[str, list[dict[str, Any]]] = {}
        for one, record in done:
            if one.arch is not None:
                truth[one.seed, one.arch] = record["test"]
            elif one.method is not None:
                supernets.setdefault(one.method, []).append(record)
        whole = ~np.isnan(truth).any(1)
        if not whole.any():
            raise SystemExit("the archs are not all trained alone yet; run this without --tables")
        macs = np.asarray(costs.macs(space)(self._archs), np.float64)
        found = fidelity_tables.Found(
            macs=macs,
            parameters=np.asarray(costs.parameters(space)(self._archs), np.float64),
            truth=truth[whole],
            alone_macs=3 * float(macs.mean()) * asked.steps * asked.batch,
            supernets=supernets,
            about={name: METHODS[name].about for name in supernets},
            bands=asked.bands,
        )
        self._write_pairs(done, found.truth.mean(0), macs)
        return found

    def _write_pairs(
        self, done: list[tuple[Training, Any]], truth: np.ndarray, macs: np.ndarray
    ) -> None:
        """What `supernet report` draws, into the folder of each supernet."""
        menu, archs = self._built.space.menu, choices.unstack(self._archs)
        notations = [to_notation(menu, arch) for arch in archs]
        for one, record in done:
            if one.method is None:
                continue
            pairs = [
                {"arch": n, "macs": int(m), "inherited": i, "alone": float(a), "seed": one.seed,
                 "method": one.method}
                for n, m, i, a in zip(notations, macs, record["test"], truth, strict=True)
            ]  # fmt: skip
            files.write_json(self._folder / one.name / "fidelity.json", pairs)


def chosen(built: Experiment, count: int) -> Arch:
    """Archs spread evenly over the MACs of a space, smallest and largest with them: `[count]`."""
    menu, macs = built.space.menu, costs.macs(built.space)
    drawn = jax.device_get(choices.sample(menu, jax.random.key(0), (4_000,)))
    spent = np.asarray(macs(drawn), np.float64)
    ends = [choices.smallest(menu), choices.largest(menu)]
    targets = np.linspace(*(float(macs(arch)) for arch in ends), count)[1:-1]
    taken: list[int] = []
    for target in targets:
        away = np.abs(spent - target)
        away[taken] = np.inf
        taken.append(int(np.argmin(away)))
    rows = choices.unstack(drawn)
    return choices.stack([ends[0], *(rows[i] for i in taken), ends[1]])


def spent(built: Experiment) -> dict[str, float]:
    """Images and MACs of training a whole supernet; backward counts as twice forward."""
    recipe, settings = built.recipe, built.config.train
    steps = np.unique(np.linspace(0, settings.steps - 1, 200).astype(np.int32))
    seen = sampler_visits.visits(
        built.space, recipe.sampler, steps, np.zeros_like(steps), seed=settings.seed
    )
    every = np.concatenate(list(seen.macs.values()))
    members, macs = len(every) / len(steps), 3 * float(every.sum()) / len(steps)
    if seen.scored:  # each candidate costs a forward pass
        macs += built.config.sampler.trials * float(seen.macs["random"].sum()) / len(steps)
    images = settings.steps * settings.batch
    return {"images": members * images, "macs": macs * images}


class Judge:
    """Accuracies of archs of the study.

    Args:
        built: any of its experiments.
    """

    def __init__(self, built: Experiment):
        self._space = built.space
        self._how = build.evaluation_how(built)
        self._images = {
            split: build.evaluation_data(built, split) for split in ("held-out", "test")
        }

    def accuracies(self, params: Any, archs: Arch, split: str) -> list[float]:
        """Calibrated accuracies on the whole split."""
        found = np.zeros(len(choices.unstack(archs)))
        for where, result in evaluate.evaluate(self._how, params, archs, self._images[split]):
            found[where] = result.value
        return found.tolist()

    def uncalibrated(self, params: Any, archs: Arch) -> list[float]:
        """Held-out accuracies with the same statistics for all archs.

        Those are, for each channel, the mean over random archs that have it: what running averages
        hold when single archs train in turn.
        """
        images = self._images["held-out"]
        some = choices.sample(self._space.menu, jax.random.key(1), (SHARED,))
        rows = [stats for _, stats in evaluate.calibrated(self._how, params, some, images)]
        every = np.concatenate(rows)
        mean = every.sum(0) / np.maximum((every != 0).sum(0), 1)  # what an arch lacks is 0
        n, batches = len(choices.unstack(archs)), (0, len(images.real))
        stats = np.tile(mean.astype(np.float32), (n, 1))
        right = np.zeros(n)
        for where, found in evaluate.scored(
            self._how, params, archs, stats, images, batches=batches
        ):
            right[where] = np.asarray(found["right"]).sum((1, 2))
        return (right / int(np.asarray(images.real).sum())).tolist()


if __name__ == "__main__":
    main()
