"""The theorem: all strategies run the same network, in every space."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import (
    Check,
    archs_of,
    check_of,
    every_arch,
    flat,
    global_difference,
    largest_difference,
)
from tiny_space import (
    adapted,
    bert,
    cell_genotypes,
    cells,
    decoding,
    decoding_untied,
    deep,
    encoding,
    factored,
    fbnet_layers,
    hearing,
    hybrid,
    parted,
    shuffled_halves,
    staged,
    superkernels,
    three_stages,
    tiny,
    tokens,
    transforming,
    translating,
    two_factors,
    vit,
)

from supernet_jax.elastic import choices, elastic_block, shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.spaces import attentivenas, mobilenet

# A space of your own joins by one line: name -> (space, size of inputs, random archs).
SPACES: dict[str, Any] = {
    "tiny": (tiny, 8, 2),
    "deep": (deep, 8, 1),
    "transforming": (transforming, 8, 1),
    "adapted": (adapted, 8, 1),
    "tokens": (tokens, 6, 1),
    "two_factors": (two_factors, (6, 2), 1),
    "factored": (factored, 2, 1),
    "decoding": (decoding, (), 1),
    "hybrid": (hybrid, 6, 1),
    "vit": (vit, 6, 1),
    "cells": (cells, 6, 1),
    "parted": (parted, 6, 3),
}
# The gradients of all switches compile slowly. What these rows have is in another one: transforms
# in "adapted", layers of two factors in "factored", convolutions in "tiny", attention in "tokens".
SWITCHED_FORWARDS = ("transforming", "two_factors", "hybrid", "vit", "parted")
# Larger spaces, other images and text: without the gradients of all switches, too.
LARGER: dict[str, Any] = {
    "three_stages": (three_stages, 8, 1),
    "tiny-small-images": (tiny, 6, 1),
    "decoding_untied": (decoding_untied, (), 1),
    "encoding": (encoding, (), 1),
    "two_factors-larger-patches": (two_factors, (6, 4), 1),
    "staged": (staged, 8, 1),
    "bert": (bert, (), 1),
    "translating": (translating, (), 1),
    "hearing": (hearing, 7, 1),
    "fbnet_layers": (fbnet_layers, 6, 1),
    "cell_genotypes": (functools.partial(cell_genotypes, 1), 4, 1),
    "superkernels": (superkernels, 6, 1),
    "shuffled_halves": (shuffled_halves, 6, 1),
}
# Float32 at highest precision: sums are ordered differently, nothing else differs.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=SPACES)
def check(request: pytest.FixtureRequest) -> Check:
    make, resolution, _ = SPACES[request.param]
    forwards = ("switched",) if request.param in SWITCHED_FORWARDS else ()
    made = check_of(make, size=resolution, forwards=forwards)
    made.name = request.param  # type: ignore[attr-defined]
    made.archs = archs_of(made.space, SPACES[request.param][2])  # type: ignore[attr-defined]
    return made


def test_strategies_agree(check: Any) -> None:
    for i, arch in enumerate(check.archs):
        if i == 1:
            traces = dict(check.traces)
        output, gradients = check.run("sliced", arch)
        for name in ("masked", "switched", "blockwise"):
            other, others_gradients = check.run(name, arch)
            assert largest_difference(other.logits, output.logits) < TOLERANCE
            assert largest_difference(other.moments, output.moments) < TOLERANCE
            if name == "switched" and check.name in SWITCHED_FORWARDS:
                continue
            assert global_difference(others_gradients, gradients) < TOLERANCE
            _check_dead(check, arch, others_gradients)
    for name in ("masked", "switched"):
        assert check.traces[name] == traces[name], "traced again for another arch"


def _check_dead(check: Check, arch: Any, gradients: Any) -> None:
    boxes = check.boxes(arch)
    leaves = jax.tree.leaves({k: boxes[k] for k in sorted(boxes)})
    for box, g in zip(leaves, jax.tree.leaves(gradients), strict=True):
        assert not np.any(np.asarray(g)[np.asarray(box) == 0]), "a dead weight has gradient"


def test_every_arch_of_the_tiny_space() -> None:
    check = check_of(tiny, size=8)
    archs = [arch for arch in every_arch(check.space.menu) if arch["resolution"] == 1]
    alive = 0
    for i, arch in enumerate(archs):
        if i == 1:
            traces = dict(check.traces)
        output, gradients = jax.device_get(check.run("masked", arch))
        other, others_gradients = jax.device_get(check.run("switched", arch))
        assert largest_difference(other.logits, output.logits) < TOLERANCE
        assert largest_difference(other.moments, output.moments) < TOLERANCE
        assert global_difference(others_gradients, gradients) < TOLERANCE
        _check_dead(check, arch, gradients)
        _check_dead(check, arch, others_gradients)
        alive += np.count_nonzero(flat(gradients))
    assert len(archs) == 256 and alive > 1e5
    assert check.traces == traces, "traced again for another arch"


@pytest.mark.parametrize("name", LARGER)
def test_larger_spaces_agree(name: str) -> None:
    make, resolution, count = LARGER[name]
    check = Check(make(), size=resolution, batch=2 if resolution == 8 else 4)
    forward = check.forward(strategies.switched)
    # What these are made of is in SPACES.
    alike = name in ("three_stages", "tiny-small-images", "two_factors-larger-patches")
    by_code = [check.forward(run) for run in (() if alike else (strategies.masked, mixed))]
    for arch in archs_of(check.space, count)[2:]:
        output, gradients = check.run("sliced", arch)
        other, others_gradients = check.run("masked", arch)
        assert global_difference(others_gradients, gradients) < TOLERANCE
        _check_dead(check, arch, others_gradients)
        switched = forward(check.params, jax.tree.map(jnp.asarray, arch))
        code = choices.one_hot(check.space.menu, arch)
        coded = [run(check.params, code) for run in by_code]
        for one in (other, switched, *coded):
            assert largest_difference(one.logits, output.logits) < TOLERANCE
            assert largest_difference(one.moments, output.moments) < TOLERANCE


@pytest.mark.parametrize("strategy", [strategies.masked, mixed], ids=["masked", "mixed"])
def test_one_hot_codes_are_archs(check: Any, strategy: Any) -> None:
    """In logits and statistics, and the gradients where kinds of blocks are new."""
    graded = check.name in ("tiny", "tokens", "cells")
    run = check.program(strategy) if graded else check.forward(strategy)
    coded = []
    for arch in check.archs[:2]:
        code = choices.one_hot(check.space.menu, arch)
        wanted, wanted_gradients = check.run("masked", arch)
        if graded:
            (_, output), gradients = run(check.params, code, None, None)
            assert global_difference(gradients, wanted_gradients) < TOLERANCE
            _check_dead(check, arch, gradients)
        else:
            output = run(check.params, code)
        assert largest_difference(output.logits, wanted.logits) < TOLERANCE
        assert largest_difference(output.moments, wanted.moments) < TOLERANCE
        coded.append(output.logits)
    assert largest_difference(*coded) > 100 * TOLERANCE, "all codes are one network"


def test_alive_weights_have_gradients(check: Any) -> None:
    # Otherwise the test of dead weights could not fail. ReLU may kill a few of the alive ones.
    arch = check.archs[1]
    _, gradients = check.run("masked", arch)
    boxes = check.boxes(arch)
    alive = flat({k: boxes[k] for k in sorted(boxes)}) == 1
    assert np.mean(flat(gradients)[alive] != 0) > 0.8


def dropping() -> Space:
    """A stage of one or two blocks, which are left out, before a head with dropout."""
    return mobilenet.mobilenet(
        "dropping",
        resolutions=(8,),
        stem=(4,),
        stem_stride=1,
        stages=(mobilenet.Stage((4, 6), (1, 2), (3,), (1,), 1),),
        last=(12,),
        classes=5,
        input_channels=2,
        head_ratio=2,
        dropout=0.3,
        drop_path=0.4,
    )


def test_strategies_agree_on_calibrated_statistics_and_dropout() -> None:
    check = Check(dropping(), size=8)
    for arch in archs_of(check.space, 1)[1:]:
        stats = check.run("masked", arch)[0].moments
        output, gradients = check.run("sliced", arch, stats=stats, key=check.key)
        otherwise, _ = check.run("masked", arch, stats=stats, key=jax.random.key(5))
        assert largest_difference(output.logits, otherwise.logits) > 0.01, "dropout does nothing"
        for name in ("masked", "switched", "blockwise"):
            other, others_gradients = check.run(name, arch, stats=stats, key=check.key)
            assert largest_difference(other.logits, output.logits) < TOLERANCE
            assert global_difference(others_gradients, gradients) < TOLERANCE


def test_blocks_in_a_loop() -> None:
    space = deep()
    assert len(space.blocks) == 1 + 5 + 1
    check = check_of(deep, size=8)
    arch = jax.tree.map(jnp.asarray, choices.largest(space.menu))

    def run(**how: Any) -> Any:
        return jax.jit(lambda p, a: strategies.switched(space, p, a, check.images, size=8, **how))

    looped = run()
    assert str(jax.make_jaxpr(looped)(check.params, arch)).count("scan[") == 1
    # A block whose output is wanted leaves the loop, and nothing else changes.
    wanted = run(features=("stage1_block3",))
    assert "scan[" not in str(jax.make_jaxpr(wanted)(check.params, arch))
    one, other = looped(check.params, arch), wanted(check.params, arch)
    assert largest_difference(one.logits, other.logits) < TOLERANCE
    assert set(one.moments) == set(other.moments) and set(other.features) == {"stage1_block3"}


def test_bfloat16_stays_near_float32() -> None:
    space = deep()
    check = check_of(deep, size=8)
    arch = choices.largest(space.menu)
    exact = check.run("masked", arch)[0].logits
    for strategy in (strategies.masked, strategies.switched):
        run = jax.jit(
            lambda p, a, s=strategy: s(space, p, a, check.images, size=8, dtype=jnp.bfloat16).logits
        )
        logits = run(check.params, jax.tree.map(jnp.asarray, arch))
        assert logits.dtype == jnp.float32
        # bfloat16 has 8 bits of mantissa: 0.4 % per operation, over a dozen layers.
        assert 1e-5 < largest_difference(logits, exact) < 0.1


def test_masked_under_vmap_is_the_loop() -> None:
    check = check_of(tiny, size=8)
    archs = choices.sample(check.space.menu, jax.random.key(6), (4,))

    def run(arch: Any) -> Any:
        return strategies.masked(check.space, check.params, arch, check.images, size=8).logits

    together = jax.jit(jax.vmap(run))(archs)
    alone = jax.jit(run)
    for i, arch in enumerate(choices.unstack(archs)):
        assert largest_difference(together[i], alone(arch)) < TOLERANCE


@pytest.mark.parametrize(
    "make", [tiny, decoding, encoding, mobilenet.digits, mobilenet.cifar, attentivenas.attentivenas]
)
def test_union_holds_every_spec_at_its_largest(make: Any) -> None:
    space = make()
    for name, shape in elastic_space.geometry(space, space.sizes[0]).items():
        block = space.blocks[name]
        largest: dict[Any, tuple[int, ...]] = {}
        for spec in block.specs:
            params = elastic_block.shapes(block, spec, shape.inputs).params
            for path, leaf in jax.tree_util.tree_leaves_with_path(params):
                old = largest.get(path, (0,) * leaf.ndim)
                largest[path] = tuple(map(max, old, leaf.shape))
        union = jax.tree_util.tree_leaves_with_path(shape.shapes.params)
        assert {path: leaf.shape for path, leaf in union} == largest, name


def test_sliced_refuses_a_traced_arch() -> None:
    space = tiny()
    params = jax.eval_shape(lambda: shared_params.init(space, jax.random.key(0)))
    with pytest.raises(TypeError, match="concrete arch"):
        jax.jit(lambda a: strategies.sliced(space, params, a, jnp.zeros((1, 8, 8, 2)), size=8))(
            jax.tree.map(jnp.asarray, choices.largest(space.menu))
        )
