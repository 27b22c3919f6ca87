"""The card of a repository on the hub: what the hub reads of it, in YAML, and what people read.

The words about one network are those of its own `README.md`, see `manifest.model_card`.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from supernet_jax.errors import UserError, near
from supernet_jax.networks.description_parts import SOURCES, Code, code_block, quoted
from supernet_jax.networks.manifest import Description, GeneralDescription, task_of
from supernet_jax.networks.published_networks import Table
from supernet_jax.storage import hub
from supernet_jax.tasks import Metric

# What the hub calls the tasks that it knows; it has no speaker verification.
PIPELINES = {
    "ImageClassification": "image-classification",
    "NextToken": "text-generation",
    "HiddenTokens": "fill-mask",
    "SequenceClassification": "text-classification",
    "Translation": "translation",
}
USUAL_LICENSES = (
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "openrail", "other"),
)
_BEGINNING = "---\n"  # of a text that has what the hub reads
_IMPORT, _INSTALL = "import supernet_jax as sj", '  # pip install "supernet_jax[hub]"'


class About(NamedTuple):
    """What the author says of a repository.

    Attributes:
        repository: ORG/NAME.
        license: as the hub names it.
        dataset: on the hub, ORG/NAME; "" where it has none.
    """

    repository: str
    license: str
    dataset: str

    @property
    def name(self) -> str:
        """Without the owner."""
        return self.repository.rpartition("/")[2]


Described = Description | GeneralDescription


def check_license(name: str | None) -> str:
    """The name of a licence.

    Raises:
        UserError: there is none, or it has another form than those of the hub. Whether the hub
            knows it, the hub says.
    """
    usual = ", ".join(USUAL_LICENSES)
    if not name:
        raise UserError(
            f"a card needs a licence: --license apache-2.0, or another one of the hub's ({usual}, "
            "...)"
        )
    known = name.lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) or known != name:
        raise UserError(
            f"--license is {name!r}, but must be as the hub writes it: {usual}, ..."
            f"{near(known.replace(' ', '-'), USUAL_LICENSES)}"
        )
    return name


def is_card(text: str) -> bool:
    """Whether a `README.md` begins with what the hub reads."""
    return text.startswith(_BEGINNING)


def license_of(text: str, where: object) -> str:
    """The licence that a card names.

    Raises:
        UserError: it names none, or what the hub reads of it is no YAML.
    """
    try:
        known = hub.library().ModelCard(text).data.license
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{where} does not begin with YAML that the hub can read: {said}") from None
    if not isinstance(known, str):
        raise UserError(
            f"{where} names no licence; write one into its beginning, as license: apache-2.0 "
            f"({', '.join(USUAL_LICENSES)}, ...)"
        )
    return known


def of_network(d: Described, body: str, about: About) -> str:
    """The card of a repository that holds one network.

    Args:
        d: its description.
        body: as `model_card` made it.
        about: the repository.
    """
    results = _results(d, about, values_of(d))
    index = _index(about.name, results)
    return _with_data(_data([d], about, index), f"{body}\n{_what_is_here(d.code)}")


def of_front(table: Table, described: Sequence[Described], about: About) -> str:
    """The card of a repository that holds several networks.

    Args:
        table: of them.
        described: their descriptions, in its order.
        about: the repository.
    """
    index = []
    for one, d in zip(table.networks, described, strict=True):
        test = {split: v for split, v in values_of(d).items() if split == "test"}
        results = _results(d, about, test or values_of(d))
        index += _index(f"{about.name}/{one.folder}", results)
    first = described[0]
    task = task_of(first) if isinstance(first, GeneralDescription) else first.task
    own = f', space_file="{quoted(first.code.file)}"' if first.code else ""
    address = f"{hub.PREFIX}{about.repository}"
    lines = [
        f"# {len(described)} networks of the supernet {table.space}",
        "",
        f"For {task.name}. All of them are subnets of one supernet, `{table.space}`: they were "
        "trained together, as one set of weights, and each was taken out as a plain Flax network, "
        "from the cheapest to the largest. Choose one by what it costs:",
        "",
        *_rows(table, task.metric),
        "",
        "MACs are multiply-accumulates for one example; held-out is the part of the training data "
        "that searches look at, and test the data set's own.",
        "",
        *code_block(
            [
                f"{_IMPORT}{_INSTALL}",
                "",
                f'module, variables = sj.load("{address}", arch="front:0"{own})',
            ]
        ),
        "",
        "`arch` is the first column of a row, or an arch in the notation of the space; "
        f"`{address}/{table.networks[0].folder}` names a network by its folder. Only the files of "
        "that network are fetched. The README.md of its folder says how its inputs are made and "
        "which other formats there are.",
        "",
    ]
    body = "\n".join([*lines, _what_is_here(first.code)])
    return _with_data(_data(described, about, index), body)


def values_of(d: Described) -> dict[str, float]:
    """Of the metric of its task, by the name of the split."""
    return d.accuracy if isinstance(d, Description) else d.values


def _rows(table: Table, metric: Metric) -> list[str]:
    networks = table.networks
    costs = list(dict.fromkeys(name for one in networks for name in one.costs))
    splits = list(dict.fromkeys(name for one in networks for name in one.values))
    heads = ["", "folder", "MACs", "parameters", *costs, *(f"{metric.name}, {s}" for s in splits)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for i, one in enumerate(networks):
        known = [f"{one.costs[name]:.6g}" if name in one.costs else "" for name in costs]
        values = [metric.shown(one.values[s]) if s in one.values else "" for s in splits]
        link = f"[{one.folder}]({one.folder}/README.md)"
        cells = [f"front:{i}", link, f"{one.macs:,}", f"{one.parameters:,}", *known, *values]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _what_is_here(code: Code | None) -> str:
    """The end of each card."""
    own = ""
    if code is not None:
        own = (
            f" This network needs a Python file of its author's, `{code.file}` (SHA-256 "
            f"`{code.sha256}`), which is not in this repository: get it, read it, for it will be "
            "run, and pass it as `space_file`."
        )
    return (
        "## In this repository\n\n"
        "`network.json` says what a network is made of, what it costs, how good it is and where "
        "it came from; `model.safetensors` has its weights. `sj.load` makes sure that they are "
        f"those that `network.json` describes, by their SHA-256. It runs no code from here.{own}\n"
    )


def _data(described: Sequence[Described], about: About, index: list[Any]) -> Any:
    """What the hub reads."""
    kinds = {_task_type(d) for d in described}
    tags = ["supernet", "neural-architecture-search", "jax", "flax"]
    tags += sorted({name for d in described for name in d.formats if name not in SOURCES})
    tags += ["speaker-verification"] if "SpeakerVerification" in kinds else []
    fields = {
        "license": about.license,
        "library_name": "supernet_jax",
        "pipeline_tag": PIPELINES.get(_task_type(described[0])),
        "tags": tags,
        "datasets": [about.dataset] if about.dataset else None,
        "metrics": sorted({d.metric.name for d in described}),
        "model-index": index,
    }
    return hub.library().CardData(**fields)


def _with_data(data: Any, body: str) -> str:
    return f"{_BEGINNING}{data.to_yaml()}\n---\n\n{body}"


def _index(name: str, results: list[Any]) -> list[Any]:
    made: list[Any] = hub.library().repocard_data.eval_results_to_model_index(name, results)
    return made


def _results(d: Described, about: About, values: dict[str, float]) -> list[Any]:
    kind = _task_type(d)
    data, metric = str(d.source.get("data", "unknown")), d.metric
    plain = re.sub(r"[^\w.-]+", "-", data.rpartition(":")[2]).strip("-") or "unknown"
    return [
        hub.library().EvalResult(
            task_type=PIPELINES.get(kind, "speaker-verification"),
            dataset_type=about.dataset or plain,
            dataset_name=data,
            dataset_split=split,
            metric_type=metric.name,
            metric_value=value,
            metric_name=f"{metric.name} on {split}",
        )
        for split, value in values.items()
    ]


def _task_type(d: Described) -> str:
    return d.task.type if isinstance(d, GeneralDescription) else type(d.task).__name__


def body_of(description: dict[str, Any], card: Any, about: About, folder: str) -> str:
    """What people read of a network.

    Args:
        description: of it, as its `network.json` has it.
        card: makes the text, called as `model_card` is.
        about: the repository.
        folder: of the network in it; "" where it is the only one.
    """
    inside = f"/{folder}" if folder else ""
    only = f' --include "{folder}/*"' if folder else ""
    text: str = card(
        description,
        folder=f"{about.name}{inside}",
        address=f"{hub.PREFIX}{about.repository}{inside}",
        fetch=f"hf download {about.repository}{only} --local-dir {about.name}",
    )
    return text.replace(_IMPORT, f"{_IMPORT}{_INSTALL}", 1)
