"""A network as a picture: its blocks as boxes inside those of the largest, in the order they run.

A box is as wide as the root of its block's channels and as high as the root of a side of what it
puts out, so that both ends of a network can be seen. All is read off specs and shapes: nothing here
knows what a convolution is. In spaces of cells, whose blocks stand in many places, a picture is the
list of operations that were chosen.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from supernet_jax.elastic import choices, code_names, elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.nn.blocks.choice import ChoiceSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # whose import takes time that a report need not
    from matplotlib.patches import Rectangle


LETTERS = {"kernel": "k", "num_heads": "h", "heads": "h"}  # of a spec's fields that boxes name
WIDER = ("middle", "hidden")  # fields that boxes name as a multiple of the channels that come in
UNSAID = ("c_in", "c_out", "expand")  # which the box itself shows, or that follow
COLOURS = ("#6f4bb2", "#b0449a", "#d8566e", "#e97f43", "#c99a1a")  # by the first word of a label
GAP, LEAST = 0.25, 0.12  # between boxes, in mean widths; the least height, of the highest


class Shape(NamedTuple):
    """What a block puts out: its channels, and a side of an image or the length of a sequence."""

    channels: int
    side: int


class Slot(NamedTuple):
    """A place in the chain.

    Attributes:
        name: of the block.
        own: what it puts out in the arch; None where that skips it.
        largest: what it puts out in the largest; None where that skips it.
        kind: what gives it a colour, as "kernel 5" or the name of an operation; "" for nothing.
        label: short lines that stand below it.
        about: what there is to say of it, a few lines.
    """

    name: str
    own: Shape | None
    largest: Shape | None
    kind: str
    label: tuple[str, ...]
    about: str


class Picture(NamedTuple):
    """What is drawn of an arch.

    Attributes:
        slots: the chain; empty where there are operations.
        operations: of cells: name of the decision, what the arch takes, and what the largest does.
        sides: what the sides of slots are: "px", "long" or "".
        kinds: all that slots of the space may be of, numbers in their order: what one is of has the
            same colour in every picture of the space.
    """

    slots: tuple[Slot, ...]
    operations: tuple[tuple[str, str, str], ...]
    sides: str
    kinds: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The kinds that are there."""
        there = {slot.kind for slot in self.slots if slot.own is not None}
        return tuple(kind for kind in self.kinds if kind in there)


class Placed(NamedTuple):
    """A slot with its middle and the sizes of its boxes, in a picture that is 1 wide and 1 high."""

    slot: Slot
    x: float
    own: tuple[float, float] | None
    largest: tuple[float, float] | None


def picture(space: Space, arch: Arch) -> Picture:
    """What there is to draw of a concrete arch."""
    most = choices.largest(space.menu)
    if _is_of_cells(space):
        return Picture((), tuple(_operations(space, arch, most)), "", ())
    own, largest = _outputs(space, arch), _outputs(space, most)
    names = list(dict.fromkeys((*largest, *own)))
    slots = [_slot(name, own.get(name), largest.get(name)) for name in names]
    ranks = {one.rank for one in largest.values() if one is not None}
    sides = "px" if 4 in ranks else "long" if 3 in ranks else ""
    kinds = {_labels(spec)[0] for block in space.blocks.values() for spec in block.specs} - {""}
    ordered = sorted(kinds, key=lambda kind: (_numbers(kind), kind))
    return Picture(tuple(_capped(slots)), (), sides, tuple(ordered))


class _Output(NamedTuple):
    spec: Any
    shape: Shape
    rank: int


def _outputs(space: Space, arch: Arch) -> dict[str, _Output | None]:
    """Spec and output of each block, in the order in which they run; None where one is skipped."""
    found: dict[str, _Output | None] = {}
    for name, one in elastic_space.geometry(space, space.size_of(arch)).items():
        spec = one.block.spec(arch)
        if spec is None:
            found[name] = None
            continue
        shape = elastic_block.shapes(one.block, spec, one.inputs).output.shape
        side = shape[1] if len(shape) > 2 else 1
        found[name] = _Output(spec, Shape(int(shape[-1]), int(side)), len(shape))
    return found


def _is_of_cells(space: Space) -> bool:
    has_operations = any(isinstance(b.union, ChoiceSpec) for b in space.blocks.values())
    return has_operations and not elastic_space.is_chain(space)


def _operations(space: Space, arch: Arch, most: Arch) -> list[tuple[str, str, str]]:
    rows = []
    for path in choices.paths(space.menu):
        named = code_names.option_names(space, path)
        if len(named) > 1:
            own, largest = (named[int(choices.get(one, path))] for one in (arch, most))
            rows.append(("/".join(map(str, path)), own, largest))
    return rows


def _slot(name: str, own: _Output | None, largest: _Output | None) -> Slot:
    kind, label = ("", ()) if own is None else _labels(own.spec)
    lines = [f"{name}: {'skipped' if own is None else _sized(own)}"]
    if largest is not None and (own is None or largest.shape != own.shape):
        lines.append(f"in the largest: {_sized(largest)}")
    mine, most = (_plain(one.spec) if one is not None else {} for one in (own, largest))
    for field, value in mine.items():
        beside = "" if most.get(field, value) == value else f" (largest: {most[field]})"
        lines.append(f"{field} {value}{beside}")
    of_own, of_largest = (None if one is None else one.shape for one in (own, largest))
    return Slot(name, of_own, of_largest, kind, label, "\n".join(lines))


def _sized(output: _Output) -> str:
    c, side = output.shape
    places = {4: f", {side} x {side}", 3: f", {side} long"}.get(output.rank, "")
    return f"{c:,} channels{places}"


def _inner(spec: Any) -> tuple[str, Any]:
    """The name of the operation that a choice block has taken ("" for other blocks); its spec."""
    if isinstance(spec, ChoiceSpec):
        return spec.options[0].name, spec.options[0].spec
    return "", spec


def _fields(spec: Any) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}


def _plain(spec: Any) -> dict[str, Any]:
    """What a spec says in whole numbers and words."""
    name, inner = _inner(spec)
    said = {k: v for k, v in _fields(inner).items() if isinstance(v, int | str) and k not in UNSAID}
    return ({"operation": name} if name else {}) | said


def _labels(spec: Any) -> tuple[str, tuple[str, ...]]:
    """What gives a spec its colour, and the short lines below it."""
    name, inner = _inner(spec)
    if name:
        return name, (name,)
    fields = _fields(inner)
    field = next((field for field in LETTERS if field in fields), None)
    if field is None:
        return "", ()
    label = [f"{LETTERS[field]}{fields[field]}"]
    wide = next((fields[field] for field in WIDER if field in fields), 0)
    comes_in = fields.get("c_in", 0)
    if wide and comes_in:
        label.append(f"×{round(wide / comes_in, 1):g}")
    return f"{field.removeprefix('num_')} {fields[field]}", tuple(label)


def _capped(slots: list[Slot]) -> list[Slot]:
    """The last block puts out classes or words: it is drawn no wider than the widest before it."""
    before = [s.channels for slot in slots[:-1] for s in (slot.own, slot.largest) if s is not None]
    most = max(before, default=0)
    if not most:
        return slots

    def cap(shape: Shape | None) -> Shape | None:
        return None if shape is None else shape._replace(channels=min(shape.channels, most))

    last = slots[-1]
    return [*slots[:-1], last._replace(own=cap(last.own), largest=cap(last.largest))]


def _numbers(kind: str) -> tuple[int, ...]:
    return tuple(int(word) for word in kind.split() if word.isdigit())


def placed(picture: Picture) -> list[Placed]:
    """Where the boxes of a chain stand."""
    shapes = [
        [s for s in (slot.own, slot.largest) if s is not None] or [Shape(1, 1)]
        for slot in picture.slots
    ]
    widths = [math.sqrt(max(s.channels for s in both)) for both in shapes]
    gap = GAP * sum(widths) / len(widths)
    scale = 1 / (sum(widths) + gap * (len(widths) - 1))
    high = max(s.side for both in shapes for s in both)

    def size(shape: Shape | None) -> tuple[float, float] | None:
        if shape is None:
            return None
        return scale * math.sqrt(shape.channels), max(math.sqrt(shape.side / high), LEAST)

    found, x = [], 0.0
    for slot, width in zip(picture.slots, widths, strict=True):
        found.append(Placed(slot, x + scale * width / 2, size(slot.own), size(slot.largest)))
        x += scale * (width + gap)
    return found


def steps(picture: Picture) -> list[str]:
    """For each slot the side that it has, where that is another than before; else ""."""
    said, before = [], 0
    for slot in picture.slots:
        side = 0 if slot.own is None else slot.own.side
        is_new = side not in (before, 0, 1)
        said.append("" if not is_new else f"{side} {picture.sides}" if not before else str(side))
        before = side or before
    return said


def draw(ax: "Axes", space: Space, arch: Arch, *, title: str = "") -> None:
    """Draws an arch with Matplotlib: filled boxes in the outlines of the largest.

    Args:
        ax: axes to draw into.
        space: whose arch it is.
        arch: concrete.
        title: above it.
    """
    from matplotlib.patches import Patch

    found = picture(space, arch)
    ax.set_axis_off()
    ax.set_title(title, loc="left", fontsize="medium", parse_math=False)
    if not found.slots:
        _draw_operations(ax, found)
        return
    kinds = found.kinds
    for one, side in zip(placed(found), steps(found), strict=True):
        if one.largest is not None:
            style = {"linestyle": "--" if one.own is None else "-", "linewidth": 0.8}
            ax.add_patch(_box(one.x, one.largest, facecolor="none", edgecolor="0.6", **style))
        if one.own is not None:
            ax.add_patch(_box(one.x, one.own, facecolor=_colour(one.slot.kind, kinds), alpha=0.9))
        turn = 90 if any(len(line) > 5 for line in one.slot.label) else 0
        text: dict[str, Any] = {"ha": "center", "va": "top", "rotation": turn, "parse_math": False}
        ax.text(one.x, -0.06, "\n".join(one.slot.label), fontsize=6, **text)
        if side:
            ax.text(one.x, 1.03, side, fontsize=7, color="0.4", ha="center", va="bottom")
    handles = [Patch(color=_colour(kind, kinds), label=kind) for kind in found.used]
    handles.append(Patch(fill=False, edgecolor="0.6", label="the largest"))
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=6, frameon=False,
        fontsize="small",
    )  # fmt: skip
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.2, 1.1))


def _box(x: float, size: tuple[float, float], **style: Any) -> "Rectangle":
    width, height = size
    from matplotlib.patches import Rectangle

    return Rectangle((x - width / 2, 0.5 - height / 2), width, height, **style)


def _colour(kind: str, kinds: tuple[str, ...]) -> str:
    """Evenly along the colours, so that larger numbers stand further on."""
    if kind not in kinds:
        return "0.75"
    return COLOURS[shade(kinds.index(kind), len(kinds))]


def shade(place: int, count: int) -> int:
    """Which of the colours one of so many ascending values has."""
    return 0 if count < 2 else round(place * (len(COLOURS) - 1) / (count - 1))


def _draw_operations(ax: "Axes", found: Picture) -> None:
    lines = [
        f"{name}: {own}{'' if own == largest else f'  (largest: {largest})'}"
        for name, own, largest in found.operations
    ]
    text: dict[str, Any] = {"va": "top", "family": "monospace", "parse_math": False}
    ax.text(0, 1, "\n".join(lines), fontsize="small", transform=ax.transAxes, **text)
