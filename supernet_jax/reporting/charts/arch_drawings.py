"""Networks of a front, drawn block by block inside the largest; those of cells as operations."""

from collections.abc import Mapping

from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import arch_picture
from supernet_jax.experiment.arch_picture import Picture, Placed
from supernet_jax.reporting import run_space
from supernet_jax.reporting.charts import subnet_charts, svg_plot
from supernet_jax.reporting.charts.subnet_charts import Cell
from supernet_jax.reporting.charts.svg_plot import Labels, px
from supernet_jax.reporting.html import Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Subnet
from supernet_jax.tasks import Metric

WIDTH, TOP, DRAWN, FOOT = 940.0, 16.0, 110.0, 28.0
SIDE, LETTER, LINE = 4.0, 4.9, 10.0  # at either side; of labels
PLAIN = "scored"  # CSS class of blocks without a kind
NAMED = ("c0", "c1", "c2", "c3", "c4", "refused", "now", "s0", "s2")  # of operations


def charts(facts: Facts, types: Mapping[str, type]) -> list[Html]:
    """Pictures of the cheapest, the middle and the best of the front; without one, of the best."""
    chosen = _chosen(facts)
    if not chosen:
        return []
    try:
        space = run_space.space(facts, types)
    except UserError as error:
        return [tag("p", f"Not known for this run: {error}.", class_="soft")]
    drawn = [part for name, subnet in chosen for part in _one(name, subnet, space, facts.metric)]
    if not drawn:
        return [tag("p", "No arch of the front is of this run's space.", class_="soft")]
    said = (
        "Blocks stand in the order in which they run. A filled box is a block of this network, the "
        "outline around it the same block of the largest; dashed ones are skipped. The wider, the "
        "more channels come out, and the higher, the larger is what comes out (both by their "
        "roots); numbers above are its sides. Hovering tells the sizes."
    )
    return [tag("p", said, class_="note"), *drawn]


def _chosen(facts: Facts) -> list[tuple[str, Subnet]]:
    fronts = ([facts.search] if facts.search else []) + facts.races
    front = next((f.chosen for f in fronts if f.chosen), [])
    if front:
        places = dict.fromkeys((0, len(front) // 2, len(front) - 1))
        return [(f"front:{front[i].place}", front[i]) for i in places]
    scored, tested, _ = subnet_charts.current(facts.evaluated, [])
    best = sorted(scored or tested, key=lambda s: -facts.metric.score(s.value))
    return [("the best that was evaluated", best[0])] if best else []


def _one(name: str, subnet: Subnet, space: Space, metric: Metric) -> list[Html]:
    """One network; nothing where its arch is of another space."""
    arch = run_space.arch_of(space, subnet.arch)
    if arch is None:
        return []
    found = arch_picture.picture(space, arch)
    title = f"{name}: {metric.shown(subnet.value)}, {subnet.macs:,.0f} MACs"
    if not found.slots:
        heads = ["decision", "operation", "of the largest"]
        rows = [[Cell(cell) for cell in row] for row in found.operations]
        return [tag("p", tag("strong", title)), subnet_charts.table(heads, rows)]
    return [tag("div", drawing(found, title), class_="charts one")]


def drawing(found: Picture, title: str) -> Html:
    """A chain as SVG.

    Args:
        found: what is drawn.
        title: above it.
    """
    kinds, placed = _kinds(found), arch_picture.placed(found)
    longest = max((len(line) for one in placed for line in one.slot.label), default=0)
    turned = any(_is_long(one) for one in placed)
    height = TOP + DRAWN + (LETTER * longest + 8 if turned else FOOT)
    parts = [_slot(one, kinds, turned=turned) for one in placed]
    parts += _sides(placed, arch_picture.steps(found))
    svg = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=f"{title}: its {len(placed)} blocks inside those of the largest",
    )
    names = [(kind, kinds.get(kind, PLAIN), "square") for kind in found.used]
    names.append(("the largest", "outline", "square"))
    return svg_plot.figure(Labels(title, "", ""), names, svg)


def _kinds(found: Picture) -> dict[str, str]:
    """CSS classes by what gives a colour; numbers go from small to large."""
    kinds = found.kinds
    if all(any(word.isdigit() for word in kind.split()) for kind in kinds):
        return {k: f"s{arch_picture.shade(i, len(kinds))}" for i, k in enumerate(kinds)}
    return {kind: NAMED[i % len(NAMED)] for i, kind in enumerate(kinds)}


def _is_long(one: Placed) -> bool:
    """Whether its label is a name that is longer than its box is wide."""
    size = one.own or one.largest
    room = 0.0 if size is None else (WIDTH - 2 * SIDE) * size[0]
    return len(one.slot.label) == 1 and LETTER * len(one.slot.label[0]) > room


def _sides(placed: list[Placed], steps: list[str]) -> list[Html]:
    """The sides above the boxes, but for those that would stand in the one before."""
    parts, free = [], 0.0
    for one, side in zip(placed, steps, strict=True):
        half = 3.2 * len(side)
        x = max(SIDE + half, SIDE + (WIDTH - 2 * SIDE) * one.x)
        if side and x - half >= free:
            parts.append(tag("text", side, x=px(x), y=px(TOP - 5), class_="middle"))
            free = x + half + 4
    return parts


def _slot(one: Placed, kinds: Mapping[str, str], *, turned: bool) -> Html:
    x, middle = SIDE + (WIDTH - 2 * SIDE) * one.x, TOP + DRAWN / 2
    parts = []
    for size, kind in (
        (one.largest, "outline"),
        (one.own, f"box {kinds.get(one.slot.kind, PLAIN)}"),
    ):
        if size is None:
            continue
        width, height = (WIDTH - 2 * SIDE) * size[0], DRAWN * size[1]
        is_skipped = kind == "outline" and one.own is None
        parts.append(
            tag(
                "rect",
                tag("title", one.slot.about),
                x=px(x - width / 2),
                y=px(middle - height / 2),
                width=px(max(width, 1.0)),
                height=px(height),
                rx="1.5",
                class_=f"{kind} skipped" if is_skipped else kind,
            )
        )
    foot = TOP + DRAWN + LINE + 3
    for row, line in enumerate(one.slot.label):
        where = {"x": px(x), "y": px(foot + LINE * row), "class_": "middle label"}
        if turned:
            at = f"translate({px(x + 3)} {px(foot - 6)}) rotate(-90)"
            where = {"transform": at, "class_": "end label"}
        parts.append(tag("text", line, **where))
    return join(*parts)
