"""EfficientTDNN's space: published counts, outputs of the published code, notation, lengths."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from theorem import largest_difference, random_params
from tiny_space import hearing

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Menu
from supernet_jax.elastic.notation import from_notation, to_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract
from supernet_jax.spaces import EfficientTdnn, efficient_tdnn
from supernet_jax.tasks import NextToken, SpeakerVerification

GOLDEN = reference.golden("efficient_tdnn")
# Wang et al. 2021 (arXiv 2103.13581), and tutorials/EfficientTDNN/TDNN-NAS.ipynb of the published
# code: MACs for 80 x 300, of the smallest and the largest; 1.45 G is for 301 frames, 3 seconds.
PUBLISHED: dict[str, tuple[dict[str, Any], str, str]] = {
    "smallest": (
        {"depth": 2, "width": [128] * 3, "kernel": [1] * 3, "last_width": 384},
        "83.47M",
        "443.97K",
    ),
    "largest": (
        {"depth": 4, "width": [512] * 5, "kernel": [5] * 5, "last_width": 1536},
        "1.93G",
        "7.55M",
    ),
    "ecapa": (
        {"depth": 3, "width": [512] * 4, "kernel": [5, 3, 3, 3], "last_width": 1536},
        "1.45G",
        "5.79M",
    ),
}
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    notation, macs, parameters = PUBLISHED[name]
    frames = 301 if name == "ecapa" else 300
    values = {key: value for key, value in notation.items() if key != "depth"}
    narrow = {
        "widths": tuple(sorted({*values["width"]})),
        "kernels": tuple(sorted({*values["kernel"]})),
        "last_widths": (values["last_width"],),
        "depths": (notation["depth"],),
    }
    space = EfficientTdnn(frames=(frames,), **narrow).build()
    arch = from_notation(space.menu, notation)
    for cost, said in ((costs.macs(space), macs), (costs.parameters(space), parameters)):
        assert f"{cost(arch) / UNITS[said[-1]]:.2f}{said[-1]}" == said


def effective(menu: Menu) -> int:
    """How many networks there are: decisions of blocks that are skipped do not count."""
    return sum(
        math.prod(
            len(choice)
            for path, choice in zip(choices.paths(menu), jax.tree.leaves(menu), strict=True)
            if path != ("depth",) and (choice.depth is None or depth > choice.depth[1])
        )
        for depth in menu["depth"].values
    )


def test_effective_networks() -> None:
    assert effective(EfficientTdnn().build().menu) == 4_066_875
    fine = (147**5) * 145  # of 49 widths and 3 kernels in five places, at depth 4
    assert f"{fine:.2e}" == "9.95e+12" and len(range(128, 513, 8)) == 49
    assert len(range(384, 1537, 8)) == 145
    space = hearing()
    every = choices.unpack(
        space.menu,
        np.stack(
            [
                leaf.ravel()
                for leaf in np.indices([len(c) for c in jax.tree.leaves(space.menu)], np.int32)
            ],
            -1,
        ),
    )
    rows = np.asarray(choices.pack(elastic_space.normal(space, every)))
    assert len(np.unique(rows, axis=0)) == effective(space.menu) == 2 * 2 * (16 + 64)
    assert len(rows) == choices.count(space.menu) > len(np.unique(rows, axis=0))


def published_params() -> Any:
    """The golden supernet's parameters, in our names and axes."""
    made: dict[str, Any] = {}
    for i, (name, shape) in enumerate(GOLDEN["parameters"]):
        n = np.arange(math.prod(shape))
        scale = name.endswith("bn.weight") or name == "bnembed.weight"
        value = np.sin(0.37 * (i + 1) * n + i) / 2 + scale
        path, array = placed(name.split("."), np.float32(value).reshape(shape))
        node = made
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(array)
    return made


def placed(parts: list[str], value: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Where a published parameter lies here, and its values as they lie."""
    match parts:
        case ["layer1", "conv", *_]:
            return ("frames", "conv", "kernel"), value.transpose(2, 1, 0)
        case ["layer1", "bn", _, which]:
            return ("frames", "norm", OF_NORM[which]), value
        case ["blocks", i, *rest]:
            path, value = in_block(rest, value)
            return (f"block{int(i) + 1}", *path), value
        case ["catconv", *_]:
            merged = value[:, :, 0].T.reshape(3, 16, -1)  # blocks, channels of each
            return ("embedding", "merge", "kernel"), merged
        case ["pooling", which, *_]:
            layer = {"linear1": "attend", "linear2": "weigh"}[which]
            return ("embedding", layer, "kernel"), value.transpose(2, 1, 0)
        case ["bnpool", _, which]:
            return ("embedding", "pooled_norm", OF_NORM[which]), value.reshape(2, -1)
        case ["linear", _, "weight"]:
            return ("embedding", "project", "kernel"), value.T.reshape(2, -1, 3)
        case ["linear", _, "bias"]:
            return ("embedding", "project", "bias"), value
    return ("embedding", "norm", OF_NORM[parts[-1]]), value


def in_block(parts: list[str], value: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    match parts:
        case ["first_conv", "conv", *_]:
            return ("first", "kernel"), value[:, :, 0].T.reshape(-1, 8, 2)
        case ["first_conv", "bn", _, which]:
            return ("first_norm", OF_NORM[which]), value.reshape(8, 2)
        case ["resconv", _, j, "conv", *_]:
            return (f"group{int(j) + 1}", "kernel"), value.transpose(2, 1, 0)
        case ["resconv", _, j, "bn", _, which]:
            return (f"group{int(j) + 1}_norm", OF_NORM[which]), value
        case ["last_conv", "conv", *_]:
            return ("last", "kernel"), value[:, :, 0].T.reshape(8, 2, -1)
        case ["last_conv", "bn", _, which]:
            return ("last_norm", OF_NORM[which]), value
        case ["se", layer, _, "weight"]:
            return (layer, "kernel"), value.T
    return (parts[1], "bias"), value


OF_NORM = {"weight": "scale", "bias": "bias"}


def test_outputs_of_the_published_code() -> None:
    space = efficient_tdnn.efficient_tdnn(
        "golden",
        frames=(9,),
        depths=(1, 2, 3),
        widths=(8, 16),
        kernels=(1, 3, 5),
        last_widths=(8, 12),
        task=SpeakerVerification(4, 9, 2),
        features=3,
    )
    params = published_params()
    params["speakers"] = {"kernel": jnp.eye(3, 2)}
    n = np.arange(5 * 4 * 9)
    inputs = (np.sin(0.61 * n) + np.cos(1.7 * n) / 5).reshape(5, 4, 9).transpose(0, 2, 1)
    run = jax.jit(lambda arch: strategies.masked(space, params, arch, inputs, size=9).logits)
    for subnet in GOLDEN["subnets"]:
        arch = from_notation(space.menu, subnet["arch"])
        with jax.default_matmul_precision("highest"):
            outputs = np.asarray(run(jax.tree.map(jnp.asarray, arch)))
        wanted = np.asarray(subnet["outputs"])
        np.testing.assert_allclose(outputs[:, :3], wanted, rtol=1e-4, atol=1e-4)
        unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose(outputs[:, 3:], unit[:, :2], rtol=1e-4, atol=1e-4)
        assert costs.parameters(space)(arch) == subnet["count_params"]


def test_an_extracted_network_takes_other_lengths() -> None:
    space, params = hearing(), random_params(hearing())
    arch = from_notation(
        space.menu,
        {"frames": 6, "depth": 1, "width": [12, 24], "kernel": [3, 1], "last_width": 5},
    )
    inputs = np.random.default_rng(0).normal(size=(4, 7, 4)).astype(np.float32)
    masked = jax.jit(functools.partial(strategies.masked, space, size=6))
    run = masked(params, jax.tree.map(jnp.asarray, arch), inputs)
    module, variables = extract.extract(space, params, arch, run.moments)
    extract.prove(space, params, arch, run.moments, module, variables, inputs)
    at_any_length = jax.jit(module.clone(size=()).apply)
    whole, cut = at_any_length(variables, inputs), at_any_length(variables, inputs[:, :6])
    assert largest_difference(cut, jax.jit(module.apply)(variables, inputs)) < 1e-6
    assert largest_difference(whole, cut) > 1e-3
    assert space.task.embeddings(whole).shape == (4, 4)  # type: ignore[attr-defined]
    loud = at_any_length(variables, 3 * inputs + 1)  # each band is normalised over time
    assert largest_difference(loud, whole) < 1e-3


def test_notation() -> None:
    space = EfficientTdnn().build()
    notation = PUBLISHED["ecapa"][0]
    arch = from_notation(space.menu, notation)  # without the only number of frames there is
    full = to_notation(space.menu, arch)
    assert full["frames"] == 300 and full["width"] == [512, 512, 512, 512, 128]
    assert from_notation(space.menu, full) == arch
    for width, said in (([512] * 3, "3 entries, but depth is 3; it must have 4 entries, or 5"),):
        with pytest.raises(UserError, match=said):
            from_notation(space.menu, {**notation, "width": width})
    two = EfficientTdnn(frames=(200, 300)).build()
    with pytest.raises(UserError, match="lacks frames"):
        from_notation(two.menu, notation)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (EfficientTdnn(widths=(12, 16)), "space.widths has 12, but channels come in 8 groups"),
        (EfficientTdnn(kernels=(2, 3)), r"space.kernels is \(2, 3\); give odd numbers only"),
        (EfficientTdnn(groups=1), "space.groups is 1, but must be at least 2"),
        (EfficientTdnn(features=0), "space.features is 0, but must be at least 1"),
        (EfficientTdnn(depths=()), r"space.depths is \(\); give numbers above 0"),
    ],
)
def test_spaces_that_cannot_be(part: EfficientTdnn, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        part.build()
    assert "\n" not in str(error.value)


def test_tasks_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"examples have 200 frames, but the space .* offers 300"):
        EfficientTdnn().build(task=SpeakerVerification(80, 200, 3))
    with pytest.raises(UserError, match="is for speech, but the task of the data is language mod"):
        EfficientTdnn().build(task=NextToken(256, 300))
