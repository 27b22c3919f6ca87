"""Configurations: written and read back the same, and every file of configs/ is one."""

import ast
import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tiny_run
from conftest import ROOT

from supernet_jax.cli import quickstart
from supernet_jax.data import augment
from supernet_jax.elastic import blockwise, choices, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs import Latency, Macs, Parameters, PeakMemory
from supernet_jax.experiment import build, config, run_folder, train
from supernet_jax.experiment.config import LIBRARY, Config, Data, Evaluation, Train
from supernet_jax.runtime import sharding
from supernet_jax.searching import (
    Bayesian,
    BlockwiseChoice,
    Evolution,
    HardCoRe,
    Linas,
    Nsga2,
    RandomSearch,
)
from supernet_jax.searching.predictors import Boosting, Ensemble, Ridge, Svr
from supernet_jax.spaces import (
    SPOS,
    Adapted,
    AttentiveNAS,
    AutoFormerB,
    AutoFormerS,
    AutoFormerT,
    BertSupernet,
    Cifar,
    DartsEdges,
    DartsGenotypes,
    Decoder,
    Digits,
    EfficientTdnn,
    Ensembles,
    FBNetSmall,
    FBNetSpace,
    FewShot,
    HatIwslt14DeEn,
    HatWmt14EnDe,
    HatWmt14EnFr,
    HatWmt19EnDe,
    MaestroMlp,
    MCUFormer,
    NasBench201,
    NASViT,
    NASViTSmall,
    OfaMobileNetV3,
    OfaSmall,
    SinglePathNAS,
    SparseCells,
    SPOSSmall,
    TextEncoder,
    ViTResNAS,
    ViTResNASSmall,
    VitSupernet,
)
from supernet_jax.storage import typed_json
from supernet_jax.tasks import HideTokens, VerifySpeakers
from supernet_jax.training import samplers, train_step
from supernet_jax.training.gradients import ByRole, ConflictProjection, DelayedShrinking, UnitSum
from supernet_jax.training.losses import (
    AlphaDivergence,
    FeatureRelations,
    HardLabels,
    JensenShannon,
    OutsideTeacher,
    ReverseKL,
    SoftCrossEntropy,
)
from supernet_jax.training.optimizers import AdamW, GroupLasso, Sgd, schedules
from supernet_jax.training.penalties import SuperkernelCost
from supernet_jax.training.recipe import Batch
from supernet_jax.training.samplers import (
    Attentive,
    Darts,
    Delayed,
    Fair,
    FBNet,
    InstaTune,
    Neas,
    Nested,
    OrderedDropout,
    Phase,
    Preferred,
    Progressive,
    ProxylessNAS,
    Sandwich,
    Shift,
    SinglePath,
    Uniform,
)
from supernet_jax.training.teachers import (
    Average,
    ExtractedNetwork,
    Largest,
    NoTeacher,
    OtherSupernet,
)

FILES = sorted((ROOT / "configs").glob("*.py"))
CHANGED: tuple[Any, ...] = (
    AttentiveNAS(dropout=0.25, drop_path=0.125),
    Cifar(resolutions=(16, 20), dropout=0.5),
    Decoder(widths=(8,), kv_heads=2, positions="learned", tied=False),
    TextEncoder(hidden=(8, 16), longest=64),
    BertSupernet(hidden=(8, 16), vocabulary=64),
    VitSupernet(width=8, head_dim=4, deviation=0.5),
    HideTokens(share=0.25),
    HatIwslt14DeEn(dropout=0.5),
    HatWmt14EnDe(attended=(-1, 1), shared=False),
    HatWmt14EnFr(encoder_layers=(4, 6)),
    HatWmt19EnDe(qkv=256),
    MaestroMlp(hidden=(16,), ranks=(1, 2)),
    MCUFormer(rank_ratios=(0.5, 1.0), drop_path=0.1),
    EfficientTdnn(frames=(200, 300), groups=4),
    VerifySpeakers(margin=0.1, measure="min_dcf"),
    Digits(),
    OfaMobileNetV3(width=1.2, resolutions=(160, 224), dropout=0.25),
    OfaSmall(resolutions=(16, 20), dropout=0.25),
    NASViT(resolutions=(192, 224), dropout=0.25),
    NASViTSmall(widths=(8, 16), depths=(1, 2)),
    ViTResNAS(widths=(8, 12), head_dims=(2, 3, 4)),
    ViTResNASSmall(blocks=2, drop_path=0.1),
    Data("npz:images.npz", "somewhere", 0.25, split_seed=3, size=16, pad=2, flip=True),
    Sandwich(n_random=3),
    Uniform(n_random=4, macs=(1e6, 2e6)),
    Fair(n_random=6),
    Attentive(3, 4, "worst", "macs.json", bins=7),
    Phase(("depth", "width"), 0.25, options=2, sort=True),
    Adapted(Cifar(dropout=0.25), "runs/a", "mine.py", "{}", (1, 3), ("head/.*",), (), (".*",), 2.0),
    FewShot(Cifar(dropout=0.25), ("depth/1=1", "depth/1=2"), ("head",)),
    Progressive(3, 0.5, (Phase(("depth",), 0.25), Phase(("width",), 0.25, sort=True))),
    Delayed(3, 0.25),
    InstaTune(3),
    Darts(0.1, 0.0, 0.02),
    ProxylessNAS(0.1, 0.5, Latency("latency.json")),
    NasBench201(16, 8, 2),
    SparseCells(share=0.5),
    FBNet(Latency("latency.json"), beta=1.0, form="sum", start=0.25),
    FBNetSpace((192, 224), head=1504),
    FBNetSmall(widths=(4, 6), operations=("skip", "k3_e1")),
    SPOS((192, 224), (1.0,), affine=True),
    SPOSSmall(channels=(4, 6), operations=("choice_x",)),
    DartsEdges(16, 8, 5, 3, derived=True),
    DartsGenotypes(16, 8, 5, 3, derived=True),
    Ensembles(Cifar(dropout=0.25), members=3, splits=(2, 4), weights="own"),
    Neas(2, 3, 0.25, 0.75, keep=1, weight=2.0),
    SinglePath(),
    SinglePathNAS(widths=(8, 16), strides=(1, 2), kernels=(3, 5, 7)),
    SuperkernelCost(0.5, Parameters()),
    OrderedDropout(n_random=2),
    Nested(3, 5),
    Shift(3, 0.5, "macs.json", bins=7, generator=True),
    Preferred("archs.json", 3),
    AlphaDivergence(smoothing=0.2, alpha_min=-0.5, alpha_max=0.5, clip=3.0),
    SoftCrossEntropy(smoothing=0.2, temperature=2.0, hard_weight=0.5),
    ReverseKL(smoothing=0.2),
    JensenShannon(smoothing=0.2),
    UnitSum(clip_member=0.5),
    ByRole(largest=0.5, random=0.25),
    DelayedShrinking(delay=0.25, ramp=0.125),
    ConflictProjection(start=0.25, by_array=False),
    FeatureRelations(kind="tokens", weight=2.0),
    OutsideTeacher(hard_weight=0.25),
    Largest(),
    NoTeacher(),
    Average(decay=0.5),
    ExtractedNetwork("networks/large", "mine.py"),
    OtherSupernet("runs/other", "smallest", "mine.py"),
    AutoFormerT(embed_dims=(8, 16), depths=(1, 2), width=16),
    AutoFormerS(num_heads=(1, 2), mlp_ratios=(1.0, 2.5)),
    AutoFormerB(drop_path=0.25),
    Data(policy="randaugment", layers=3, magnitude=5.0, increasing=True, erase=0.25, mixup=0.5),
    Data(cutmix=0.5),
    Train(accumulate=2, features=("stem",), teacher="networks/large"),
    HardLabels(smoothing=0.2),
    Evolution(population=4, mutations=2, crossovers=1, mutation_rate=0.5, bins=8),
    RandomSearch(batch=4),
    Nsga2(population=4),
    Linas(predictor=Ensemble(members=2), first=8, batch=4, inner=100),
    Bayesian(batch=4, startup=8),
    BlockwiseChoice(bounds=4),
    HardCoRe(steps=5, budgets=2, strategy="masked"),
    Svr(epsilon=0.25),
    Ridge(),
    Boosting(trees=50, depth=2),
    Ensemble(members=2, width=8, steps=10),
    Macs(),
    Parameters(),
    Latency("latency.json"),
    PeakMemory(4),
    Sgd(learning_rate=0.5, warmup=0.25, momentum=0.5, weight_decay=0.125, clip=2.0),
    GroupLasso(inner=Sgd(), weight=0.5),
    AdamW(learning_rate=0.5, warmup=0.25, weight_decay=0.125, clip_norm=2.0),
    Train(7, 32, 5, "bfloat16", "masked", 0.5, checkpoint_every=3, log_every=2),
    Evaluation(3, 64, "switched", 2, 100),
    Config(space=Cifar(), optimizer=AdamW(), train=Train(steps=7)),
)


@dataclasses.dataclass(frozen=True)
class Mine:
    """A part of a user's own."""

    rate: float
    widths: tuple[int, ...] = (1, 2)
    inner: Sandwich = dataclasses.field(default_factory=Sandwich)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate is below 0")


def through_json(value: Any, **own: type) -> Any:
    return typed_json.parse(
        Any, json.loads(json.dumps(typed_json.to_json(value))), "config", named={**LIBRARY, **own}
    )


def test_all_of_the_library_is_tried() -> None:
    assert {type(part) for part in CHANGED} == set(LIBRARY.values())
    assert {name for name, kind in LIBRARY.items()} == {kind.__name__ for kind in LIBRARY.values()}


@pytest.mark.parametrize("part", CHANGED, ids=lambda part: type(part).__name__)
def test_json_round_trip(part: Any) -> None:
    fields = dataclasses.fields(part)
    needed = [f.name for f in fields if f.default is f.default_factory]  # both are missing
    default = type(part)(**{name: getattr(part, name) for name in needed})
    assert part != default or len(needed) == len(fields)
    assert through_json(part) == part
    assert through_json(default) == default
    assert typed_json.to_json(part)["type"] == type(part).__name__


def test_json_round_trip_of_ones_own() -> None:
    part = Mine(0.5, (3, 4, 5), Sandwich(n_random=7))
    whole = Config(space=part)
    assert through_json(part, Mine=Mine) == part
    assert through_json(whole, Mine=Mine) == whole
    with pytest.raises(UserError, match=r"config\.space is a 'Mine', which is not part of the li"):
        through_json(whole)


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A part of a user's own, whose fields nobody checks."""

    limit: float = 1.0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"is {value}, which JSON does not have; give a finite one"):
        typed_json.to_json(dataclasses.replace(Config(), loss=(Bounded(), Bounded(value))))


def test_unknown_and_missing_fields_are_named() -> None:
    value = typed_json.to_json(Config())
    value["train"]["stepz"] = value["train"].pop("steps")
    value["train"]["colour"] = 3
    del value["train"]["seed"]
    with pytest.raises(UserError) as error:
        typed_json.parse(Any, value, "config", named=LIBRARY)
    message = str(error.value)
    assert message.startswith("config.train (Train) has fields unknown stepz, did you mean steps?")
    assert "unknown colour" in message and "missing steps, seed" in message


def test_fields_that_came_later_take_their_defaults(tmp_path: pathlib.Path) -> None:
    """A run folder from before a part or a setting existed opens, and training goes on in it."""
    folder, settings = tmp_path / "run", Config(combine=UnitSum(), train=Train(steps=7))
    run_folder.start_run(folder, settings)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    file = folder / "config.json"
    value = json.loads(file.read_text())
    del value["combine"], value["train"]["arch_shards"], value["loss"]["hard_weight"]
    file.write_text(json.dumps(value))
    assert config.read(file) == settings
    run_folder.start_run(folder, settings)
    assert "combine" not in json.loads(file.read_text()), "it is left as it was"
    with pytest.raises(UserError, match=r"train\.arch_shards is 1 there and 2 now"):
        run_folder.start_run(folder, dataclasses.replace(settings, train=Train(7, arch_shards=2)))


def test_a_field_without_a_default_must_be_there() -> None:
    value = typed_json.to_json(Mine(0.5))
    del value["rate"], value["inner"]
    with pytest.raises(
        UserError,
        match=r"config \(Mine\) has fields missing rate; it must have rate, .*: was it edited",
    ):
        typed_json.parse(Any, value, "config", named={**LIBRARY, "Mine": Mine})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"steps": 0}}, "train.steps is 0, but must be at least 1"),
        ({"train": {"steps": True}}, "train.steps is True, but must be a whole number"),
        ({"train": {"strategy": "best"}}, "train.strategy is 'best', but must be auto or masked"),
        ({"data": {"flip": 1}}, "data.flip is 1, but must be true or false"),
        ({"data": {"size": "8"}}, "data.size is '8', but must be a whole number or None"),
        ({"optimizer": {"learning_rate": float("nan")}}, "rate is nan, but must be a finite numb"),
        ({"space": {"type": "Cifar", "resolutions": 8}}, "resolutions is 8, but must be a tuple"),
    ],
)
def test_wrong_values_are_named(change: dict[str, dict[str, Any]], words: str) -> None:
    value = typed_json.to_json(Config())
    for part, fields in change.items():
        value[part].update(fields)
    with pytest.raises(UserError, match=words):
        typed_json.parse(Any, value, "config", named=LIBRARY)


def test_ones_own_class_checks_itself() -> None:
    value = {**typed_json.to_json(Mine(0.5)), "rate": -1}
    with pytest.raises(UserError, match="config is not a Mine: rate is below 0"):
        typed_json.parse(Any, value, "config", named={**LIBRARY, "Mine": Mine})


def test_a_run_says_which_file_it_needs(tmp_path: pathlib.Path) -> None:
    settings, own = config.load_file(tiny_run.CONFIG)
    assert {"TinySpace", "FilterSpec", "Config"} < set(own)
    folder = tmp_path / "run"
    run_folder.start_run(folder, settings)
    assert config.read(folder / "config.json", own) == settings
    with pytest.raises(UserError) as error:
        config.read(folder / "config.json")
    file = re.escape(str(tiny_run.CONFIG))
    assert re.search(rf"--config FILE .*{file}, sha256 \w{{64}}", str(error.value))


def test_ones_own_class_with_a_name_of_the_library(tmp_path: pathlib.Path) -> None:
    """Without the user's file the library's class of that name must not take its place."""
    kind = dataclasses.make_dataclass("Sandwich", [("n_random", int, 2)], frozen=True)
    folder = tmp_path / "run"
    run_folder.start_run(folder, Config(sampler=kind()))
    with pytest.raises(UserError, match="a Sandwich of your own"):
        config.read(folder / "config.json")
    assert type(config.read(folder / "config.json", {"Sandwich": kind}).sampler) is kind


def test_a_run_that_never_began_may_change(tmp_path: pathlib.Path) -> None:
    first, second = Config(train=Train(steps=5)), Config(train=Train(steps=6))
    folder = tmp_path / "run"
    run_folder.start_run(folder, first)
    run_folder.start_run(folder, second)  # as after a mistake that was found while compiling
    assert config.read(folder / "config.json") == second
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    run_folder.start_run(folder, second)
    with pytest.raises(UserError, match=r"train\.steps is 6 there and 5 now"):
        run_folder.start_run(folder, first)
    assert config.read(folder / "config.json") == second


HERE = Config(
    data=config.Data(name="folder:images"),
    sampler=samplers.Attentive(table="table.json"),
    teacher=OtherSupernet("runs/other", "largest", "theirs.py"),
    train=Train(teacher="networks/large", teacher_file="mine.py"),
)
RELATIVE: dict[str, tuple[Config, dict[str, Any]]] = {
    "all": (
        HERE,
        {
            "data": {"name": "folder:PLACE/images", "data_dir": None},
            "sampler": {"table": "PLACE/table.json"},
            "teacher": {"run": "PLACE/runs/other", "file": "PLACE/theirs.py"},
            "train": {"teacher": "PLACE/networks/large", "teacher_file": "PLACE/mine.py"},
        },
    ),
    "npz": (
        Config(data=config.Data(name="npz:../a.npz"), sampler=samplers.Preferred(archs="a.json")),
        {"data": {"name": "npz:PLACE/../a.npz"}, "sampler": {"archs": "PLACE/a.json"}},
    ),
    "in data_dir": (
        Config(data=config.Data(name="folder:images", data_dir="data")),
        {"data": {"name": "folder:images", "data_dir": "PLACE/data"}},
    ),
    "of TFDS": (
        Config(data=config.Data(name="tfds:cifar10", data_dir="data"), sampler=samplers.Shift()),
        {"data": {"name": "tfds:cifar10", "data_dir": "PLACE/data"}, "sampler": {"table": None}},
    ),
    "at home": (
        Config(data=config.Data(name="folder:~/images")),
        {"data": {"name": "folder:HOME/images"}},
    ),
    "absolute": (
        Config(data=config.Data(name="npz:/a.npz", data_dir="/data")),
        {"data": {"name": "npz:/a.npz", "data_dir": "/data"}},
    ),
    "none": (Config(), {"data": {"name": "digits", "data_dir": None}, "train": {"teacher": None}}),
}


@pytest.mark.parametrize("case", RELATIVE)
def test_paths_of_a_run_are_absolute(
    case: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it opens from any folder; the same command from the same folder goes on with it."""
    settings, parts = RELATIVE[case]
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(place)
    run_folder.start_run(place / "run", settings)
    (place / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    file = place / "run" / "config.json"
    value = json.loads(file.read_text())
    for part, fields in parts.items():
        wanted = json.loads(
            json.dumps(fields).replace("PLACE", str(place)).replace("HOME", "/home/me")
        )
        assert {name: value[part][name] for name in wanted} == wanted
    run_folder.start_run(place / "run", settings)
    run_folder.start_run(place / "run", config.read(file))
    monkeypatch.chdir(other)
    run_folder.start_run(place / "run", config.read(file))
    if str(place) in json.dumps(parts).replace("PLACE", str(place)):
        with pytest.raises(UserError, match="another configuration"):
            run_folder.start_run(place / "run", settings)  # these are other files
    # A run from before paths were made absolute goes on where it was begun.
    monkeypatch.chdir(place)
    file.write_text(json.dumps(typed_json.to_json(settings)))
    run_folder.start_run(place / "run", settings)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_files(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    settings, own = config.load_file(path)
    assert through_json(settings, **own) == settings
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"supernet train configs/{path.name} --out runs/{path.stem}" in docstring
    assert "Hardware:" in docstring and "Expected:" in docstring
    assert len(text.splitlines()) < 80


def test_there_are_config_files() -> None:
    assert {"digits", "cifar10", "cifar10_cpu"} <= {path.stem for path in FILES}


def test_quickstart_is_the_digits_config() -> None:
    digits, _ = config.load_file(ROOT / "configs" / "digits.py")
    assert quickstart._settings(quickstart.Arguments()) == digits


@pytest.mark.parametrize(
    ("name", "classes", "channels", "count"),
    [
        ("digits", 10, 1, 13_824),
        ("cifar", 10, 3, None),
        ("attentivenas", 1000, 3, 440_301_256_704),
        ("ofa_small", 10, 3, 9**6 * 2**3 * 2),
        ("ofa_mobilenetv3", 1000, 3, 9**20 * 3**5 * 25),
        ("autoformer_t", 1000, 3, 3 * 3 * 6**14),
        ("autoformer_s", 1000, 3, 3 * 3 * 9**14),
        ("autoformer_b", 1000, 3, 3 * 3 * 9**16),
    ],
)
def test_spaces_build(name: str, classes: int, channels: int, count: int | None) -> None:
    space = config.SPACES[name].build(classes=classes, input_channels=channels)
    assert isinstance(space, Space) and space.name == name
    assert (space.task.classes, space.task.input_channels) == (classes, channels)
    if count is not None:
        assert choices.count(space.menu) == count


@pytest.mark.parametrize("kind", [Cifar, OfaSmall, OfaMobileNetV3, NASViTSmall])
def test_resolutions(kind: Any) -> None:
    space = kind(resolutions=(64, 32, 64)).build(classes=10, input_channels=3)
    assert space.sizes == (32, 64)
    with pytest.raises(UserError, match=r"space\.resolutions is \(4, 8\)"):
        kind(resolutions=(4, 8)).build(classes=10, input_channels=3)


def test_width() -> None:
    with pytest.raises(UserError, match=r"space\.width is -1\.0, must be from 0\.1 to 10"):
        OfaMobileNetV3(width=-1.0).build(classes=10, input_channels=3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in (Cifar, AttentiveNAS) for name in ("dropout", "drop_path")),
        *((kind, "dropout") for kind in (OfaSmall, OfaMobileNetV3)),
        *((kind, "drop_path") for kind in (AutoFormerT, AutoFormerS, AutoFormerB)),
        *((NASViT, name) for name in ("dropout", "drop_path")),
        *((kind, "drop_path") for kind in (ViTResNAS, ViTResNASSmall)),
    ],
)
def test_rates(kind: Any, name: str) -> None:
    with pytest.raises(UserError, match=rf"space\.{name.replace('_', '-')} is 1\.0"):
        kind(**{name: 1.0}).build(classes=10, input_channels=3)


def test_strategies() -> None:
    for name, kind in config.STRATEGIES.items():
        assert config.strategy(name, backend="cpu") is kind
        assert config.name_of(kind) == name
    assert config.strategy("auto", backend="gpu", work=1e12) is strategies.masked


@pytest.mark.parametrize(
    ("work", "how", "wanted"),
    [
        (1e9, {}, blockwise.blockwise),
        (1e8, {}, strategies.masked),
        (1e9, {"devices": 2}, strategies.masked),
        (1e9, {"backend": "quantum"}, strategies.masked),
        (1e11, {"devices": 2}, strategies.masked),
    ],
)
def test_what_auto_takes(work: float, how: Any, wanted: Any) -> None:
    assert config.strategy("auto", **{"backend": "cpu", **how}, work=work) is wanted


def test_the_published_recipes_are_steps() -> None:
    """The step has shapes, on the whole space and at its sizes; nothing is computed."""
    settings, other = (
        config.load_file(ROOT / "configs" / f"{name}_imagenet.py")[0]
        for name in ("alphanet", "attentivenas")
    )
    published = {"sampler": Attentive(bins=60), "loss": SoftCrossEntropy(smoothing=0.1)}
    assert other == dataclasses.replace(settings, **published)
    space = settings.space.build(classes=1000, input_channels=3)
    mean = std = (0.5, 0.5, 0.5)
    recipe = build._recipe(
        settings, space, functools.partial(augment.normalise, mean=mean, std=std)
    )
    count, size = settings.train.batch, settings.data.size
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((count, size, size, 3), jnp.uint8),
            jnp.zeros(count, jnp.int32),
            jnp.zeros(count, jnp.int32),
        )
    )
    state = jax.eval_shape(lambda: train_step.create(recipe))
    step = functools.partial(train_step.Step(recipe), sizes=(288, 192, 224, 224))
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert set(metrics) >= {"loss/largest", "loss/smallest", "loss/random_1", "loss/random_2"}
    schedule = schedules.warmup_cosine(0.8, steps=225_000, warmup_steps=3125)
    assert round(settings.optimizer.warmup * settings.train.steps) == 3125
    assert float(schedule(112_500)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("wanted", "devices", "taken"), [(1, 8, 1), (4, 8, 4), (4, 6, 2), (3, 8, 1), (4, 1, 1)]
)
def test_any_number_of_devices_takes_a_configuration(wanted: int, devices: int, taken: int) -> None:
    settings = Config(train=Train(model_devices=wanted))
    mesh = build.mesh_of(settings, jax.devices()[:devices])
    assert dict(mesh.shape) == {"data": devices // taken, "model": taken}


def test_fewer_devices_share_a_copy_than_wanted(caplog: pytest.LogCaptureFixture) -> None:
    built = train.experiment(Config(train=Train(model_devices=4)), devices=2)
    assert "train.model-devices is 4, which does not divide" in caplog.text
    assert "(2); 2 share a copy" in caplog.text
    assert built.rules == sharding.OVER_MODEL
    whole = built._replace(config=Config())
    both = built._replace(config=Config(train=Train(model_devices=4, shard_params=True)))
    assert (whole.rules, both.rules) == (sharding.REPLICATED, sharding.SHARDED)
