"""The published PyTorch supernet and ours: the same step, the same evaluation, the same weights.

    git clone https://github.com/facebookresearch/AttentiveNAS
    python benchmarks/peer_alphanet.py --reference AttentiveNAS --pixels 128 --batch 32

Needs PyTorch and PyYAML beside this project. Nothing of the published code is in this project: the
checkout that you bring is imported. First both compute the losses of one step from the same
weights, archs and images, and have to agree. Then, in turn and with new archs in every round:

- the sandwich step: largest, two random, smallest; distillation by soft cross-entropy; SGD;
- one candidate, calibrated on `--batches` batches of images and evaluated on as many.

Both run on the GPU if JAX has one, and share its memory; images are on the device beforehand. Both
compute at the same `--precision`, which matters on a GPU, where each library rounds by default in
its own way:

- float32: whole float32, no TF32 anywhere;
- tf32: the factors of products and convolutions rounded to TF32 (on CPU this is float32);
- bfloat16: weights and activations of ours in bfloat16, theirs under `torch.autocast`.

Results can only be compared strictly in float32. The other two are held to looser limits, and the
numbers of correct images are printed without being compared.
"""

import contextlib
import copy
import dataclasses
import functools
import os
import pathlib
import sys
import types

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # of a GPU: PyTorch needs some too

import jax
import jax.numpy as jnp
import measure
import numpy as np
import torch
import yaml
from evaluation import population  # the script beside this one
from torch.nn import functional

from supernet_jax.elastic import choices, notation
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.evaluate import EvaluationData, How, evaluate
from supernet_jax.experiment import config
from supernet_jax.networks.importers import attentivenas as attentivenas_files
from supernet_jax.spaces import attentivenas
from supernet_jax.training import samplers, train_step
from supernet_jax.training.losses import divergences, loss
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Batch, Recipe, State

CLASSES = 10
# Relative, two libraries, 37 blocks. On GPU convolutions may be computed by other algorithms.
TOLERANCES = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 5e-2}
TOLERANCE_ON_GPU = 1e-4
MEMBERS = ("largest", "random_1", "random_2", "smallest")


def main() -> None:
    """Checks that both compute the same, then compares their times."""
    parser = measure.parser(__doc__)
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="the checkout")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="images per step or batch")
    parser.add_argument("--batches", type=int, default=1, help="for calibration and evaluation")
    parser.add_argument("--candidates", type=int, default=4, help="evaluated per round")
    parser.add_argument("--strategies", nargs="+", default=["masked", "switched"])
    parser.add_argument(
        "--jobs", nargs="+", default=["train", "evaluate"], choices=("train", "evaluate")
    )
    parser.add_argument("--precision", default="float32", choices=TOLERANCES)
    parser.add_argument("--rate", type=float, help="evaluate mutants with this rate, not uniform")
    parser.add_argument("--peak", type=float, help="Tflop/s of this device at this precision")
    parser.add_argument("--compile", action="store_true", help="also run it under torch.compile")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    set_precision(arguments.precision)
    space = space_of(arguments.pixels)
    peers = {"PyTorch NCHW": Peer(arguments, space)}
    start = peers["PyTorch NCHW"].parameters()
    peers["PyTorch channels_last"] = Peer(arguments, space, channels_last=True)
    if arguments.compile:
        peers["PyTorch compiled"] = Peer(arguments, space, compiled=True)
    weights = copy.deepcopy(peers["PyTorch NCHW"].model.state_dict())
    load(peers, weights)
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.pixels, arguments.pixels, 3)
    images = rng.standard_normal(shape).astype(np.float32)
    labels = rng.integers(0, CLASSES, arguments.batch, np.int32)
    report = []
    if "train" in arguments.jobs:
        dtype = config.dtype(ours_dtype(arguments.precision))
        steps = {s: Ours(space, s, start, dtype) for s in arguments.strategies}
        stepping = {
            name: functools.partial(run.step, *run.ready(images, labels))
            for name, run in {**peers, **steps}.items()
        }
        archs = [archs_of(space, i) for i in range(rounds + 1)]
        found = {name: step(archs[0]) for name, step in stepping.items()}
        check(found, arguments.precision)
        for arch in archs[1:] if "blockwise" in stepping else []:
            stepping["blockwise"](arch)  # compiles kinds of blocks not met before
        timings = measure.in_turn(
            {name: lambda i, step=step: step(archs[i]) for name, step in stepping.items()}, rounds
        )
        report += rows("step", timings, arguments, work=work_of_steps(space, archs[1:], arguments))
        del steps
        load(peers, weights)
    if "evaluate" in arguments.jobs:
        report += rows("candidate", candidates(arguments, space, start, peers, rounds), arguments)
    also = {"gflops": "Gflop/s"} | ({"share": "of the peak"} if arguments.peak else {})
    measure.timings_table(report, ("job", "pixels", "batch", "precision"), also=also)
    for name, size in peak_memory().items():
        print(f"most memory of {name}: {size / 2**30:.2f} GiB")
    measure.write(arguments.json, {"torch": torch.__version__, "rows": report})


def set_precision(precision):
    """Makes both libraries compute products of matrices, and convolutions, alike."""
    is_rounded = precision == "tf32"
    jax.config.update("jax_default_matmul_precision", None if is_rounded else "highest")
    torch.backends.cuda.matmul.allow_tf32 = is_rounded
    torch.backends.cudnn.allow_tf32 = is_rounded


def ours_dtype(precision):
    """Our dtype of weights and activations."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def device():
    """PyTorch's name of the device that JAX runs on."""
    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        sys.exit(f"JAX runs on {jax.default_backend()}, but this PyTorch has no GPU")
    return torch.device("cuda")


def load(peers, weights):
    """Puts all at the same weights."""
    for peer in peers.values():
        peer.model.load_state_dict(weights)


def space_of(pixels):
    """The published space without dropout, whose random numbers are each library's own."""
    return measure.at_resolution(
        attentivenas.attentivenas(classes=CLASSES, dropout=0.0, drop_path=0.0), pixels
    )


def work_of_steps(space, archs, arguments):
    """Floating-point operations of a step, the median over the rounds: two for each multiply-add of
    each member's forward pass, and three times that with the backward pass.
    """
    macs = costs.macs(space)
    fixed = int(macs(choices.largest(space.menu))) + int(macs(choices.smallest(space.menu)))
    random = np.median([np.sum(macs(pair)) for pair in archs])
    return 6 * arguments.batch * (fixed + float(random))


def peak_memory():
    """The most bytes of a GPU that each library has held; of a CPU nothing is known."""
    if jax.default_backend() == "cpu":
        return {}
    ours = jax.local_devices()[0].memory_stats() or {}
    theirs = torch.cuda.max_memory_allocated()
    return {"JAX": ours.get("peak_bytes_in_use", 0), "PyTorch": theirs}


def rows(job, timings, arguments, work=None):
    """Rows of the report, their ratio that to the fastest variant of PyTorch; what they reach of
    the operations that are needed, where `work` says how many these are.
    """
    theirs = {name: t.median_s for name, t in timings.items() if name.startswith("PyTorch")}
    best = min(theirs, key=theirs.get)
    about = {"pixels": arguments.pixels, "batch": arguments.batch}
    about["precision"] = arguments.precision
    made = measure.rows(timings, base=best, job=job, **about)
    for row in made:
        reached = "" if work is None else work / row["median_s"] / 1e9
        row |= {"gflops": reached, "share": reached and reached / (1e3 * (arguments.peak or 1))}
    return made


def archs_of(space, i):
    """Two random archs, the same for all, in a round."""
    return jax.device_get(choices.sample(space.menu, jax.random.key(i), (2,)))


def check(found, precision):
    """Ends the benchmark unless all computed the same losses."""
    tolerance = TOLERANCES[precision]
    if jax.default_backend() != "cpu":
        tolerance = max(tolerance, TOLERANCE_ON_GPU)
    base = np.asarray(found["PyTorch NCHW"])
    for name, values in found.items():
        difference = np.max(np.abs(np.asarray(values) - base) / np.abs(base))
        print(f"losses of {name}: {', '.join(f'{v:.5f}' for v in values)} ({difference:.1e})")
        if not difference < tolerance:
            sys.exit(f"{name} does not compute what PyTorch does; no times are compared")


class Peer:
    """The published model, and its training step and evaluation as published."""

    def __init__(self, arguments, space, *, channels_last=False, compiled=False):
        sys.path.insert(0, str(arguments.reference))
        from models.attentive_nas_dynamic_model import AttentiveNasDynamicModel

        text = (arguments.reference / "configs" / "train_attentive_nas_models.yml").read_text(
            "utf-8"
        )
        described = namespace(yaml.safe_load(text)["supernet_config"])
        torch.manual_seed(0)
        self.model = AttentiveNasDynamicModel(described, n_classes=CLASSES, bn_param=(0.0, 1e-5))
        with torch.no_grad():  # last scales are zero at first, and hide the blocks' interiors
            for name, parameter in self.model.named_parameters():
                if name.endswith("bn.bn.weight"):
                    parameter.fill_(0.8)
        self.space, self.device = space, device()
        self.precision = arguments.precision
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = self.model.to(self.device, memory_format=self.format)
        self.call = torch.compile(self.model) if compiled else self.model
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 1e-5}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)

    def parameters(self):
        """Its weights as our parameters."""
        state = {n: p.detach().cpu().numpy() for n, p in self.model.named_parameters()}
        tree, _ = attentivenas_files.load(state, self.space)
        return jax.tree.map(jnp.array, tree)  # a copy: theirs change in place

    def images(self, images):
        """Our layout to its."""
        theirs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        return theirs.to(self.device, memory_format=self.format)

    def labels(self, labels):
        """On its device."""
        return torch.from_numpy(labels).long().to(self.device)

    def ready(self, images, labels):
        """Images and labels as `step` takes them."""
        return self.images(images), self.labels(labels)

    def computing(self):
        """Where its forward passes run."""
        is_short = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_short)

    def wait(self):
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def choose(self, arch):
        """Makes an arch the active one."""
        self.model.set_active_subnet(**notation.to_notation(self.space.menu, arch))

    def step(self, inputs, targets, archs):
        """One sandwich step; returns the members' losses in the order of `MEMBERS`."""
        space = self.space
        chosen = [
            choices.largest(space.menu),
            *choices.unstack(archs),
            choices.smallest(space.menu),
        ]
        self.model.train()
        self.optimizer.zero_grad()
        found, teacher = [], None
        for arch in chosen:
            self.choose(arch)
            with self.computing():
                logits = self.call(inputs)
            logits = logits.float()
            if teacher is None:
                loss = functional.cross_entropy(logits, targets, label_smoothing=0.1)
                teacher = functional.softmax(logits.detach(), 1)
            else:
                loss = -(teacher * functional.log_softmax(logits, 1)).sum(1).mean()
            loss.backward()
            found.append(loss.detach())
        torch.nn.utils.clip_grad_value_(self.model.parameters(), 1.0)
        self.optimizer.step()
        losses = torch.stack(found).tolist()
        self.wait()
        return losses

    @torch.no_grad()
    def candidate(self, arch, calibration, images, labels):
        """Calibrates and evaluates one candidate; returns the number of correct images."""
        self.choose(arch)
        subnet = self.model.get_active_subnet().to(memory_format=self.format)
        subnet.eval()
        subnet.reset_running_stats_for_calibration()
        with self.computing():
            for batch in calibration:
                subnet(batch)
            subnet.eval()
            pairs = zip(images, labels, strict=True)
            right = [(subnet(batch).argmax(1) == label).sum() for batch, label in pairs]
        return int(torch.stack(right).sum())


def namespace(value):
    """Nested dicts as objects with attributes."""
    if isinstance(value, dict):
        return types.SimpleNamespace(**{key: namespace(item) for key, item in value.items()})
    return value


class Ours:
    """Our training step; the archs of a step come from the sampler's state, hence as data."""

    def __init__(self, space, strategy, params, dtype):
        sampler = samplers.sandwich(space.menu, n_random=2)._replace(
            init=lambda key: choices.sample(space.menu, key, (2,)),
            sample=lambda state, key, step, score: state,
        )
        recipe = Recipe(
            space=space,
            sampler=sampler,
            loss=loss.in_place_distillation(divergences.soft_cross_entropy, smoothing=0.1),
            optimizer=sgd.alphanet_sgd(0.01, weight_decay=1e-5),
            augment=lambda images, key, ids: images,
            strategy=config.strategy(strategy, backend=jax.default_backend()),
            dtype=dtype,
        )
        zero = jnp.zeros((), jnp.int32)
        params = jax.tree.map(jnp.copy, params)
        opt_state = recipe.optimizer.init(params)
        counters = zero + 0, zero + 0
        key = jax.random.key_data(jax.random.key(0))
        self.state = State(zero, params, opt_state, (), None, *counters, key)
        self.program = train_step.Step(recipe)
        self.resolutions = tuple(space.sizes) * 4

    def ready(self, images, labels):
        """A batch on the device, as `step` takes it."""
        ids = np.arange(len(labels), dtype=np.int32)
        return (jax.device_put(Batch(images, labels, ids)),)

    def step(self, batch, archs):
        """One sandwich step; returns the members' losses in the order of `MEMBERS`."""
        state = dataclasses.replace(self.state, sampler=jax.tree.map(jnp.asarray, archs))
        state, metrics = self.program(state, batch, sizes=self.resolutions)
        self.state = jax.block_until_ready(state)
        return [float(metrics[f"loss/{member}"]) for member in MEMBERS]


def candidates(arguments, space, params, peers, rounds):
    """Times of one candidate, for all."""
    rng = np.random.default_rng(1)
    size, pixels = arguments.batch, arguments.pixels
    shape = (arguments.batches, size, pixels, pixels, 3)
    calibration, images = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    labels = rng.integers(0, CLASSES, shape[:2], np.int32)
    data = jax.device_put(EvaluationData(calibration, images, labels, labels >= 0))
    dtype = config.dtype(ours_dtype(arguments.precision))

    def prepare(images):
        return images.astype(jnp.float32) / 128.0 - 1.0

    archs = [
        population(space.menu, arguments.rate, arguments.candidates, i) for i in range(rounds + 1)
    ]

    def ours(strategy, i):
        how = How(space, prepare, strategy, chunk=arguments.candidates, dtype=dtype)
        correct = np.zeros(arguments.candidates, int)
        for where, result in evaluate(how, params, archs[i], data):
            correct[where] = np.round(result.value * result.total)
        return correct

    def ready(peer):
        def floats(batches):
            return [peer.images(batch.astype(np.float32) / 128.0 - 1.0) for batch in batches]

        return floats(calibration), floats(images), peer.labels(labels)

    def theirs(peer, inputs, i):
        with contextlib.redirect_stdout(None):
            chosen = choices.unstack(archs[i])
            return np.asarray([peer.candidate(arch, *inputs) for arch in chosen])

    runs = {name: functools.partial(theirs, peer, ready(peer)) for name, peer in peers.items()}
    for name in arguments.strategies:
        runs[name] = functools.partial(ours, config.STRATEGIES[name])
    for i in range(rounds + 1) if "blockwise" in runs else []:
        runs["blockwise"](i)  # compiles kinds of blocks not met before
    timings = measure.in_turn(runs, rounds)
    found = {name: run(0) for name, run in runs.items()}
    for name, correct in found.items():
        print(f"correct images of {name}: {correct.tolist()}")
        is_exact = arguments.precision == "float32"
        if is_exact and not np.array_equal(correct, found["PyTorch NCHW"]):
            sys.exit(f"{name} does not find what PyTorch finds; no times are compared")
    return {
        name: t._replace(
            **{k: getattr(t, k) / arguments.candidates for k in ("median_s", "low_s", "high_s")}
        )
        for name, t in timings.items()
    }


if __name__ == "__main__":
    main()
