"""The published space: its size, its parameters, and its numbers to four decimals."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from theorem import boxes_of_arch, flat, global_difference, largest_difference

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.notation import from_notation
from supernet_jax.networks.importers import attentivenas as attentivenas_files
from supernet_jax.networks.importers.importer import Report
from supernet_jax.nn import resize
from supernet_jax.spaces import attentivenas

GOLDEN = reference.golden("parity_attentivenas")
SPACE = attentivenas.attentivenas()
EITHER = [n for n, b in SPACE.blocks.items() if getattr(b.union, "shortcut", "") == "either"]
PIXELS = 64
SHAPES = jax.eval_shape(functools.partial(shared_params.init, SPACE), jax.random.key(0))


@functools.cache
def published() -> tuple[Any, Report]:
    """What the importer makes of the published tensors, so that all below is about it too."""
    params, report = attentivenas_files.load(reference.files(GOLDEN["param_names_shapes"]), SPACE)
    return jax.tree.map(jnp.asarray, params), report


def test_size_of_the_space() -> None:
    assert choices.count(SPACE.menu) == 440_301_256_704
    assert len(SPACE.blocks) == 37 + 2


def test_supernet_parameters() -> None:
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(SHAPES))
    assert size == 23_404_656
    params, report = published()
    assert jax.tree.map(lambda s: s.shape, SHAPES) == jax.tree.map(lambda p: p.shape, params)
    # The published module also has 30 shortcut kernels that no arch ever uses.
    shapes = dict(map(tuple, GOLDEN["param_names_shapes"]))
    dropped = [name for line in report.left if (name := line.split(": ")[0]) in shapes]
    assert len(dropped) == 30 and all(
        name.endswith("shortcut.conv.conv.weight") for name in dropped
    )
    assert {*report.mapped, *dropped} == shapes.keys() and len(report.mapped) == 439
    assert size + sum(int(np.prod(shapes[name])) for name in dropped) == 23_934_704


def test_blocks_with_either_shortcut() -> None:
    # 16 or 24 to 16 or 24, 24 to 24 or 32, ...: where the widths of two stages can be equal.
    wanted = [
        f"stage{i + 1}_block1"
        for i in range(7)
        if set(SPACE.menu["width"][i].values) & set(SPACE.menu["width"][i + 1].values)
    ]
    assert wanted == EITHER and "stage1_block1" in EITHER


@functools.cache
def program(name: str, case: str, size: int, with_stats: bool) -> Any:
    """`(params, arch, images, stats) -> output`; sliced has a program for each arch."""
    notation = GOLDEN["cases"][case]["cfg"]
    fixed = from_notation(SPACE.menu, notation)

    def run(params: Any, arch: Any, images: Any, stats: Any) -> Any:
        strategy = {"masked": strategies.masked, "switched": strategies.switched}.get(name)
        how = {"size": size, "stats": stats if with_stats else None}
        if strategy is None:
            return strategies.sliced(SPACE, params, fixed, images, **how)
        return strategy(SPACE, params, arch, images, **how)

    compiled = jax.jit(run)
    arch = jax.tree.map(jnp.asarray, fixed)
    return lambda images, stats=None: compiled(published()[0], arch, images, stats)


def compare(logits: Any, golden: dict) -> None:
    """Errors of single logits; those of sums add up."""
    logits = np.asarray(logits)
    assert logits.shape == tuple(golden["shape"])
    np.testing.assert_allclose(logits[:, :8], golden["first8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), golden["l2"], rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == golden["argmax"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), [("sliced", "a0"), ("sliced", "a3"), ("masked", "a0")])
def test_published_logits(name: str, case: str) -> None:
    golden = GOLDEN["cases"][case]
    size = golden["cfg"]["resolution"]
    # A program of the whole space compiles for a minute: masked has one, and none for the images
    # of another size. That switched agrees with sliced is tested below.
    batch = program(name, case, size, False)
    at_size = reference.images(2, size, 0)
    compare(batch(at_size).logits, golden["batchstat_logits_input_at_resolution"])
    large = reference.images(2, 224, 0)
    resized = batch(large if name == "sliced" else resize.resize_bicubic(large, size)).logits
    compare(resized, golden["batchstat_logits_input_224_bicubic"])
    if name == "masked":
        return
    stats = program(name, case, size, True)
    calibrated = stats(reference.images(2, size, 20), calibrated_statistics(case))
    compare(calibrated.logits, golden["calibrated_eval_logits"])


@functools.cache
def calibrated_statistics(case: str) -> Any:
    size = GOLDEN["cases"][case]["cfg"]["resolution"]
    batch = program("sliced", case, size, False)
    moments = [batch(reference.images(4, size, stream)).moments for stream in (10, 11)]
    return jax.tree.map(lambda a, b: (a + b) / 2, *moments)


@pytest.mark.slow
def test_theorem_on_the_whole_space() -> None:
    # Few pixels: the programs are as large as ever, their work is not. But fewer than 8 x 2 x 2
    # values per channel at the end would make batch statistics amplify float32's rounding.
    images = jnp.asarray(reference.images(8, PIXELS, 7))
    params = published()[0]
    weights = jax.random.normal(jax.random.key(0), (8, 1000))

    def gradient(strategy: Any, fixed: Any = None) -> Any:
        def run(params: Any, arch: Any) -> Any:
            def loss(params: Any) -> Any:
                chosen = arch if fixed is None else fixed
                output = strategy(SPACE, params, chosen, images, size=PIXELS)
                return jnp.sum(output.logits * weights), output

            return jax.value_and_grad(loss, has_aux=True)(params)

        return jax.jit(run)

    masked = gradient(strategies.masked)
    switched = jax.jit(lambda p, a: strategies.switched(SPACE, p, a, images, size=PIXELS))
    archs = choices.unstack(choices.sample(SPACE.menu, jax.random.key(16), (2,)))
    kinds = [{SPACE.blocks[name].spec(arch).shortcut for arch in archs} for name in EITHER]
    assert sum(len(kind) == 2 for kind in kinds) >= 3, "these archs change too few shortcuts"
    for arch in archs:
        (_, output), gradients = gradient(strategies.sliced, arch)(params, None)
        traced = jax.tree.map(jnp.asarray, arch)
        (_, other), others_gradients = masked(params, traced)
        assert global_difference(others_gradients, gradients) < 1e-5
        dead = flat(gradients) == 0
        assert np.mean(dead) > 0.1 and not np.any(flat(others_gradients)[dead & (box(arch) == 0)])
        for one in (other, switched(params, traced)):
            assert largest_difference(one.logits, output.logits) < 1e-5
            assert largest_difference(one.moments, output.moments) < 1e-5


def box(arch: Any) -> np.ndarray:
    """1 inside what an arch uses of the shared parameters, in the order of their leaves."""
    return flat(boxes_of_arch(SPACE, arch, PIXELS))
