"""Extraction: the same network, alone, in a folder that nothing but itself is needed to load."""

import dataclasses
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_space import adapted, to_adapt

from supernet_jax.elastic import choices, notation, shared_params
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import masked, switched
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import build, teaching
from supernet_jax.experiment.config import Config, Train
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.spaces import mobilenet
from supernet_jax.spaces.mobilenet import Stage
from supernet_jax.storage import checkpoint, user_code

TOLERANCE = 1e-5  # float32 sums in another order
FAST = {"xla_backend_optimization_level": 0}  # these programs run once or twice
SPACE = mobilenet.mobilenet(
    "tiny",
    resolutions=(6, 8),
    stem=(4, 8),
    stem_stride=1,
    stages=(
        Stage((4, 8), (1, 2), (3, 5), (2,), 1),
        Stage((8,), (1,), (3,), (2,), 2, squeeze=True),
    ),
    last=(12, 16),
    classes=5,
    input_channels=2,
    head_ratio=2,
    dropout=0.1,
)
# The first block of stage 1 has a convolution as its shortcut where stem and stage differ.
ARCHS = {
    "smallest": choices.smallest(SPACE.menu),
    "largest": choices.largest(SPACE.menu),
    "widening": choices.replace(choices.largest(SPACE.menu), ("width", 0), np.int32(0)),
}
FIGURES: dict[str, Any] = {
    "mean": (0.5, 0.25),
    "std": (0.3, 0.2),
    "accuracy": {"test": 0.5, "held-out": 0.625},
    "calibration": (2, 64),
    "source": {"run": "runs/tiny", "step": 7},
    "proof_images": 3,
}


def filled(shapes: Any, seed: int, low: float = -0.5) -> Any:
    """Random arrays; nothing is zero, so that no part of a network hides."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.uniform(low, low + 1.0, s.shape).astype(np.float32), shapes)


def variables_of(space: Space, seed: int = 0) -> tuple[Any, Any]:
    """Shared parameters and statistics at the union's shapes."""
    shapes = jax.eval_shape(functools.partial(shared_params.init, space), jax.random.key(0))
    moments = jax.eval_shape(functools.partial(shared_params.zero_stats, space))
    return filled(shapes, seed), filled(moments, seed + 1, low=0.5)


def images(count: int = 3, size: int = 8, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, size, size, channels)).astype(np.float32)


def apply(module: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(module.apply, compiler_options=FAST)(variables, x))


def difference(a: Any, b: Any) -> float:
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


PARAMS, STATS = variables_of(SPACE)


@functools.cache
def taken(name: str) -> tuple[Any, Any, float]:
    """Module, variables and proof."""
    arch = ARCHS[name]
    module, variables = extract.extract(SPACE, PARAMS, arch, STATS)
    return module, variables, extract.prove(SPACE, PARAMS, arch, STATS, module, variables, images())


def describe(name: str = "smallest", **changes: Any) -> dict[str, Any]:
    module, variables, proof = taken(name)
    figures = {**FIGURES, "proof": proof, **changes}
    return extract.describe(SPACE, ARCHS[name], module, variables, **figures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An extracted network; not to be changed."""
    path = tmp_path_factory.mktemp("networks") / "small"
    module, variables, _ = taken("smallest")
    network_folder.save(path, module, variables, description=describe())
    return path


def copied(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_extracted_equals_sliced() -> None:
    assert all(taken(name)[2] <= TOLERANCE for name in ARCHS)


@pytest.mark.parametrize("strategy", [masked, switched])
def test_extracted_equals_traced(strategy: Any) -> None:
    @functools.partial(jax.jit, compiler_options=FAST)
    def logits(arch: Any, x: Any) -> Any:
        return strategy(SPACE, PARAMS, arch, x, size=8, stats=STATS).logits

    for name in ("largest", "widening"):
        module, variables, _ = taken(name)
        theirs = np.asarray(logits(jax.tree.map(jnp.asarray, ARCHS[name]), images()))
        assert difference(apply(module, variables, images()), theirs) <= TOLERANCE


def test_only_what_the_subnet_has() -> None:
    _, small, _ = taken("smallest")
    _, large, _ = taken("largest")
    _, widening, _ = taken("widening")
    assert set(large["params"]) - set(small["params"]) == {"stage1_block2"}
    assert set(large["stats"]) - set(small["stats"]) == {"stage1_block2"}
    assert "shortcut" not in large["params"]["stage1_block1"]
    assert widening["params"]["stage1_block1"]["shortcut"]["kernel"].shape == (1, 1, 4, 8)
    assert small["params"]["stage1_block1"]["depthwise"]["kernel"].shape == (3, 3, 1, 8)


def test_as_many_parameters_as_the_cost_says() -> None:
    count = costs.parameters(SPACE)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda c: rng.integers(len(c), size=4), SPACE.menu)
    for arch in [*choices.unstack(drawn), *ARCHS.values()]:
        x = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
        made = jax.eval_shape(extract.module(SPACE, arch).init, jax.random.key(0), x)
        assert sum(p.size for p in jax.tree.leaves(made["params"])) == count(arch)


def test_a_wrong_network_is_not_let_through() -> None:
    module, variables, _ = taken("smallest")
    prove = functools.partial(extract.prove, SPACE, PARAMS, ARCHS["smallest"])
    for factor in (1.01, np.nan):
        wrong = jax.tree.map(np.copy, variables)
        wrong["params"]["head"]["classifier"]["kernel"] *= factor
        with pytest.raises(
            UserError, match=r"is not the subnet: logits of 3 examples differ by .*"
        ):
            prove(STATS, module, wrong, images())
    other = jax.tree.map(lambda x: x * 1.5, STATS)
    with pytest.raises(UserError, match="are these the statistics of this arch"):
        prove(other, module, variables, images())


def test_statistics_are_needed() -> None:
    with pytest.raises(UserError, match=r"needs calibrated statistics.*evaluate\.calibrate"):
        extract.extract(SPACE, PARAMS, ARCHS["smallest"], None)


def test_round_trip_is_bitwise(folder: pathlib.Path) -> None:
    module, variables, _ = taken("smallest")
    back, loaded = network_folder.load(folder)
    assert back == module
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), b)
    np.testing.assert_array_equal(
        apply(back, loaded, images(2, 11)), apply(module, variables, images(2, 11))
    )
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "network.json", "weights"]
    assert [p.name for p in folder.parent.iterdir()] == ["small"]


def test_the_description_says_all(folder: pathlib.Path) -> None:
    d = manifest.read_description(folder)
    arch = ARCHS["smallest"]
    assert d["space"] == "tiny" and d["resolution"] == 6 and d["input_channels"] == 2
    assert notation.from_notation(SPACE.menu, d["arch"]) == arch
    assert (d["mean"], d["std"]) == ([0.5, 0.25], [0.3, 0.2])
    assert d["classes"] == ["0", "1", "2", "3", "4"]
    assert [block["name"] for block in d["blocks"]] == [
        "stem",
        "stage1_block1",
        "stage2_block1",
        "head",
    ]
    assert d["blocks"][0] == {
        "name": "stem",
        "type": "Stem",
        "spec": {"c_in": 2, "c_out": 4, "stride": 1},
        "spec_type": None,
    }
    assert d["macs"] == costs.macs(SPACE)(arch)
    assert d["parameters"] == costs.parameters(SPACE)(arch)
    assert d["accuracy"] == {"test": 0.5, "held-out": 0.625}
    assert d["calibration"] == {"batches": 2, "batch": 64}
    assert d["source"] == {"run": "runs/tiny", "step": 7}
    assert d["proof"]["difference"] <= TOLERANCE and d["proof"]["images"] == 3
    assert d["dtype"] == "float32" and d["code"] is None


ALONE = """
import sys
SNIPPET
assert logits.shape == (1, 5)
np.savez(sys.argv[1], logits=np.asarray(jax.jit(module.apply)(variables, np.load(sys.argv[2]))))
print(*sorted(name for name in sys.modules if name.startswith("supernet_jax")))
"""


def test_the_card_runs_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    card = (folder / "README.md").read_text()
    for part in ("# tiny, ", "50.00%", "62.50%", "2 batches of 64", "mean 0.5, 0.25", "0, 1, 2"):
        assert part in card
    [snippet] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(snippet.splitlines()) <= 10
    np.save(tmp_path / "x.npy", images())
    script = ALONE.replace("SNIPPET", snippet)
    command = [sys.executable, "-W", "error", "-c", script, "out.npz", "x.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    module, variables, _ = taken("smallest")
    ours = apply(module, variables, images())
    assert difference(np.load(tmp_path / "out.npz")["logits"], ours) <= TOLERANCE
    imported = done.stdout.splitlines()[-1].split()
    assert "supernet_jax.networks.network_folder" in imported
    rooms = {name.split(".")[1] for name in imported if name.startswith("supernet_jax.")}
    assert not rooms & set(SUPERNET)


# Rooms of which a process that only runs an extracted network must have nothing.
SUPERNET = ("elastic", "spaces", "evaluation", "training", "searching", "experiment")


def test_formats_know_nothing_of_supernets() -> None:
    script = (
        "import pkgutil, sys\nfrom supernet_jax.networks import formats\n"
        "for one in pkgutil.iter_modules(formats.__path__, formats.__name__ + '.'):\n"
        "    if not one.name.endswith('_template'):\n"  # which needs PyTorch
        "        __import__(one.name)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('supernet_jax.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    imported = done.stdout.split()
    assert {"supernet_jax.networks.formats.table", "supernet_jax.networks.manifest"} <= {*imported}
    assert not {name.split(".")[1] for name in imported} & set(SUPERNET)


def test_nothing_is_overwritten_and_nothing_is_left(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    module, variables, _ = taken("smallest")
    with pytest.raises(UserError, match=r"small exists already; pass a new or an empty folder"):
        network_folder.save(folder, module, variables, description=describe())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file exists already"):
        network_folder.save(tmp_path / "file", module, variables, description=describe())
    with pytest.raises(UserError, match=r"cannot write .*file"):
        network_folder.save(tmp_path / "file" / "net", module, variables, description=describe())
    other, _, _ = taken("largest")
    with pytest.raises(UserError, match="not of this network"):
        network_folder.save(tmp_path / "net", other, variables, description=describe())
    changed = jax.tree.map(lambda x: x + 1, variables)
    with pytest.raises(UserError, match="do not match its sha256"):
        network_folder.save(tmp_path / "net", module, changed, description=describe())
    with pytest.raises(UserError, match="holds no proof"):
        network_folder.save(tmp_path / "net", module, variables, description=describe(proof=0.1))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    (tmp_path / "net").mkdir()
    network_folder.save(tmp_path / "net", module, variables, description=describe())
    assert network_folder.load(tmp_path / "net")[0] == module


def put(*path: Any, to: Any) -> Callable[[dict], None]:
    def change(value: dict) -> None:
        node: Any = value
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to

    return change


EDITS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "missing": (lambda d: d.pop("mean"), "has fields missing mean; it must have format, version"),
    "unknown": (put("colour", to=1), "has fields unknown colour"),
    "wrong type": (put("macs", to="many"), r"network\.json\.macs is \"many\", but must be a whole"),
    "bool": (put("blocks", 0, "spec", "stride", to=True), r"stride is true, but must be a whole"),
    "list": (put("mean", to=0.5), r"mean is 0\.5, but must be a list"),
    "element": (put("std", 1, to=None), r"std\[1\] is null, but must be a finite number"),
    "nan": (put("mean", 0, to=float("nan")), r"mean\[0\] is NaN, but must be a finite number"),
    "endless": (put("mean", 0, to=10**400), r"mean\[0\] is 1000.*, but must be a finite number"),
    "null": (put("proof", to=None), r"proof is null, but must be an object"),
    "version": (put("version", to=9), "version 9, this library reads 1 to 5; install"),
    "type": (
        put("blocks", 0, "type", to="os.system"),
        r"blocks\[0\]\.type is 'os\.system', but the",
    ),
    "spec": (
        lambda d: d["blocks"][1]["spec"].pop("kernel"),
        r"blocks\[1\]\.spec has fields missing kernel",
    ),
    "resolution": (put("resolution", to=10**9), "has resolution 1000000000, allowed are 1 to 4096"),
    "small resolution": (put("resolution", to=0), "has resolution 0, allowed are 1 to 4096"),
    "kernel": (put("blocks", 1, "spec", "kernel", to=10**9), "does not fit the weights"),
    "huge": (put("blocks", 1, "spec", "middle", to=10**15), "does not fit the weights"),
    "negative": (put("blocks", 0, "spec", "c_out", to=-4), "does not fit the weights"),
    "stride": (put("blocks", 0, "spec", "stride", to=0), "does not fit the weights"),
    "wide stride": (put("blocks", 0, "spec", "stride", to=2), "has been changed since"),
    "channels": (put("input_channels", to=7), "does not fit the weights"),
    "one block less": (
        lambda d: d["blocks"].pop(1),
        r"weights beside it: params/stage1_block1/.* is float32\[.*, but must be left out",
    ),
    "one block more": (
        lambda d: d["blocks"].insert(2, {**d["blocks"][1], "name": "more"}),
        "does not fit the weights",
    ),
    "twice": (lambda d: d["blocks"].append(d["blocks"][0]), "two blocks have one name among stem"),
    "classes": (lambda d: d["classes"].pop(), "names 4 classes, but the network has .5. logits"),
    "normalisation": (put("mean", 0, to=0.4), "has been changed since it was written"),
    "drop_path": (
        put("blocks", 1, "spec", "drop_path", to=0.5),
        "has been changed since it was written",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_description(folder: pathlib.Path, tmp_path: pathlib.Path, case: str) -> None:
    change, message = EDITS[case]
    path = copied(folder, tmp_path)
    value = json.loads((path / "network.json").read_text())
    change(value)
    (path / "network.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        network_folder.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_not_a_description(folder: pathlib.Path, tmp_path: pathlib.Path, text: str) -> None:
    path = copied(folder, tmp_path)
    (path / "network.json").write_text(text)
    with pytest.raises(UserError, match=r"network\.json is "):
        network_folder.load(path)


def test_why_a_description_could_not_be_read(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(folder, tmp_path)
    whole = (path / "network.json").read_text("utf-8")
    told = []
    for text in ("", whole[:100], whole.encode("utf-16").decode("latin-1"), "# of another tool"):
        (path / "network.json").write_text(text, encoding="latin-1")
        with pytest.raises(UserError) as caught:
            network_folder.load(path)
        told.append(str(caught.value))
    assert "is empty, so it was cut short" in told[0]
    assert all("is not a JSON file, or was cut short" in one for one in told[1:])
    (path / "network.json").write_text(whole, encoding="utf-8")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"network\.json is not readable by this user"):
        network_folder.load(path)
    monkeypatch.undo()
    (path / "network.json").unlink()
    (path / "network.json").mkdir()
    with pytest.raises(UserError, match=r"network\.json is a folder, not a JSON file"):
        network_folder.load(path)


def test_no_number_that_json_lacks() -> None:
    own = extract.module(SPACE, ARCHS["smallest"])
    first, *rest = own.blocks
    spec = dataclasses.replace(rest[0].spec, drop_path=float("nan"))
    odd = own.clone(blocks=(first, dataclasses.replace(rest[0], spec=spec), *rest[1:]))
    _, variables, proof = taken("smallest")
    with pytest.raises(UserError, match=r"stage1_block1\.drop_path is null, but must be a finite"):
        figures = {**FIGURES, "proof": proof}
        extract.describe(SPACE, ARCHS["smallest"], odd, variables, **figures)


def test_lost_and_changed_weights(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"is not an extracted network: it has no network\.json"):
        network_folder.load(tmp_path)
    path = copied(folder, tmp_path)
    [data, *_] = sorted((path / "weights").rglob("d/*"), key=lambda p: -p.stat().st_size)
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"is damaged .* has 100 of \d+ bytes"):
        network_folder.load(path)
    shutil.rmtree(path / "weights")
    _, variables, _ = taken("smallest")
    changed = jax.tree.map(np.copy, variables)
    changed["stats"]["stem"]["norm"]["mean"][0] += 1e-6
    checkpoint.write_tree(path / "weights", changed)
    with pytest.raises(UserError, match="do not match its sha256"):
        network_folder.load(path)
    shutil.rmtree(path / "weights")
    with pytest.raises(
        UserError, match=r"there is no folder .*weights; copy it from where it was written"
    ):
        network_folder.load(path)


def test_descriptions_that_cannot_be() -> None:
    with pytest.raises(UserError, match="1 mean were given, but the space has 2"):
        describe(mean=(0.5,))
    with pytest.raises(UserError, match="6 class names were given, but the space has 5"):
        describe(classes="abcdef")
    assert describe(classes="abcde")["classes"] == ["a", "b", "c", "d", "e"]


OWN = '''
import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.elastic_block import Transform, elastic
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class BranchSpec:
    c_in: int
    c_out: int
    kernel: int
    slope: float


class Branch(nn.Module):
    spec: BranchSpec

    @nn.compact
    def __call__(self, x):
        x = layers.Depthwise(self.spec.kernel, name="depthwise")(x)
        x = layers.Pointwise(self.spec.c_out, name="mix")(x)
        return nn.leaky_relu(layers.BatchNorm(name="norm")(x), self.spec.slope)


@dataclasses.dataclass(frozen=True)
class OutSpec:
    c_in: int
    classes: int


class Out(nn.Module):
    spec: OutSpec

    @nn.compact
    def __call__(self, x, y):
        return layers.Dense(self.spec.classes, name="linear")(jnp.mean(x + y, (1, 2)))


def forward(run, x):
    left = run("left", x)
    right = run("right", x)
    return run("out", run("deeper", left), nn.relu(right))


def shrink(params, weights, size):
    """A learned 3x3 kernel out of a 5x5 one."""
    if size == 5:
        return weights
    return weights[1:-1, 1:-1] * params["gain"]


def space():
    menu = {"resolution": Choice((5,)), "width": Choice((3, 4)), "kernel": Choice((3, 5)),
            "depth": Choice((0, 1)), "row": Choice((0, 1, 2))}
    transform = Transform(("depthwise", "kernel"), lambda s: s.kernel,
                          lambda key, shape: {"gain": jnp.ones(())}, shrink)
    def branch(c_in, **options):
        return elastic(Branch, lambda w, k: BranchSpec(c_in or w, w, k, 0.1), menu=menu,
                       decisions=[("width",), ("kernel",)], relaxed=("norm",),
                       transforms=(transform,), **options)
    out = elastic(Out, lambda w: OutSpec(w, 6), menu=menu, decisions=[("width",)],
                  channels=lambda s: (s.c_in, s.c_in))
    blocks = {"left": branch(1, group="shared"), "right": branch(1, group="shared"),
              "deeper": branch(None, depth=(("depth",), 0)), "out": out}
    row = Bank(3, Lookup((("row",),), np.asarray([2, 0, 1])), ("shared", "out"))
    task = ImageClassification(1, 6)
    return Space("own", menu, blocks, forward, task, (("resolution",),), bank=row)
'''


def own_space(path: pathlib.Path, text: str = OWN) -> Space:
    path.write_text(text, encoding="utf-8")
    return vars(user_code.run(path))["space"]()


def take_own(space: Space, depth: int, strategies: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    arch = {k: np.int32(v) for k, v in zip(sorted(space.menu), (depth, 0, 0, 2, 1), strict=True)}
    assert (arch["kernel"], arch["row"], arch["width"]) == (0, 2, 1)
    params, stats = variables_of(space)
    module, variables = extract.extract(space, params, arch, stats)
    proof = extract.prove(space, params, arch, stats, module, variables, images(3, 5, 1))
    for strategy in strategies:

        @functools.partial(jax.jit, compiler_options=FAST)
        def logits(params: Any, arch: Any, strategy: Any = strategy) -> Any:
            how = {"size": module.size, "stats": stats}
            return strategy(space, params, arch, images(3, 5, 1), **how).logits

        with jax.default_matmul_precision("highest"):
            theirs = np.asarray(logits(*jax.tree.map(jnp.asarray, (params, arch))))
        extract.compare(module, variables, images(3, 5, 1), theirs)
    figures = {**FIGURES, "mean": (0.0,), "std": (1.0,), "proof": proof}
    return module, variables, params, extract.describe(space, arch, module, variables, **figures)


def test_a_space_of_ones_own(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.py"
    strategies = (masked, switched)
    module, variables, params, description = take_own(own_space(file), 1, strategies)
    kernel = params["shared"]["depthwise"]["kernel"][1]  # bank row 1, by the lookup
    gain = params["shared"]["transforms"]["depthwise/kernel"]["gain"][1]
    stored = variables["params"]["left"]["depthwise"]["kernel"]
    np.testing.assert_allclose(stored, kernel[1:-1, 1:-1] * gain, rtol=1e-6)
    assert set(variables["params"]) == {"left", "right", "deeper", "out"}

    folder = tmp_path / "net"
    network_folder.save(folder, module, variables, description=description)
    with pytest.raises(UserError, match=rf"defines Branch, Out, its topology: it was {file} \(sha"):
        network_folder.load(folder)
    with pytest.raises(UserError, match=r"there is no file nowhere\.py"):
        network_folder.load(folder, space_file="nowhere.py")
    back, loaded = network_folder.load(folder, space_file=file)
    x = images(3, 5, 1)
    np.testing.assert_array_equal(apply(back, loaded, x), apply(module, variables, x))

    settings = Config(train=Train(teacher=str(folder), teacher_file=str(file)))
    with pytest.raises(UserError, match=r"teacher .* tells \d+ classes apart"):  # so it was loaded
        teaching.taught(build.build(settings))

    file.write_text(OWN + "\n# changed\n")
    with pytest.warns(UserWarning, match="not the file that the network was extracted with"):
        network_folder.load(folder, space_file=file)
    for text, message in (
        ("import nothing_like_it", "does not run: ModuleNotFoundError"),
        ("x = 1", r"blocks\[0\]: your file defines no Flax module Branch"),
        (
            OWN.replace("class BranchSpec", "class Other").replace("BranchSpec", "Other"),
            "BranchSpec",
        ),
        (
            OWN.replace("def forward", "def other").replace(", forward,", ", other,"),
            "no function f",
        ),
    ):
        file.write_text(text)
        with pytest.warns(UserWarning, match="not the file"):
            with pytest.raises(UserError, match=message):
                network_folder.load(folder, space_file=file)


def test_a_skipped_block_of_ones_own(tmp_path: pathlib.Path) -> None:
    # Nothing but blocks, and yet no chain.
    space = own_space(tmp_path / "mine.py", OWN.replace("nn.relu(right)", "right"))
    module, variables, _, description = take_own(space, 0, ())
    assert set(variables["params"]) == {"left", "right", "out"}
    network_folder.save(tmp_path / "net", module, variables, description=description)
    back, _ = network_folder.load(tmp_path / "net", space_file=tmp_path / "mine.py")
    assert [block.name for block in back.blocks] == ["left", "right", "out"]


def test_what_no_file_could_bring_back(tmp_path: pathlib.Path) -> None:
    space = own_space(tmp_path / "mine.py")
    arch = choices.largest(space.menu)
    figures = {**FIGURES, "mean": (0.0,), "std": (1.0,), "proof": 0.0}

    def told(space: Space) -> str:
        module = extract.module(space, arch)
        with pytest.raises(UserError) as caught:
            extract.describe(space, arch, module, {"params": {"a": np.ones(1)}}, **figures)
        return str(caught.value)

    def inner(run: Any, x: Any) -> Any:
        return space.forward(run, x)

    assert "not defined at the top level of a file" in told(
        dataclasses.replace(space, forward=inner)
    )
    assert "not defined at the top" in told(
        dataclasses.replace(space, forward=functools.partial(space.forward))
    )
    kind = type(space.blocks["left"].module(space.blocks["left"].specs[0]))
    odd = dataclasses.replace(space.blocks["left"], module=lambda s: kind(s, name="renamed"))
    with pytest.raises(UserError, match=r"block 'left' makes a module that is not Branch\(spec\)"):
        extract.module(dataclasses.replace(space, blocks={**space.blocks, "left": odd}), arch)


def test_adapters_are_merged() -> None:
    """The network is an ordinary one of the space without adapters, whose kernels have them."""
    plain, space = to_adapt(), adapted()
    params, stats = variables_of(space)
    arch = choices.largest(space.menu) | {"kernel_size": [np.int32(0)]}
    arch["rank"]["stage1_block1"] = np.int32(0)
    base = {name: arch[name] for name in plain.menu}
    made, variables = extract.extract(space, params, arch, stats)
    ordinary, own = extract.extract(plain, params, base, stats)
    assert made == ordinary and made.blocks[1].spec == ordinary.blocks[1].spec
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, own)
    extract.prove(space, params, arch, stats, made, variables, images())
    adapters = params["stage1_block1"]["transforms"]["project/kernel:low_rank"]
    product = np.einsum("...r,rd->...d", adapters["down"][..., :1], adapters["up"][:1])
    kernel = own["params"]["stage1_block1"]["project"]["kernel"] + 8 / 1 * product
    np.testing.assert_allclose(
        variables["params"]["stage1_block1"]["project"]["kernel"], kernel, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UserError, match="is not the subnet"):
        extract.prove(space, params, arch, stats, ordinary, own, images())
    # What a subnet reads of a checkpoint is enough for it.
    boxes = extract.boxes(space, arch)
    assert boxes["stage1_block1"]["transforms"]["project/kernel:low_rank"]["up"].stop == (3, 8)
