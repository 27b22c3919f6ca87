"""The front beside published networks: only where both are of ImageNet."""

from supernet_jax.experiment import published
from supernet_jax.experiment.published import Published
from supernet_jax.reporting.charts import subnet_charts, svg_plot
from supernet_jax.reporting.charts.svg_plot import Labels, Points
from supernet_jax.reporting.html import Html, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import ACCURACY
from supernet_jax.reporting.tolerant_json import mapping

LOOKS = (  # of families, in the order of the table; hollow, as what this run has is filled
    *(("c3", "square"), ("c2", "triangle"), ("refused", "circle"), ("c4", "square")),
    *(("now", "triangle"), ("c3", "circle"), ("scored", "square")),
)


def charts(facts: Facts) -> list[Html]:
    """The chart, in a list; an empty one where nothing may be compared."""
    classes = mapping(facts.meta.get("space")).get("classes")
    data, metric = str(mapping(facts.config.get("data")).get("name")), facts.metric
    if metric.name != ACCURACY.name or not published.is_comparable(data, classes):
        return []
    fronts = ([facts.search] if facts.search else []) + facts.races
    scored, tested, _ = subnet_charts.current(facts.evaluated, fronts)
    tested = subnet_charts.with_tests_of(fronts, tested)
    chosen = fronts[0].chosen if fronts else subnet_charts.spread_out(scored, metric)
    joined = "steps" if fronts and fronts[0].goal.is_of(metric, "macs") else ""
    of_run = (
        ("this run, held-out", "front", "circle", 3.6, chosen, joined),
        ("this run, test", "tested", "diamond", 3.6, subnet_charts.spread_out(tested, metric)),
    )
    own = [subnet_charts.points_of(metric, *one) for one in of_run if one[4]]
    beside = published.beside([x for group in own for x in group.x])
    if not beside:
        return []
    families = list(dict.fromkeys(one.family for one in beside))
    groups = [
        _family(name, [one for one in beside if one.family == name], place)
        for place, name in enumerate(families)
    ]
    note = (
        "Published figures are top-1 of the 50,000 validation images, which are best laid beside "
        "those on test; their recipes differ in teachers, epochs and augmentation. Hovering tells "
        "the source. MACs from timm are rounded to 10 M. Networks from half the least to twice the "
        "most MACs of this run's are drawn."
    )
    labels = Labels("Beside published networks", "MACs", "accuracy, %", note)
    return [tag("div", svg_plot.scatter([*groups, *own], labels), class_="charts wide")]


def _family(name: str, found: list[Published], place: int) -> Points:
    kind, shape = LOOKS[place % len(LOOKS)]
    return Points(
        name,
        f"{kind} hollow",
        shape,
        2.7,
        [one.macs for one in found],
        [one.top1 for one in found],
        [_title(one) for one in found],
        names=[one.called for one in found],
    )


def _title(one: Published) -> str:
    size = "" if one.resolution is None else f", {one.resolution} px"
    many = "" if one.parameters is None else f", {one.parameters:,} parameters"
    return f"{one.name}: {one.top1:g} %\n{one.macs:,} MACs{many}{size}\n{one.source}"
