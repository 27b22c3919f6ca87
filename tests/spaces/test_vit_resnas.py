"""ViT-ResNAS: counts and logits of its published code, weights taken in, and its training."""

import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from test_train_step import QUICK
from theorem import check_of, global_difference
from tiny_space import staged

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.notation import from_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks.importers import vit_resnas as importer
from supernet_jax.spaces import ViTResNAS, ViTResNASSmall, mobilenet, vit_resnas
from supernet_jax.training import recipe, train_step
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.samplers import Sampler

GOLDEN = reference.golden("vit_resnas")
TINY, SMALL = ViTResNAS().build(), ViTResNASSmall().build()
# ViT-Res-Tiny is no subnet of a space, but a network of the same blocks.
PLAIN = vit_resnas.vit_resnas(
    "plain",
    widths=((192,), (384,), (768,)),
    num_heads=((3,), (6,), (12,)),
    hidden=((768,), (1536,), (3072,)),
    head_dims=(64, 64, 64),
    blocks=4,
    optional=False,
)
NETWORKS = {
    "ViT-Res-Tiny": PLAIN,
    "ViT-ResNAS-Tiny": TINY,
    "ViT-ResNAS-Small": SMALL,
    "ViT-ResNAS-Medium": SMALL,
}


def notation(definition: Any, space: Any) -> Any:
    """A published definition: embedding, blocks and reductions, classifier. It lacks blocks that
    are not there; which of those that may be left out, changes no count.
    """
    each = len(space.menu["there"]) // len(space.menu["width"])
    found: Any = {"resolution": 224, "width": [definition[0][1]], "num_heads": [], "hidden": []}
    found["there"], rows = [], list(definition[1:-1])
    for _ in space.menu["width"]:
        own: list[Any] = []
        while rows and rows[0][0] != 3:
            own.append(rows.pop(0))
        absent = [i for i in range(each) if i % 2][len(own) - each :] if len(own) < each else []
        for i in range(each):
            if i not in absent:
                row = own.pop(0)
            _, (_, heads, _), (_, hidden), there = row
            found["num_heads"].append(heads)
            found["hidden"].append(hidden)
            found["there"].append(0 if i in absent else there)
        if rows:
            found["width"].append(rows.pop(0)[2])
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_the_published_ones(name: str) -> None:
    space, wanted = NETWORKS[name], GOLDEN["networks"][name]
    arch = from_notation(space.menu, notation(wanted["network_def"], space))
    alone = elastic_space.only(space, arch)
    one = choices.smallest(alone.menu)
    assert int(costs.parameters(alone)(one)) == wanted["parameters"]
    assert int(costs.macs(alone)(one)) == wanted["macs"]


def test_parameters_of_all_shared_weights() -> None:
    shapes = jax.tree.leaves(shared_params.parameter_shapes(TINY))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == GOLDEN["supernet_parameters"]


@pytest.mark.slow
def test_published_logits() -> None:
    params, report = importer.load(reference.tensors(GOLDEN["param_names_shapes"]), TINY)
    assert report.left == ()
    wanted = GOLDEN["subnet"]["logits"]
    arch = from_notation(TINY.menu, notation(GOLDEN["subnet"]["network_def"], TINY))
    run = functools.partial(strategies.sliced, TINY, arch=arch, size=224)
    program = jax.jit(lambda p, x: run(p, inputs=x).logits, **QUICK)
    logits = np.asarray(program(params, reference.images(2, 224, 0)))
    assert logits.shape == tuple(wanted["shape"])
    np.testing.assert_allclose(logits[:, :8], wanted["first8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), wanted["l2"], rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == wanted["argmax"]


# --- weights ------------------------------------------------------------------------------------


def test_weights_are_mapped_to_the_bit() -> None:
    params = check_of(staged, size=8).params
    flat, file = flax.traverse_util.flatten_dict(params), {}
    for name, place in importer.places(staged()).items():
        turned = np.asarray(flat[place.leaf]).transpose(np.argsort(place.axes))
        file[name] = np.ascontiguousarray(turned.reshape(place.wanted))
    left = {name: np.ones(s.shape, np.float32) for name, s in importer.spares(staged()).items()}
    found, report = importer.load({**file, **left}, staged())
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert {*report.mapped} == file.keys() and len(report.left) == len(left) == 2 + 3 * 3
    assert file["blocks.0.attn.qkv.weight"].shape == (3 * 2 * 2, 4)
    assert file["blocks.2.patch_reduce.weight"].shape == (6, 4, 3, 3)
    with pytest.raises(UserError, match="no counterpart there; use a config with the space ViTRes"):
        importer.load(file, mobilenet.digits())


# --- several archs on parts of a batch ----------------------------------------------------------

BATCH, PARTS = 8, 2


def either(archs: list[Any]) -> Sampler:
    """One of two archs, by a coin for each draw."""
    both = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(x, jnp.int32) for x in leaves]), *archs
    )

    def sample(state: Any, key: Any, step: Any, score: Any) -> Any:
        coin = jax.random.bernoulli(key).astype(jnp.int32)
        return jax.tree.map(lambda leaf: leaf[coin][None], both)

    return Sampler((), 1, lambda key: (), sample, lambda state, metrics: state)


def test_a_step_of_parts_is_the_mean_of_their_gradients() -> None:
    """Each part of the batch is another subnet's, as if it were a batch by itself."""
    space = staged()
    archs = [choices.smallest(space.menu), choices.largest(space.menu)]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 8, 8, 2)).astype(np.float32)
    labels = rng.integers(0, 5, BATCH).astype(np.int32)
    loss = hard_labels.hard_labels(smoothing=0.1)
    made = recipe.Recipe(
        space=space,
        sampler=either(archs),
        loss=loss,
        optimizer=optax.sgd(1.0),
        augment=lambda images, key, ids: images,
        ema_decay=0.0,
        arch_shards=PARTS,
        seed=SEED,
    )
    state = jax.jit(lambda: train_step.create(made))()
    before = jax.device_get(state.params)
    batch = recipe.Batch(images, labels, np.arange(BATCH, dtype=np.int32))
    after, _ = train_step.Step(made)(state, batch, sizes=train_step.step_sizes(made, step=0))
    step = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), before, after.params)

    def program(arch: Any) -> Any:
        def of(params: Any, images: Any, labels: Any) -> Any:
            logits = strategies.sliced(space, params, arch, images, size=8).logits
            return loss(logits, None, {}, jax.nn.one_hot(labels, 5), "random")

        return jax.jit(jax.grad(of), **QUICK)

    gradients = [program(arch) for arch in archs]
    halves = zip(np.split(images, PARTS), np.split(labels, PARTS), strict=True)
    each = [[gradient(before, *half) for gradient in gradients] for half in halves]
    means = {
        (i, j): jax.tree.map(lambda a, b: (a + b) / PARTS, each[0][i], each[1][j])
        for i in range(2)
        for j in range(2)
    }
    found = {pair: global_difference(step, mean) for pair, mean in means.items()}
    (drawn,) = [pair for pair, difference in found.items() if difference < 1e-5]
    assert drawn in ((0, 1), (1, 0)), "draw with another seed: both parts had one subnet"
    assert min(value for pair, value in found.items() if pair != drawn) > 1e-3


SEED = 0  # with which the parts draw different subnets
