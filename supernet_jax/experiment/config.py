"""Configurations: frozen dataclasses that say what an experiment is, and build it.

A config file is a Python file with a module-level `config = Config(...)`. Its numbers can be
overridden on the command line; another *kind* of part (your own space, sampler, loss) is a frozen
dataclass with a `build` method, put in your own file. The whole configuration is written as JSON
into every run folder and checkpoint. Reading it back looks types up among the library's own and
those of a file that the user passes; nothing is imported because a checkpoint says so.
"""

import dataclasses
import pathlib
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax.numpy as jnp

from supernet_jax import searching, spaces, tasks
from supernet_jax.data.settings import Data
from supernet_jax.elastic import blockwise, strategies
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.errors import UserError, near, require
from supernet_jax.evaluation import costs
from supernet_jax.searching import Evolution
from supernet_jax.spaces import Digits
from supernet_jax.storage import files, typed_json, user_code
from supernet_jax.storage.paths import expanded, on_this_machine
from supernet_jax.training import gradients, losses, optimizers, penalties, samplers, teachers
from supernet_jax.training.gradients import UnitSum
from supernet_jax.training.losses import AlphaDivergence
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Sandwich
from supernet_jax.training.teachers import Largest


@dataclasses.dataclass(frozen=True)
class Train:
    """How long to train, in batches of which size, and how the work is divided."""

    steps: int = 400
    """optimiser steps; more take longer"""
    batch: int = 64
    """images per step, over all devices; more need more memory"""
    seed: int = 0
    """seed of parameters, subnets, dropout, data order and augmentation"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """precision of weights and activations in forward and backward passes"""
    strategy: Literal["auto", "masked", "switched", "blockwise", "mixed"] = "auto"
    """how subnets run; auto picks what is faster on this backend, and mixed for codes"""
    arch_shards: int = 1
    """parts of each batch that train random subnets of their own; more train more subnets"""
    norm_shards: int = 1
    """parts of each batch that BatchNorm normalises by themselves; 1 for the whole batch"""
    accumulate: int = 1
    """micro-batches per step; more need less memory; BatchNorm sees the images of one of them"""
    features: tuple[str, ...] = ()
    """blocks, or values inside them as BLOCK/NAME, that the loss compares with the largest's"""
    teacher: str | None = None
    """folder of an extracted network that teaches: short for teacher=ExtractedNetwork(folder)"""
    teacher_file: str | None = None
    """Python file of yours that defines the teacher's blocks, if some are your own; it is run"""
    ema: float = 0.0
    """decay of the average of the parameters; more averages over more steps, 0 keeps none"""
    remat: bool = False
    """compute the insides of blocks again for gradients: less memory, more time; not on CPU"""
    shard_params: bool = False
    """split parameters, optimiser state and average over the devices, for less memory on each"""
    model_devices: int = 1
    """devices that share a copy of those; more take less memory each, and send more"""
    checkpoint_every: int = 200
    """steps between checkpoints; at most so many are computed again after a kill"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How subnets are calibrated and evaluated."""

    calibration_batches: int = 4
    """batches of training images for BatchNorm statistics; more make them steadier"""
    batch: int = 128
    """images per batch, in calibration and in evaluation; more need more memory"""
    strategy: Literal["auto", "masked", "switched", "blockwise"] = "auto"
    """how subnets run; auto picks what is faster for this space on this machine"""
    chunk: int = 16
    """subnets that go through together, on each device or group of devices"""
    limit: int = 0
    """held-out images to use; more rank subnets better, and take longer; 0 uses all"""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment: which subnets there are, on which data and how they are trained.

    `space`, `sampler`, `loss`, `teacher`, `combine` and `optimizer` are parts: frozen dataclasses
    with a method `build`, of `sj.spaces`, `sj.samplers`, `sj.losses`, `sj.teachers`,
    `sj.gradients`, `sj.optimizers`, or your own. So are `task`, of `sj.tasks` (with None the data
    says what networks are for), `penalty`, of `sj.penalties` (None for none), and what a search of
    the trained run uses: `searcher`, of `sj.searching`, and costs of your own in `costs`.

    Raises:
        UserError: a setting is of another type than declared, or not allowed.
    """

    space: Any = dataclasses.field(default_factory=Digits)
    data: Data = dataclasses.field(default_factory=Data)
    sampler: Any = dataclasses.field(default_factory=Sandwich)
    loss: Any = dataclasses.field(default_factory=AlphaDivergence)
    teacher: Any = dataclasses.field(default_factory=Largest)
    combine: Any = dataclasses.field(default_factory=UnitSum)
    optimizer: Any = dataclasses.field(default_factory=Sgd)
    train: Train = dataclasses.field(default_factory=Train)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    task: Any = None
    searcher: Any = dataclasses.field(default_factory=Evolution)
    costs: tuple[Any, ...] = ()
    penalty: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_types(getattr(self, field.name), field.name)
        train, data, evaluation = self.train, self.data, self.evaluation
        for name, value, low in (
            ("train.steps", train.steps, 1),
            ("train.batch", train.batch, 2),
            ("train.checkpoint-every", train.checkpoint_every, 1),
            ("train.log-every", train.log_every, 1),
            ("train.seed", train.seed, 0),
            ("train.arch-shards", train.arch_shards, 1),
            ("train.norm-shards", train.norm_shards, 1),
            ("train.accumulate", train.accumulate, 1),
            ("train.model-devices", train.model_devices, 1),
            ("data.length", data.length if data.length is not None else 1, 1),
            ("data.pad", data.pad, 0),
            ("data.layers", data.layers, 1),
            ("data.mixup", data.mixup, 0),
            ("data.cutmix", data.cutmix, 0),
            ("data.split-seed", data.split_seed, 0),
            ("data.threads", data.threads, 0),
            ("data.workers", data.workers, 0),
            ("evaluation.calibration-batches", evaluation.calibration_batches, 1),
            ("evaluation.batch", evaluation.batch, 2),
            ("evaluation.chunk", evaluation.chunk, 1),
            ("evaluation.limit", evaluation.limit, 0),
        ):
            require(value >= low, f"{name} is {value}, but must be at least {low}")
            # JAX would take the last bits alone.
            require(value < 2**31, f"{name} is {value}, but must be at most {2**31 - 1}")
        require(0 <= train.ema < 1, f"train.ema is {train.ema}, but must be in [0, 1)")
        require(
            0 <= data.magnitude <= 10, f"data.magnitude is {data.magnitude}, but must be 0 to 10"
        )
        require(0 <= data.erase <= 1, f"data.erase is {data.erase}, but must be in [0, 1]")
        require(
            data.held_out < 1 or data.held_out == int(data.held_out),
            f"data.held-out is {data.held_out}, but must be a share below 1 or a whole number",
        )
        require(data.held_out > 0, f"data.held-out is {data.held_out}, but must be above 0")
        require(data.size is None or data.size > 0, f"data.size is {data.size}, must be above 0")
        require(0 <= data.second < 1, f"data.second is {data.second}, but must be in [0, 1)")


# Of these rooms, only what has a `build`.
OFFERING = (tasks.__name__, searching.__name__, costs.__name__)
# Whose dataclasses a configuration is made of.
PARTS = (
    *(spaces, samplers, losses, teachers, gradients, optimizers, penalties, tasks),
    *(searching, searching.predictors, costs),
)


def _dataclasses_of(module: Any) -> dict[str, type]:
    members = vars(module).items()
    return {n: m for n, m in members if isinstance(m, type) and dataclasses.is_dataclass(m)}


LIBRARY: dict[str, type] = {
    **{
        name: kind
        for module in PARTS
        for name, kind in _dataclasses_of(module).items()
        # Tasks, budgets and costs are dataclasses, too; a configuration names what builds one.
        if kind.__module__.startswith(module.__name__)
        and (not module.__name__.startswith(OFFERING) or "build" in vars(kind))
    },
    **{kind.__name__: kind for kind in (Data, Train, Evaluation, Config)},
}
# What the command line knows by name.
SPACES: dict[str, Any] = {
    vars(kind)["name"]: kind()
    for kind in _dataclasses_of(spaces).values()
    if kind.__module__.startswith(spaces.__name__) and "name" in vars(kind)
}
FILES = "user files"  # in `config.json`, beside the fields of a `Config`
STRATEGIES: dict[str, Strategy] = {
    "masked": strategies.masked,
    "switched": strategies.switched,
    "blockwise": blockwise.blockwise,
    "mixed": mixed,
}
# Multiply-adds of the largest subnet for a batch, forward, from which on it is faster block by
# block on one CPU. A training step (benchmarks/train_step.py) takes 1.07 of the masked step's time
# on digits (4e7), 0.70 on cifar (2e9), 0.67 in AttentiveNAS at 128 px (2e10); a uniform candidate
# of an evaluation (benchmarks/peer_alphanet.py --jobs evaluate) 0.85 there. Below, programs for
# each kind of block take longer to compile than they save. Other devices launch programs at a price
# that is not yet measured.
BLOCKWISE_WORK = 5e8


def strategy(
    name: str,
    *,
    backend: str,
    work: float = 0.0,
    devices: int = 1,
    codes: bool = False,
) -> Strategy:
    """The strategy of a name; "auto" takes what is faster.

    Args:
        name: of a strategy, or "auto".
        backend: of JAX.
        work: multiply-adds of the largest subnet for a batch, forward.
        devices: number.
        codes: whether subnets are codes, the weights of options, rather than archs.

    Raises:
        UserError: it does not run codes.
    """
    if codes and name in ("switched", "blockwise"):
        raise UserError(
            f"train.strategy is {name}, which runs archs, but the sampler draws codes; take mixed, "
            "which mixes what the options put out, or masked, which mixes their weights"
        )
    if name != "auto":
        return STRATEGIES[name]
    if codes:
        return mixed
    pays = backend == "cpu" and devices == 1 and work >= BLOCKWISE_WORK
    return blockwise.blockwise if pays else strategies.masked


def name_of(strategy: Strategy) -> str:
    """The name of a strategy of the library."""
    return next(name for name, known in STRATEGIES.items() if known is strategy)


def dtype(name: str) -> Any:
    """The JAX dtype of a configured name."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]


def load_file(path: str | pathlib.Path) -> tuple[Config, dict[str, type]]:
    """Runs a config file. Returns its `config`, and the dataclasses that it defines.

    Raises:
        UserError: no such file, it cannot be read or does not run, or it has no `config`.
    """
    path = on_this_machine(expanded(path), "a config file is run")
    if not files.exists(path):
        hint = near(path.name, [file.name for file in files.found(path.parent, "*.py")])
        what = "" if hint else "; give a Python file that sets `config`, as configs/digits.py does"
        raise UserError(f"there is no config file {path}{hint}{what}")
    try:
        module = user_code.run(path)
    except UserError as error:
        raise UserError(f"{error}{_nearest_field(str(error))}") from error
    config = vars(module).get("config")
    if not isinstance(config, Config):
        seen = f"there it is {config!r}" if "config" in vars(module) else "it has no config"
        raise UserError(f"{path} must end with `config = Config(...)`; {seen}")
    return config, _dataclasses_of(module)


def _nearest_field(message: str) -> str:
    """What a misspelt field of one of the library's dataclasses should perhaps be."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if found is None or found[1] not in LIBRARY:
        return ""
    return near(found[2], [field.name for field in dataclasses.fields(LIBRARY[found[1]])])


def parts(config: Any) -> Iterator[Any]:
    """The parts of a configuration, and their own parts, as the space that another one adapts."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                yield part
                yield from parts(part)


def user_files(config: Config) -> dict[str, str]:
    """The file and its hash that define each of the user's own parts of a configuration."""
    kinds = [type(part) for part in parts(config)]
    return {k.__name__: user_code.named(k) for k in kinds if LIBRARY.get(k.__name__) is not k}


def read(path: pathlib.Path, types: Mapping[str, type] | None = None) -> Config:
    """Reads a run's `config.json`.

    Raises:
        UserError: the file is missing, cannot be read, is not JSON, or does not describe a
            `Config`.
    """
    try:
        value = files.read_json(path)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{path.parent} is not a run folder: it has no {path.name}") from None
        raise
    types = types or {}
    own = value.pop(FILES, {}) if isinstance(value, dict) else {}
    if not isinstance(own, dict):
        raise UserError(f"{path}: {FILES!r} is {own!r}, not files by name; was it edited?")
    for name, where in own.items():
        if name not in types:
            raise UserError(
                f"{path.parent} was trained with a {name} of your own; pass the file that defines "
                f"it with --config FILE (it was {where}, look at it, for it will be run)"
            )
    try:
        config = typed_json.parse(Any, value, "config", named={**LIBRARY, **types})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(config, Config):
        raise UserError(f"{path} does not describe a Config; was it edited?")
    return config


def _check_types(part: Any, where: str) -> None:
    """Python and edited JSON can put anything into a field of a part: it is said before its use."""
    wanted = typing.get_type_hints(Config).get(where, Any)
    if not typed_json.fits(wanted, part):
        raise UserError(f"{where} is {part!r}, but must be {typed_json.spelt(wanted)}")
    kind: Any = type(part)
    if LIBRARY.get(kind.__name__) is not kind:
        return  # the user's own class, who may hint at what he likes
    hints = typing.get_type_hints(kind)
    for name in [field.name for field in dataclasses.fields(part)]:
        value, hint = getattr(part, name), hints[name]
        if not typed_json.fits(hint, value):
            option = f"{where}.{name.replace('_', '-')}"
            raise UserError(f"{option} is {value!r}, but must be {typed_json.spelt(hint)}")
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{where}.{name}")
