"""`supernet info`: draw a space, count costs of archs, or show what a run's sampler learned."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from supernet_jax.elastic import choices, code_names
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.experiment import (
    build,
    codes,
    config,
    read_archs,
    results,
    sampler_visits,
    space_facts,
    splits,
)
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.experiment.splits import Split
from supernet_jax.reporting import sampler_png
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

EXAMPLES = """
supernet info attentivenas
supernet info attentivenas --archs archs.json --json
supernet info vit_supernet --space.width 384 --space.heads 3 6 --space.hidden 768 1536
supernet info vit_supernet --help                 (lists the settings of the space)
supernet info digits --archs largest --latency latency.json
supernet info configs/cifar10.py
supernet info configs/cifar10.py --sampler --out visits.png
supernet info runs/darts --codes
supernet info runs/one_shot --splits"""
LONGEST_ROW = 12  # so many decisions or options are told one by one
SPACE_HELP = f"{space_facts.SPACE_HELP} | the folder of a run"
MOST_SPLITS = 10  # told, unless as JSON
QUANTILE_HEADS = [f"p{q:.0%}"[:-1] for q in space_facts.QUANTILES]


@dataclasses.dataclass(frozen=True)
class AsItIs:
    """Settings of a space where none is named whose settings could be listed."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draw a space: its decisions, number of archs, MACs and parameters.

    With --codes, of a run: how likely its sampler has made each option of each decision. With
    --splits, of a run: which options should not share weights.
    """

    space: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPACE", help=SPACE_HELP)]
    archs: str | None = None
    """count these archs instead: a JSON file of archs, an arch as JSON, `smallest` or `largest`"""
    latency: pathlib.Path | None = None
    """with --archs: also show their milliseconds by this table of `supernet latency`"""
    json: bool = False
    """print JSON"""
    samples: int = 2000
    """random archs for the quantiles; more make them steadier, and take longer"""
    seed: int = 0
    """seed of the random archs"""
    sampler: bool = False
    """of a config file: show the MACs that its sampler visits in training"""
    steps: int = 500
    """with --sampler: steps to look at, spread evenly over the run; more take longer"""
    out: pathlib.Path | None = None
    """with --sampler: also draw the visited MACs, as PNG"""
    codes: bool = False
    """of the folder of a run: show how likely each option is, as its sampler has learned"""
    splits: bool = False
    """of the folder of a run: show where its supernet is best split in two, by gradient matching"""
    batches: int | None = None
    """with --splits: batches of training examples to look at, 20 if not given; more are steadier,
    but take longer"""
    config: pathlib.Path | None = None
    """of the folder of a run: config file that defines its parts, where some are your own"""
    part: Annotated[Any, tyro.conf.arg(name="space")] = dataclasses.field(default_factory=AsItIs)


def part(words: Sequence[str]) -> Any:
    """The space that one of the words of a command line names, or its config file has, with the
    settings that it has unless others are given.
    """
    for word in words:
        if word in config.SPACES:
            return config.SPACES[word]
        if word.endswith(".py"):
            return config.load_file(word)[0].space
    return AsItIs()


def _settings(arguments: Arguments) -> config.Config:
    """Of a config file, with the space as it was set."""
    settings = config.load_file(arguments.space)[0]
    return dataclasses.replace(settings, space=arguments.part)


def _space(arguments: Arguments) -> Space:
    if arguments.space in config.SPACES:
        made: Space = arguments.part.build()  # of as many classes as are usual
        return made
    if arguments.space.endswith(".py"):
        return space_facts.space_of(_settings(arguments))
    if _is_run(arguments):
        types = experiment_run.types_of(arguments.config)
        file = expanded(arguments.space) / "config.json"
        return space_facts.space_of(config.read(file, types))
    return space_facts.space_of(arguments.space)


def _is_run(arguments: Arguments) -> bool:
    """Whether the folder of a run is named, rather than a space."""
    return arguments.space not in config.SPACES and files.is_folder(expanded(arguments.space))


def run(arguments: Arguments) -> None:
    """Prints what was asked of a space."""
    at_least("--samples", arguments.samples, 1)
    at_least("--seed", arguments.seed, 0)
    if arguments.batches is not None and not arguments.splits:
        raise UserError("--batches needs --splits: how many batches it looks at")
    if arguments.codes or arguments.splits:
        opened = _opened(arguments)
        if arguments.codes:
            _codes(opened, as_json=arguments.json)
        else:
            batches = 20 if arguments.batches is None else arguments.batches
            found = splits.splits(opened, batches=batches, seed=arguments.seed)
            _print_splits(opened, found, as_json=arguments.json)
        return
    if arguments.config is not None and not _is_run(arguments):
        raise UserError(
            f"--config needs the folder of a run, which {arguments.space} is not; name a config "
            "file in the place of the space"
        )
    if arguments.sampler:
        _visits(arguments)
        return
    if arguments.out is not None:
        raise UserError("--out needs --sampler, whose visits it draws")
    space = _space(arguments)
    if arguments.latency is not None and arguments.archs is None:
        raise UserError("--latency needs --archs, whose milliseconds it shows")
    if arguments.archs is not None:
        archs = read_archs.read_archs(space, arguments.archs)
        table = None if arguments.latency is None else latency_table.read(arguments.latency)
        rows = space_facts.count(space, archs, table)
        if table is not None and not arguments.json:
            print(f"milliseconds from {arguments.latency}: {latency_table.provenance(table)}")
        if arguments.json:
            print(results.dump(rows))
        else:
            _print_archs(rows)
            if space.uncounted:
                print(f"parameters without {', '.join(space.uncounted)}, as they were published")
        return
    summary = space_facts.summarise(space, samples=arguments.samples, seed=arguments.seed)
    if arguments.json:
        print(files.dumps(summary, indent=1))
    else:
        _print_space(space, summary)


def _print_archs(rows: list[dict[str, Any]]) -> None:
    timed = "latency" in rows[0]
    table = rich.table.Table("arch", "MACs", "parameters", *["ms"] * timed, box=None)
    for row in rows:
        milliseconds = [str(row["latency"])] if timed else []
        counts = f"{row['macs']:,}", f"{row['parameters']:,}"
        table.add_row(json.dumps(row["arch"]), *counts, *milliseconds)
    rich.console.Console(soft_wrap=True).print(table)


def _print_space(space: Space, summary: dict[str, Any]) -> None:
    console = rich.console.Console()
    console.print(
        f"[bold]{space.name}[/bold]: {summary['archs']:,} archs, {summary['decisions']} decisions, "
        f"{summary['blocks']} elastic blocks, {summary['supernet_parameters']:,} shared parameters"
    )
    console.print(_menu(space))
    table = rich.table.Table("", box=None, collapse_padding=True)
    heads = ["smallest", *(f"p{q:.0%}"[:-1] for q in space_facts.QUANTILES), "largest"]
    for head in heads:
        table.add_column(head, justify="right")
    for name, label in (("macs", "MACs, M"), ("parameters", "parameters, M")):
        table.add_row(label, *(f"{summary[name][head] / 1e6:,.3f}" for head in heads))
    console.print(table)
    if space.uncounted:
        print(f"parameters of subnets without {', '.join(space.uncounted)}, as they were published")
    ends = [
        f"{summary[name]['smallest']:,} to {summary[name]['largest']:,} {unit}"
        for name, unit in (("macs", "MACs"), ("parameters", "parameters"))
    ]
    print(f"to the unit, as bounds of a search: {', '.join(ends)}")
    console.print(_histogram(space, summary))


def _menu(space: Space) -> rich.table.Table:
    """Options of each decision; a list of decisions (one per stage, say) along a row.

    A list that is too long for a row, of decisions that are alike, is told by one of them.
    """
    rows: dict[str, list[str]] = {}
    for path in choices.paths(space.menu):
        key = path[:-1] if isinstance(path[-1], int) else path
        values = choices.get(space.menu, path).values
        rows.setdefault("/".join(map(str, key)), []).append(_offered(values))
    for name, cells in list(rows.items()):
        if len(cells) > LONGEST_ROW and len(set(cells)) == 1:
            del rows[name]
            rows[f"{name}, each of {len(cells)}"] = cells[:1]
    table = rich.table.Table("decision", box=None, collapse_padding=True)
    for i in range(max(map(len, rows.values()))):
        table.add_column(f"[{i}]")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _offered(values: Sequence[int | float]) -> str:
    """Options, or the ends of many in equal steps."""
    if len(values) > LONGEST_ROW and len(set(np.diff(values))) == 1:
        return f"{values[0]} {values[1]} ... {values[-1]}"
    return " ".join(map(str, values))


def _histogram(space: Space, summary: dict[str, Any]) -> str:
    """MACs of random archs as a row of bars from the smallest to the largest subnet."""
    random = summary["random"]
    archs = choices.sample(space.menu, jax.random.key(random["seed"]), (random["samples"],))
    macs = costs.macs(space)(jax.tree.map(np.asarray, archs))
    ends = map(int, costs.span(space, costs.macs(space)))
    return f"MACs of random archs, smallest to largest:\n|{_bars(macs, *ends)}|"


def _bars(macs: np.ndarray, low: int, high: int) -> str:
    """How often MACs come, as a row of bars of equal width."""
    counts, _ = np.histogram(macs, bins=48, range=(low, max(high, low + 1)))
    bars = " ▁▂▃▄▅▆▇█" if (sys.stdout.encoding or "").lower().startswith("utf") else " .:-=+*#@"
    return "".join(bars[int(np.ceil(c / max(counts.max(), 1) * 8))] for c in counts)


def _visits(arguments: Arguments) -> None:
    """Tells and draws what the sampler of a config file visits."""
    at_least("--steps", arguments.steps, 1)
    if not arguments.space.endswith(".py"):
        raise UserError(f"--sampler needs a config file, which {arguments.space} is not")
    if arguments.archs is not None:
        raise UserError("--archs and --sampler exclude each other; give one of them")
    if arguments.latency is not None:
        raise UserError("--latency needs --archs, whose milliseconds it shows")
    if arguments.out is not None:
        if arguments.out.suffix != ".png":
            raise UserError(f"--out is {arguments.out}, but the picture is PNG; end it in .png")
        files.check_free("--out", arguments.out)
    settings = _settings(arguments)
    built = build.build(settings)
    total, name = settings.train.steps, type(settings.sampler).__name__
    steps = np.unique(np.linspace(0, total - 1, arguments.steps).astype(np.int32))
    recipe = built.recipe
    seen = sampler_visits.visits(
        built.space,
        recipe.sampler,
        steps,
        np.zeros_like(steps),
        seed=recipe.seed,
        arch_shards=recipe.arch_shards,
    )
    title = f"{built.space.name}, {name}: {len(steps):,} of {total:,} steps"
    notes = _notes(seen)
    if arguments.out is not None:
        sampler_png.draw(arguments.out, seen.macs, title=title, note="\n".join(notes))
    if arguments.json:
        print(files.dumps({"sampler": name, "steps": len(steps), **_summary(seen)}, indent=1))
        return
    _print_visits(built.space, seen, title)
    for note in notes:
        print(note)
    if arguments.out is not None:
        print(f"wrote {arguments.out}")


def _notes(seen: sampler_visits.Visits) -> list[str]:
    """What these visits leave out."""
    notes = []
    if seen.scored:
        notes.append("it scores candidates on images; here the first of them was taken")
    if seen.remembers:
        notes.append("it learns from losses; here it stayed as it is at the start")
    return notes


def _summary(seen: sampler_visits.Visits) -> dict[str, Any]:
    """The visits as JSON values."""
    macs = {role: values.tolist() for role, values in seen.macs.items()}
    return {**seen._asdict(), "macs": macs}


def _print_visits(space: Space, seen: sampler_visits.Visits, title: str) -> None:
    """One line for each role, and bars for the random members."""
    rows = rich.table.Table("member", "subnets", *QUANTILE_HEADS, box=None)
    for role, values in seen.macs.items():
        cells = (
            [f"{np.quantile(values, q) / 1e6:,.3f}" for q in space_facts.QUANTILES]
            if len(values)
            else []
        )
        rows.add_row(role, f"{len(values):,}", *cells)
    print(f"{title}; MACs in M")
    rich.console.Console().print(rows)
    random = seen.macs.get("random", np.zeros(0))
    if len(random):
        ends = map(int, costs.span(space, costs.macs(space)))
        print(f"MACs of its random members, smallest to largest subnet:\n|{_bars(random, *ends)}|")


def _opened(arguments: Arguments) -> Run:
    """The run of which --codes or --splits asks."""
    asked = "codes" if arguments.codes else "splits"
    others = ("splits" if arguments.codes else "codes", "archs", "latency", "sampler", "out")
    if given := [name for name in others if getattr(arguments, name)]:
        raise UserError(f"--{asked} and --{given[0]} exclude each other; give one of them")
    if not _is_run(arguments):
        raise UserError(
            f"--{asked} needs the folder of a run, which {arguments.space} is not; give that of "
            "`supernet train CONFIG --out RUN`"
        )
    return experiment_run.open_run(arguments.space, arguments.config, read=False)


def _codes(opened: Run, *, as_json: bool) -> None:
    """Shows how likely options are in a run, and the arch of the likeliest."""
    code = codes.code_of(opened)
    named = code_names.named(opened.space, code)
    (row,) = space_facts.count(opened.space, [codes.likeliest(opened.space, code)])
    if as_json:
        about = {"run": str(opened.folder), "checkpoint": opened.step}
        print(files.dumps({**about, "codes": named, codes.ARGMAX: row}, indent=1))
        return
    sampler = type(opened.config.sampler).__name__
    print(f"{opened.space.name}, {sampler}: probability of each option at step {opened.step:,}")
    for table in _probabilities(named):
        rich.console.Console(soft_wrap=True).print(table)
    print(
        f"the likeliest, {codes.ARGMAX}: {row['macs']:,} MACs, {row['parameters']:,} parameters\n"
        f"{json.dumps(row['arch'])}"
    )


def _probabilities(named: Mapping[str, Mapping[str, float]]) -> list[rich.table.Table]:
    """A table for all decisions of the same options, the likeliest with a star."""
    tables: dict[tuple[str, ...], rich.table.Table] = {}
    for decision, options in named.items():
        heads = tuple(options)
        if heads not in tables:
            tables[heads] = rich.table.Table("decision", box=None)
            for head in heads:
                tables[heads].add_column(head, justify="right")
        likeliest = max(options, key=lambda option: options[option])
        cells = [f"{p:.3f}{'*' if o == likeliest else ' '}" for o, p in options.items()]
        tables[heads].add_row(decision, *cells)
    return list(tables.values())


def _print_splits(opened: Run, found: list[Split], *, as_json: bool) -> None:
    """The decisions whose options disagree most, and how to train on after the first split."""
    if as_json:
        about = {"run": str(opened.folder), "checkpoint": opened.step}
        print(files.dumps({**about, "splits": [split._asdict() for split in found]}, indent=1))
        return
    of = ["sub-supernet"] if found[0].row else []
    table = rich.table.Table("distance", *of, "decision", "one part", "the other", box=None)
    for split in found[:MOST_SPLITS]:
        parts = (" | ".join(part) for part in split.parts)
        table.add_row(f"{split.distance:.3f}", *[split.row] * len(of), split.decision, *parts)
    print(f"{opened.space.name}: how much options of two parts disagree about shared weights")
    rich.console.Console(soft_wrap=True).print(table)
    if len(found) > MOST_SPLITS:
        print(f"and {len(found) - MOST_SPLITS} more, which --json prints")
    rows = "".join(f"\n    {row!r}," for row in found[0].rows)
    print(
        f"to split at the first, name the sub-supernets in the configuration:\n"
        f"  space=sj.spaces.FewShot(space=..., rows=({rows}\n  ))\n"
        "and go on from these weights:\n"
        f"  supernet train CONFIG --start-from {opened.folder} --out RUN"
    )
