"""ViT and BERT from elsewhere: their tensors, their function, and what is refused.

The forward passes here are written from the papers and the published layouts, in float64, and know
nothing of the library: ViT (arXiv 2010.11929, equations 1 to 4) with timm's tensors, BERT (arXiv
1810.04805, section 3; Vaswani et al. 2017, arXiv 1706.03762, section 3) with those of transformers.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from scipy.special import erf, softmax
from theorem import largest_difference, random_inputs, random_params
from tiny_run import supernet
from tiny_space import bert, tokens, vit

import supernet_jax as sj
from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import config, space_facts
from supernet_jax.networks.importers import bert as bert_importer
from supernet_jax.networks.importers import vit as vit_importer
from supernet_jax.spaces import mobilenet, vit_supernet

Tensors = dict[str, np.ndarray]
SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"
PER_BLOCK = {"vit": 12, "bert": 16}
OUTSIDE = {"vit": 8, "bert": 9}


# --- the published networks ----------------------------------------------------------------------


def norm(t: Tensors, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + epsilon)
    return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]


def linear(t: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """`[B, N, H * D]` each."""
    b, n, width = q.shape
    q, k, v = (x.reshape(b, n, heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
    shares = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads), axis=-1)
    return (shares @ v).transpose(0, 2, 1, 3).reshape(b, n, width)


def vit_logits(t: Tensors, images: np.ndarray, *, heads: int, depth: int) -> np.ndarray:
    """Of timm's tensors; images `[B, R, R, C]`."""
    kernel = t["patch_embed.proj.weight"]
    b, r, _, _ = images.shape
    p = kernel.shape[-1]
    rows = [
        np.einsum("bhwc,ochw->bo", images[:, y : y + p, x : x + p], kernel)
        for y in range(0, r, p)
        for x in range(0, r, p)
    ]
    x = np.stack(rows, 1) + t["patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(t["cls_token"], b, 0), x], 1) + t["pos_embed"]
    for i in range(depth):
        at = f"blocks.{i}"
        y = linear(t, f"{at}.attn.qkv", norm(t, f"{at}.norm1", x, 1e-6))
        x = x + linear(t, f"{at}.attn.proj", attention(*np.split(y, 3, -1), heads))
        y = gelu(linear(t, f"{at}.mlp.fc1", norm(t, f"{at}.norm2", x, 1e-6)))
        x = x + linear(t, f"{at}.mlp.fc2", y)
    return linear(t, "head", norm(t, "norm", x, 1e-6)[:, 0])


def bert_logits(t: Tensors, ids: np.ndarray, *, heads: int, depth: int) -> np.ndarray:
    """Of the tensors of transformers, `bert.` before their names."""
    at = "bert.embeddings"
    x = t[f"{at}.word_embeddings.weight"][ids] + t[f"{at}.token_type_embeddings.weight"][0]
    x = x + t[f"{at}.position_embeddings.weight"][: ids.shape[1]]
    x = norm(t, f"{at}.LayerNorm", x, 1e-12)
    for i in range(depth):
        at = f"bert.encoder.layer.{i}"
        own = (linear(t, f"{at}.attention.self.{kind}", x) for kind in ("query", "key", "value"))
        y = linear(t, f"{at}.attention.output.dense", attention(*own, heads))
        x = norm(t, f"{at}.attention.output.LayerNorm", x + y, 1e-12)
        y = linear(t, f"{at}.output.dense", gelu(linear(t, f"{at}.intermediate.dense", x)))
        x = norm(t, f"{at}.output.LayerNorm", x + y, 1e-12)
    return linear(t, "classifier", np.tanh(linear(t, "bert.pooler.dense", x[:, 0])))


# --- our parameters as they would be published ---------------------------------------------------


def flat(tree: Mapping[str, Any], before: str = "") -> Tensors:
    found: Tensors = {}
    for name, value in tree.items():
        own = f"{before}/{name}" if before else name
        found |= flat(value, own) if isinstance(value, Mapping) else {own: np.asarray(value)}
    return found


def as_vit(params: Any) -> Tensors:
    """timm's names and layouts."""
    ours, found = flat(params), {}
    for name, value in ours.items():
        block, _, rest = name.partition("/")
        layer, _, leaf = rest.rpartition("/")
        kind = {"kernel": "weight", "scale": "weight", "bias": "bias"}.get(leaf, "")
        if name == "embed/class_token":
            found["cls_token"] = value.reshape(1, 1, -1)
        elif name == "embed/position":
            found["pos_embed"] = value[None]
        elif name.startswith("embed/patches"):
            turned = value.transpose(3, 2, 0, 1) if leaf == "kernel" else value
            found[f"patch_embed.proj.{kind}"] = turned
        elif block == "head":
            where = {"norm": "norm", "classifier": "head"}[layer]
            found[f"{where}.{kind}"] = value.T
        else:
            where = {
                **{"attention_norm": "norm1", "mlp_norm": "norm2"},
                **{"attention/heads": "attn.qkv", "attention/merge": "attn.proj"},
                **{"expand": "mlp.fc1", "project": "mlp.fc2"},
            }[layer]
            if layer == "attention/heads":
                value = value.reshape(*value.shape[:-3], -1)
            elif layer == "attention/merge" and leaf == "kernel":
                value = value.reshape(-1, value.shape[-1])
            found[f"blocks.{int(block[5:]) - 1}.{where}.{kind}"] = value.T
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def as_bert(params: Any) -> Tensors:
    """The names and layouts of transformers."""
    ours, found = flat(params), {}
    tables = {"tokens": "word", "positions": "position", "types": "token_type"}
    for name, value in ours.items():
        block, _, rest = name.partition("/")
        layer, _, leaf = rest.rpartition("/")
        kind = {"kernel": "weight", "scale": "weight", "bias": "bias"}.get(leaf, "")
        if leaf == "table":
            found[f"bert.embeddings.{tables[layer]}_embeddings.weight"] = value
        elif block == "embed":
            found[f"bert.embeddings.LayerNorm.{kind}"] = value
        elif block == "pooler":
            found[f"bert.pooler.dense.{kind}"] = value.T
        elif block == "head":
            found[f"classifier.{kind}"] = value.T
        else:
            at = f"bert.encoder.layer.{int(block[5:]) - 1}"
            if layer == "attention/heads":
                for i, part in enumerate(("query", "key", "value")):
                    one = value[:, i].reshape(len(value), -1) if leaf == "kernel" else value[i]
                    own = one.T if leaf == "kernel" else one.reshape(-1)
                    found[f"{at}.attention.self.{part}.{kind}"] = own
                continue
            where = {
                **{"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"},
                **{"attention/merge": "attention.output.dense"},
                **{"expand": "intermediate.dense", "project": "output.dense"},
            }[layer]
            if layer == "attention/merge" and leaf == "kernel":
                value = value.reshape(-1, value.shape[-1])
            found[f"{at}.{where}.{kind}"] = value.T
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


KINDS: dict[str, Any] = {
    "vit": (vit, as_vit, vit_importer.load, vit_logits),
    "bert": (bert, as_bert, bert_importer.load, bert_logits),
}


@functools.cache
def example(kind: str) -> tuple[Space, Any, Tensors]:
    """The space, parameters in which nothing is 0 or 1, and the file that they would be in."""
    make, written, _, _ = KINDS[kind]
    params = random_params(make())
    return make(), params, written(params)


def refused(kind: str, file: Tensors) -> str:
    with pytest.raises(UserError) as caught:
        KINDS[kind][2](file, example(kind)[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is mapped -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_mapped_to_the_bit(kind: str) -> None:
    space, params, file = example(kind)
    assert len(file) == OUTSIDE[kind] + 2 * PER_BLOCK[kind]
    found, report = KINDS[kind][2](file, space)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert len(report.mapped) == len(file) and report.left == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_subnet_is_the_published_network(kind: str) -> None:
    space, _, file = example(kind)
    found, _ = KINDS[kind][2](file, space)
    inputs, size = random_inputs(space, space.sizes[-1], 4), space.sizes[-1]
    run = functools.partial(strategies.sliced, space, arch=choices.largest(space.menu), size=size)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda params: run(params, inputs=inputs).logits)(found)
    precise = {name: value.astype(np.float64) for name, value in file.items()}
    wanted = KINDS[kind][3](precise, np.asarray(inputs), heads=3, depth=2)
    assert np.ptp(wanted) > 0.1
    assert largest_difference(ours, wanted) < 1e-5


def test_older_names_of_bert() -> None:
    space, params, file = example("bert")
    older = {name.removeprefix("bert."): value for name, value in file.items()}
    for name in list(older):
        if "LayerNorm" in name:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            older[old.replace("LayerNorm.bias", "LayerNorm.beta")] = older.pop(name)
    older["embeddings.position_ids"] = np.arange(8)[None]
    older["cls.predictions.bias"] = np.zeros(13, np.float32)
    found, report = bert_importer.load(older, space)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert len(report.left) == 2 and "pretraining" in report.left[1]
    twice = {**file, "pooler.dense.bias": file["bert.pooler.dense.bias"]}
    assert "has pooler.dense.bias twice" in refused("bert", twice)


# --- what is refused ------------------------------------------------------------------------------


WRONG: list[tuple[str, str, Any, str]] = [
    ("vit", "blocks.1.norm1.bias", None, "blocks.1.norm1.bias is missing"),
    ("vit", "blocks.2.norm1.bias", (6,), "has no blocks.2.norm1.bias"),
    ("vit", "blocks.0.attn.qkv.weight", (12, 6), "weight has the shape [12, 6], but in"),
    ("vit", "dist_token", (1, 1, 6), "has no dist_token"),
    ("vit", "pos_embed", (1, 17, 6), "pos_embed has the shape [1, 17, 6]"),
    ("vit", "head.weight", (1000, 6), "(or the number of classes) of --config"),
    ("bert", "bert.encoder.layer.1.output.dense.bias", None, "output.dense.bias is missing"),
    ("bert", "bert.encoder.layer.2.output.dense.bias", (6,), "has no encoder.layer.2.output"),
    ("bert", "bert.encoder.layer.0.attention.self.key.weight", (4, 6), "it has [6, 6]"),
    ("bert", "bert.embeddings.word_embeddings.weight", (12, 6), "it has [13, 6]"),
]


@pytest.mark.parametrize(("kind", "name", "shape", "said"), WRONG)
def test_tensors_that_are_not_of_the_space(kind: str, name: str, shape: Any, said: str) -> None:
    file = dict(example(kind)[2])
    if shape is None:
        del file[name]
    else:
        file[name] = np.zeros(shape, np.float32)
    assert said in refused(kind, file)


def test_other_networks() -> None:
    file = example("bert")[2]
    without = {name: value for name, value in file.items() if "pooler" not in name}
    assert "the file has no pooler" in refused("bert", without)
    with pytest.raises(UserError, match="digits is not of the form of ViT: stem"):
        vit_importer.load({}, mobilenet.digits())
    with pytest.raises(UserError, match=r"tokens is not of the form of ViT: .*/key_positions"):
        vit_importer.load({}, tokens())
    fewer = vit_supernet.VitSupernet(width=6, depths=(3,), heads=(3,), hidden=(5,), head_dim=2)
    with pytest.raises(UserError, match=r"blocks.2.* are missing"):
        vit_importer.load(example("vit")[2], fewer.build())


# --- runs -----------------------------------------------------------------------------------------


def system(kind: str) -> tuple[pathlib.Path, sj.Config]:
    file = SYSTEMS / f"{kind}_supernet.py"
    return file, config.load_file(file)[0]


@functools.cache
def of_system(kind: str) -> tuple[Any, Tensors]:
    """Parameters of the system's space, and the file that they would be in."""
    params = random_params(space_facts.space_of(system(kind)[1]))
    return params, KINDS[kind][1](params)


def logits_of(run: sj.Run, arch: Any) -> np.ndarray:
    """On real examples, as the published network would get them."""
    space = run.space
    examples = run.experiment.prepare(jax.numpy.asarray(run.experiment.dataset.test.images[:16]))
    how: Any = {"arch": arch, "size": space.size_of(arch)}
    sliced = jax.jit(functools.partial(strategies.sliced, space, **how))
    return np.asarray(sliced(run.params, inputs=examples).logits)


def test_a_run_whose_heads_are_sorted(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, settings = system("bert")
    params, file = of_system("bert")
    source = tmp_path / "network.safetensors"
    safetensors.numpy.save_file(file, source)
    plain = sj.import_bert(source, settings, tmp_path / "plain")
    jax.tree.map(np.testing.assert_array_equal, plain.params, params)
    command = ("import", "bert", source, "--config", path, "--sort-channels")
    said = supernet(capsys, *command, "--out", tmp_path / "sorted")
    assert said.status == 0, said
    about = json.loads((tmp_path / "sorted" / "import.json").read_text())
    assert about["sorted"] and not about["new_classifier"] and len(about["mapped"]) == len(file)
    ordered = sj.open_run(tmp_path / "sorted")
    largest, smallest = (pick(plain.space.menu) for pick in (choices.largest, choices.smallest))
    assert largest_difference(logits_of(ordered, largest), logits_of(plain, largest)) < 1e-5
    assert largest_difference(logits_of(ordered, smallest), logits_of(plain, smallest)) > 1e-3


OTHERS: dict[str, tuple[Any, str]] = {
    "no pooler": (lambda t: {k: v for k, v in t.items() if "pooler" not in k}, "has no pooler"),
    "a tensor less": (
        lambda t: {k: v for k, v in t.items() if "layer.1.output.dense.bias" not in k},
        "encoder.layer.1.output.dense.bias is missing",
    ),
    "fewer blocks": (
        lambda t: {k: v for k, v in t.items() if "layer.1." not in k},
        "encoder.layer.1.attention.self.query.weight and 12 more are missing",
    ),
    "more blocks": (
        lambda t: {**t, **{k.replace("layer.1.", "layer.2."): v for k, v in t.items()}},
        "has no encoder.layer.2.attention.output.LayerNorm.bias, ",
    ),
    "fewer heads": (
        lambda t: {k: v[:4].copy() if ".attention.self." in k else v for k, v in t.items()},
        "query.bias has the shape [4], but in a BERT of the largest subnet's sizes it has [8]",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_other_networks_make_no_run(
    case: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = OTHERS[case]
    source, out = tmp_path / "network.safetensors", tmp_path / "run"
    safetensors.numpy.save_file(change(dict(sorted(of_system("bert")[1].items()))), source)
    said = supernet(capsys, "import", "bert", source, "--config", system("bert")[0], "--out", out)
    assert said.status == 2 and words in said.err and said.err.count("\n") == 1, said
    assert not out.exists()


def test_a_classifier_that_begins_anew(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = system("vit")
    params, file = of_system("vit")
    other = {**file, "head.weight": np.zeros((3, 8), np.float32), "head.bias": np.zeros(3, "f4")}
    without = {name: value for name, value in file.items() if not name.startswith("head.")}
    source, out = tmp_path / "network.safetensors", tmp_path / "run"
    command = ("import", "vit", source, "--config", path, "--std", 0.5, "--out", out)
    for tensors, words in ((other, "number of classes"), (without, "with --new-classifier it")):
        safetensors.numpy.save_file(tensors, source)
        said = supernet(capsys, *command)
        assert said.status == 2 and words in said.err and not out.exists()
    said = supernet(capsys, *command, "--new-classifier")
    assert said.status == 0 and "head/classifier begins anew" in said.out
    found = sj.open_run(out).params
    np.testing.assert_array_equal(
        found["block1"]["expand"]["kernel"], params["block1"]["expand"]["kernel"]
    )
    kernel = np.asarray(found["head"]["classifier"]["kernel"])
    assert kernel.shape == (8, 10) and 0 < np.abs(kernel).max() < 0.2


def test_options_that_do_not_fit(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, settings = system("bert")
    source = tmp_path / "network.safetensors"
    safetensors.numpy.save_file(of_system("bert")[1], source)
    for kind, option, words in (
        ("bert", ("--std", "1"), "--std is for images"),
        ("autoformer", ("--new-classifier",), "--new-classifier is for networks"),
        ("ofa", ("--sort-channels",), "--sort-channels is for networks"),
        ("network", ("--new-classifier",), "--new-classifier is for vit and bert"),
    ):
        command = ("import", kind, source, "--config", path, "--out", tmp_path / "run")
        said = supernet(capsys, *command, *option)
        assert said.status == 2 and words in said.err, said
    wide = dataclasses.replace(settings, space=dataclasses.replace(settings.space, width=9))
    with pytest.raises(UserError, match="has the shape"):
        sj.import_bert(source, wide, tmp_path / "run")
