"""Networks as pictures: any space's, by its specs and shapes alone."""

import itertools
import pathlib

import jax
import matplotlib.figure
import numpy as np
import pytest
import tiny_run
import tiny_space
from tiny_run import CONFIG

import supernet_jax as sj
from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import arch_picture
from supernet_jax.experiment import front as front_module

CHAINS = {
    "images": tiny_space.tiny,
    "vision transformer": tiny_space.tokens,
    "sizes of two decisions": tiny_space.two_factors,
    "stages": tiny_space.staged,
    "decoder": tiny_space.decoding,
    "translation": tiny_space.translating,
    "speech": tiny_space.hearing,
    "operations": tiny_space.fbnet_layers,
    "no names of sizes": tiny_space.factored,
}


def archs_of(space: Space) -> list:
    drawn = choices.unstack(choices.sample(space.menu, jax.random.key(0), (1,)))
    return [choices.smallest(space.menu), *drawn, choices.largest(space.menu)]


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_blocks_are_drawn_as_they_are(make) -> None:
    space = make()
    for arch in archs_of(space):
        found = arch_picture.picture(space, arch)
        geometry = elastic_space.geometry(space, space.size_of(arch))
        assert [slot.name for slot in found.slots] == list(geometry)
        assert not found.operations
        for slot in found.slots[:-1]:
            one, spec = geometry[slot.name], space.blocks[slot.name].spec(arch)
            assert (slot.own is None) == (spec is None)
            if spec is not None and slot.own is not None:
                shape = elastic_block.shapes(one.block, spec, one.inputs).output.shape
                assert slot.own.channels == shape[-1]
                assert slot.own.side == (shape[1] if len(shape) > 2 else 1)
                if kernel := getattr(spec, "kernel", None):
                    assert f"k{kernel}" in slot.label and f"kernel {kernel}" in slot.about
        _boxes_fit(found)
        ax = matplotlib.figure.Figure().subplots()
        arch_picture.draw(ax, space, arch, title="$a network$")
        there = [box for slot in found.slots for box in (slot.own, slot.largest) if box]
        assert len(ax.patches) == len(there)
    assert all(slot.own == slot.largest for slot in found.slots)  # the last is the largest


def _boxes_fit(found: arch_picture.Picture) -> None:
    placed = arch_picture.placed(found)
    spans = []
    for one in placed:
        sizes = [size for size in (one.own, one.largest) if size is not None]
        for width, height in sizes:
            assert 0 < width <= 1 and 0 < height <= 1
        widest = max((width for width, _ in sizes), default=0.0)
        spans.append((one.x - widest / 2, one.x + widest / 2))
    assert spans[0][0] >= -1e-9 and spans[-1][1] <= 1 + 1e-9
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def test_a_box_grows_with_channels_and_side() -> None:
    space = tiny_space.tiny()
    found = arch_picture.picture(space, choices.smallest(space.menu))
    for one in arch_picture.placed(found)[:-1]:
        if one.own is not None and one.largest is not None:
            own, largest = one.slot.own, one.slot.largest
            assert own is not None and largest is not None
            ratio = one.own[0] / one.largest[0]
            assert ratio == pytest.approx((own.channels / largest.channels) ** 0.5)
            assert (one.own[1] < one.largest[1]) == (own.side < largest.side)
    sides = [side for side in arch_picture.steps(found) if side]
    assert sides[0] == "6 px" and sides[1:] == ["3"]


def test_a_kind_has_one_colour_in_all_pictures() -> None:
    space = tiny_space.tiny()
    pictures = [arch_picture.picture(space, arch) for arch in archs_of(space)]
    assert {found.kinds for found in pictures} == {("kernel 3", "kernel 5")}
    assert pictures[0].used == ("kernel 3",) and pictures[-1].used == ("kernel 3", "kernel 5")
    assert [arch_picture.shade(i, 5) for i in range(5)] == list(range(5))
    assert [arch_picture.shade(i, 9) for i in (0, 4, 8)] == [0, 2, 4]
    assert arch_picture.shade(0, 1) == 0


def test_cells_are_a_list_of_operations() -> None:
    space = tiny_space.cells()
    smallest, largest = choices.smallest(space.menu), choices.largest(space.menu)
    found = arch_picture.picture(space, smallest)
    assert not found.slots
    assert len(found.operations) == sum(len(c) > 1 for c in jax.tree.leaves(space.menu))
    names = {cell for _, *both in found.operations for cell in both}
    assert "conv3x3" in names or "pool3x3" in names, names
    same = arch_picture.picture(space, largest).operations
    assert all(own == most for _, own, most in same)
    ax = matplotlib.figure.Figure().subplots()
    arch_picture.draw(ax, space, smallest)
    (text,) = ax.texts
    assert all(name in text.get_text() for name, _, _ in found.operations)


def test_a_front_draws_its_networks(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: pathlib.Path
) -> None:
    run = sj.open_run(tiny_run.searched(tmp_path_factory), CONFIG, read=False)
    front = front_module.last(run)
    figure = matplotlib.figure.Figure()
    for place in (0, -1):
        ax = front.draw(place, figure.subplots())
        assert f"{front[place].macs:,} MACs" in ax.get_title("left")
        assert len(ax.patches) >= 3
    assert np.isfinite(ax.get_xlim()).all()
    figure.savefig(tmp_path / "network.png")
    with pytest.raises(sj.UserError, match=r"place is .*, but the front has"):
        front.draw(len(front), ax)
