"""A run folder as one HTML file that needs nothing else."""

import base64
import datetime
import hashlib
import importlib.resources
import pathlib
from collections.abc import Mapping

import supernet_jax
from supernet_jax.experiment import config
from supernet_jax.reporting import picker, run_facts, run_results, tolerant_json
from supernet_jax.reporting.charts import (
    arch_drawings,
    code_charts,
    decision_charts,
    latency_chart,
    published_chart,
    subnet_charts,
    training_charts,
)
from supernet_jax.reporting.html import NOTHING, Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.tolerant_json import mapping
from supernet_jax.storage import files

GENERATOR = "supernet report"
MARK = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" \
content="{GENERATOR}">'


STYLES = ("style.css", "picker.css")
SCRIPTS = ("page.js", "decision_bars.js", "picker.js")
LIVE = "live.js"  # of a page that is served while the run goes on


def text(
    folder: pathlib.Path,
    *,
    types: Mapping[str, type] | None = None,
    config_file: str = "",
    live: str = "",
) -> str:
    """The report of a run folder, as HTML.

    Args:
        folder: of the run, in whatever state it is.
        types: the user's own configuration dataclasses, by name.
        config_file: that defines them, for the command lines of the page.
        live: of a page that is served and looks for a newer one by itself, what tells it from
            others; "" of one that stands alone.

    Raises:
        UserError: it is no run folder.
    """
    known = run_facts.gather(folder)
    now = datetime.datetime.now(datetime.UTC).timestamp()
    return document(
        known,
        types={**config.LIBRARY, **(types or {})},
        written=run_facts.moment(now),
        config_file=config_file,
        live=live,
    )


def is_report(path: pathlib.Path) -> bool:
    """Whether a file was written by this module.

    Raises:
        UserError: it cannot be read.
    """
    return files.head(path, len(MARK)) == MARK.encode()


def document(
    facts: Facts,
    *,
    types: Mapping[str, type],
    written: str,
    config_file: str = "",
    live: str = "",
) -> str:
    """The whole page.

    Args:
        facts: what was read.
        types: configuration dataclasses by name.
        written: when, as text.
        config_file: see `text`.
        live: see `text`.
    """
    decisions = decision_charts.charts(facts, types)
    drawings = arch_drawings.charts(facts, types)
    codes = code_charts.charts(facts.history.codes)
    beside = picker.beside(facts, types, config_file)
    body = join(
        _header(facts),
        _section("Training", _training(facts)),
        _section("What was trained", training_charts.macs(facts, types)),
        _section("What was learned of the options", codes) if codes else NOTHING,
        _section(
            "Front", [tag("p", subnet_charts.best(facts)), *subnet_charts.front(facts, beside)]
        ),
        *published_chart.charts(facts),
        *latency_chart.charts(facts, types),
        _section("Decisions", decisions) if decisions else NOTHING,
        _section("Networks of the front", drawings) if drawings else NOTHING,
        _section("Ranking", subnet_charts.ranking(facts.pairs)) if facts.pairs else NOTHING,
        _section("Extracted networks", _networks(facts)),
        _footer(facts, written),
    )
    title = tag("title", f"{_name(facts)}: supernet report")
    view = tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    style = "".join(map(_file, STYLES))
    script = "".join(map(_file, (*SCRIPTS, LIVE) if live else SCRIPTS))
    state = tag("meta", name="state", content=live) if live else NOTHING
    return (
        f"{MARK}{view.text}{_policy(script, live=bool(live)).text}{state.text}{title.text}\n"
        f"<style>{style}</style></head>\n<body>\n{body.text}\n<script>{script}</script>\n"
        "</body></html>\n"
    )


def _policy(script: str, *, live: bool) -> Html:
    """What browsers hold the page to: it loads nothing, and runs no script but its own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    more = "; connect-src 'self'" if live else ""
    return tag("meta", http_equiv="Content-Security-Policy", content=rules + more)


def _file(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def _name(facts: Facts) -> str:
    return facts.folder.resolve().name


def _section(title: str, parts: list[Html]) -> Html:
    return tag("section", tag("h2", title), *parts, Html("\n"))


def _header(facts: Facts) -> Html:
    rows = run_facts.rows(facts)
    facts_list = [part for row in rows for part in (tag("dt", row.name), tag("dd", row.value))]
    return tag(
        "header",
        tag("h1", _name(facts)),
        tag("p", str(facts.folder), class_="soft"),
        *_progress(facts),
        *_todo(facts),
        tag("dl", *facts_list),
        _folded("Command", _command(facts)),
        _folded("Configuration (config.json)", files.dumps(facts.config, indent=1)),
    )


def _progress(facts: Facts) -> list[Html]:
    """How far training is."""
    done, planned = facts.done, facts.planned
    if planned is None or planned < 1:
        return [tag("p", f"{done:,} steps done, of how many is not known.")]
    part = min(done / planned, 1.0)
    state = "finished" if done >= planned else "not finished: it is running, or was stopped"
    said = f"step {done:,} of {planned:,} ({part:.0%}), {state}"
    kept = "" if facts.checkpoint is None else f"; last checkpoint: step {facts.checkpoint:,}"
    done_bar = tag("div", tag("span", style=f"width:{100 * part:.1f}%"), class_="bar-done")
    return [done_bar, tag("p", f"{said}{kept}")]


def _todo(facts: Facts) -> list[Html]:
    """What is missing and how to get it; what could not be read."""
    boxes = []
    left = run_facts.missing(facts)
    if left:
        items = [
            tag("li", f"{one.what}: " if one.command else one.what, _code(one.command))
            for one in left
        ]
        boxes.append(tag("div", tag("strong", "What is missing"), tag("ul", *items), class_="todo"))
    if facts.broken:
        items = [tag("li", _broken(one)) for one in facts.broken]
        head = tag("strong", "What could not be read")
        boxes.append(tag("div", head, tag("ul", *items), class_="todo bad"))
    return boxes


def _code(text: str) -> Html:
    return tag("code", text) if text else NOTHING


def _broken(one: tolerant_json.Broken) -> str:
    if one.first == 0:
        return f"{one.file}: {one.why}"
    entries = "1 entry" if one.times == 1 else f"{one.times:,} entries"
    return f"{one.file}: {entries}, the first is number {one.first:,} ({one.why})"


def _command(facts: Facts) -> str:
    commands = [str(start.get("command")) for start in facts.times.starts if "command" in start]
    return "\n".join(dict.fromkeys(commands)) or "not recorded"


def _folded(title: str, text: str) -> Html:
    return tag("details", tag("summary", title), tag("pre", text))


def _training(facts: Facts) -> list[Html]:
    charts = training_charts.charts(facts)
    drawn = tag("div", *charts, class_="charts") if charts else NOTHING
    return [drawn, *(tag("p", said, class_="note") for said in training_charts.lacks(facts))]


def _networks(facts: Facts) -> list[Html]:
    if not facts.networks:
        return [tag("p", "None was found in the run folder or beside it.", class_="soft")]
    return [subnet_charts.networks(facts.networks, facts.metric)]


def _footer(facts: Facts, written: str) -> Html:
    evaluation = mapping(facts.config.get("evaluation"))
    calibrated = facts.metric == run_results.ACCURACY and (
        " Accuracies of subnets are calibrated (by the configuration "
        f"{evaluation.get('calibration_batches', '?')} batches of {evaluation.get('batch', '?')} "
        "images)."
    )
    said = (
        f"Written {written} by supernet_jax {supernet_jax.__version__}."
        f"{calibrated or ''} Archs are shown when "
        "a point is hovered or touched; a click on a table's head sorts it. The file needs no "
        "network."
    )
    return tag("footer", tag("p", said))
