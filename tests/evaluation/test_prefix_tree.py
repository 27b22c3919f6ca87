"""Candidates block by block: the tree of what they share, what is held meanwhile, equal results."""

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import light
from tiny_space import deep, tiny, transforming

from supernet_jax.elastic import blockwise, choices, shared_params, strategies
from supernet_jax.elastic.blockwise import Blockwise, Mode
from supernet_jax.elastic.choices import Lookup
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import chunks, evaluate, prefix_tree
from supernet_jax.evaluation.evaluate import EvaluationData
from supernet_jax.runtime import sharding

SUMS = 1e-5  # float32 sums in another order
B = 8
ROW = Lookup((("width",),), np.asarray([1, 0, 1]))


def prepare(images: Any) -> Any:
    return images.astype(jnp.float32) / 128 - 1


def some_data(space: Space) -> EvaluationData:
    rng = np.random.default_rng(0)
    shape = (2, B, 8, 8, space.task.input_channels)
    calibration, images = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    labels = rng.integers(0, space.task.classes, shape[:2], np.int32)
    return EvaluationData(calibration, images, labels, np.ones(shape[:2], bool))


def noisy(space: Space) -> Any:
    rng, shapes = np.random.default_rng(1), shared_params.parameter_shapes(space)
    return jax.tree.map(lambda x: np.float32(0.5 * rng.normal(size=x.shape)), shapes)


def sample(space: Space, count: int) -> list[Any]:
    """Archs in the order of their blocks, so that those that begin alike are neighbours."""
    archs = choices.unstack(jax.device_get(choices.sample(space.menu, jax.random.key(0), (count,))))
    return sorted(archs, key=lambda arch: [(name, str(s)) for name, s in specs(space, arch)])


def specs(space: Space, arch: Any) -> list[tuple[str, Any]]:
    """The blocks that an arch has, in their order."""
    each = [(name, block.spec(arch)) for name, block in space.blocks.items()]
    return [(name, spec) for name, spec in each if spec is not None]


@pytest.mark.parametrize(
    "make",
    [transforming, lambda: light(resolutions=(8,), bank=Bank(2, ROW, ("second",)))],
    ids=["transforming", "bank"],
)
def test_equals_the_masked_program(make: Any) -> None:
    space = make()
    params, data, archs = noisy(space), some_data(space), choices.stack(sample(space, 10))
    found = []
    for strategy in (strategies.masked, blockwise.blockwise):
        how = evaluate.How(space, prepare, strategy, chunk=4)
        stats = np.zeros((10, 0))
        for where, own in evaluate.calibrated(how, params, archs, data):
            stats = stats if stats.shape[1] else np.full((10, own.shape[1]), np.nan)
            stats[where] = own
        right, loss = np.zeros((10, 2, B), bool), np.full((10, 2, B), np.nan)
        for where, scores in evaluate.scored(how, params, archs, stats, data, batches=(0, 2)):
            right[where], loss[where] = scores["right"], scores["loss"]
        found.append((stats, right, loss))
    (stats, right, loss), (other_stats, other_right, other_loss) = found
    np.testing.assert_allclose(other_stats, stats, rtol=SUMS, atol=SUMS * np.abs(stats).max())
    np.testing.assert_array_equal(other_right, right)
    np.testing.assert_allclose(other_loss, loss, rtol=SUMS, atol=SUMS * np.abs(loss).max())
    assert right.any() and not right.all()


def test_lanes_find_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and where there are fewer candidates than lanes."""
    space = light()
    params, data, archs = noisy(space), some_data(space), choices.stack(sample(space, 5))
    how, found = evaluate.How(space, prepare, blockwise.blockwise, chunk=3), []
    for lanes in (1, 2, 3):
        monkeypatch.setattr(prefix_tree, "LANES", lanes)
        each = dict(sorted((tuple(w), r) for w, r in evaluate.evaluate(how, params, archs, data)))
        found.append(jax.tree.map(np.asarray, each))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_a_failure_in_one_lane_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own error, long before the others would be done."""
    space = light()
    params, data, archs = noisy(space), some_data(space), choices.stack(sample(space, 4))
    walk = prefix_tree.CandidateTree.walk

    def endless(tree: Any, leaves: Any, inputs: Any) -> Any:
        if len(tree.paths) == 1:  # the lane of the fourth candidate
            raise UserError("lost")
        while True:
            yield from walk(tree, leaves, inputs)

    monkeypatch.setattr(prefix_tree.CandidateTree, "walk", endless)
    monkeypatch.setattr(prefix_tree, "LANES", 3)
    how = evaluate.How(space, prepare, blockwise.blockwise)
    with pytest.raises(UserError, match="lost"):
        list(evaluate.evaluate(how, params, archs, data))
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


def tree_of(space: Space, archs: list[Any], **how: Any) -> tuple[Blockwise, Any]:
    run = Blockwise(space)
    mode = Mode(8, B, gradient=False, moments=True)
    return run, prefix_tree.CandidateTree(run, [run.plan(arch, mode) for arch in archs], **how)


def images_of(space: Space) -> Any:
    return jnp.asarray(prepare(some_data(space).inputs[0]))


def test_each_beginning_runs_once() -> None:
    space = deep()
    archs = sample(space, 24)
    chains = [specs(space, arch) for arch in archs]
    beginnings = {tuple(chain[: i + 1]) for chain in chains for i in range(len(chain))}
    run, tree = tree_of(space, archs)
    leaves = run.leaves(jax.tree.map(jnp.asarray, noisy(space)))
    ran = [node.operation.block for node, _, _ in tree.walk(leaves, images_of(space))]
    assert len(ran) == len(beginnings) < sum(map(len, chains)) * 0.8
    run, apart = tree_of(space, archs, reuse=False)
    assert len(list(apart.walk(leaves, images_of(space)))) == sum(map(len, chains))
    # One compiled program for each kind of block, of which there are fewer than beginnings.
    assert len(run.programs) <= len({(str(s), name[:5]) for c in chains for name, s in c}) + 1


def test_what_is_held_depends_on_no_number_of_candidates() -> None:
    space, held = tiny(), []
    for count in (4, 64):
        run, tree = tree_of(space, sample(space, count))
        leaves = run.leaves(jax.tree.map(jnp.asarray, noisy(space)))
        images = images_of(space)
        most, nodes, before = 0, 0, len(activations())
        for _ in tree.walk(leaves, images):
            most, nodes = max(most, len(activations()) - before), nodes + 1
        held.append((most, nodes))
        del tree, images
    # Branches that wait, what was dispatched last, and the node that has just run.
    depth = max(len(specs(space, arch)) for arch in sample(space, 64))
    assert held[1][0] <= depth + prefix_tree.AHEAD + 1 < held[1][1] / 5
    assert held[1][1] > 4 * held[0][1]


def activations() -> list[Any]:
    return [x for x in jax.live_arrays() if x.ndim == 4 and x.shape[0] == B]


def test_several_devices_run_the_masked_program() -> None:
    space = light()
    archs = choices.stack(sample(space, 4))
    how = evaluate.How(space, prepare, blockwise.blockwise)
    for devices, wanted in ((1, blockwise.blockwise), (2, strategies.masked)):
        mesh = sharding.data_mesh(jax.devices()[:devices])
        data = sharding.split(mesh, some_data(space), axis=1)
        made = list(chunks.chunks(how, noisy(space), archs, data))
        assert made and all(chunk.program.how.strategy is wanted for chunk in made)
        # No lane runs what only fills up a chunk.
        is_filled = len(made[-1].places) > len(made[-1].where)
        assert is_filled == (wanted is strategies.masked)
    assert dataclasses.replace(how, strategy=strategies.masked) != how
