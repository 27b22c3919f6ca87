"""Cards of repositories: what the hub reads is YAML of its own form, whatever a network is for."""

import dataclasses
import json
from typing import Any

import exported
import huggingface_hub
import pytest
from published import network
from tiny_space import hearing, translating

from supernet_jax.errors import UserError
from supernet_jax.networks import hub_card, manifest
from supernet_jax.networks.formats import table
from supernet_jax.networks.hub_card import About
from supernet_jax.networks.manifest import TASKS, described
from supernet_jax.networks.published_networks import Listed, Table

ABOUT = About("me/net", "cc-by-4.0", "them/data")
CARD = table.card(table.FORMATS)


def card(description: dict[str, Any]) -> huggingface_hub.ModelCard:
    """The card of a network, as the hub's own library reads it."""
    body = hub_card.body_of(description, CARD, ABOUT, "")
    return huggingface_hub.ModelCard(hub_card.of_network(described(description), body, ABOUT))


def of_task(task: Any) -> dict[str, Any]:
    """A description of a network for a task."""
    plain = exported.export("text, rotary").description
    fields = json.loads(json.dumps(dataclasses.asdict(task)))
    return {**plain, "task": {"type": type(task).__name__, "fields": fields}}


TASK = {
    "image-classification": lambda: network("small")[2],
    "text-generation": lambda: exported.export("text, rotary").description,
    "fill-mask": lambda: exported.export("text, hidden").description,
    "translation": lambda: of_task(translating().task),
    None: lambda: {**of_task(hearing().task), "size": [40]},
}


@pytest.mark.parametrize("tag", TASK, ids=str)
def test_the_hub_reads_what_a_network_is(tag: str | None) -> None:
    description = TASK[tag]()
    made = card(description)
    data, d = made.data, described(description)
    assert (data.license, data.library_name, data.pipeline_tag) == (
        *("cc-by-4.0", "supernet_jax"),
        tag,
    )
    assert data.datasets == ["them/data"] and {"supernet", "jax"} <= set(data.tags)
    assert data.metrics == [d.metric.name] and data.model_name == "net"
    found = {one.dataset_split: one for one in data.eval_results}
    assert {split: one.metric_value for split, one in found.items()} == hub_card.values_of(d)
    for one in found.values():
        assert (one.metric_type, one.dataset_type) == (d.metric.name, "them/data")
        assert one.task_type == (tag or "speaker-verification")
    assert 'sj.load("hf:me/net")' in made.text and f"# {d.space}" in made.text
    assert 'import supernet_jax as sj  # pip install "supernet_jax[hub]"' in made.text


def test_every_task_has_a_place_on_the_hub() -> None:
    assert {*hub_card.PIPELINES, "SpeakerVerification", "OfTokens"} == TASKS.keys()


def test_a_front_is_as_many_models() -> None:
    names = ("small", "large")
    source = {"data": "npz:a.npz"}
    descriptions = [described({**network(name)[2], "source": source}) for name in names]
    rows = tuple(
        Listed(name, d.arch, d.accuracy, d.macs, d.parameters, {"ms": 1.5} if i else {}, d.sha256)
        for i, (name, d) in enumerate(zip(names, descriptions, strict=True))
    )
    listed = Table("", 1, "tiny", "accuracy", rows)
    text = hub_card.of_front(listed, descriptions, ABOUT._replace(dataset=""))
    data = huggingface_hub.ModelCard(text).data
    found = [(one.dataset_split, one.metric_value, one.dataset_type) for one in data.eval_results]
    assert found == [("test", 0.5, "a.npz")] * 2 and data.datasets is None
    assert "name: net/small" in text and "name: net/large" in text
    small, large = (line for line in text.splitlines() if line.startswith("| front:"))
    assert f"| [small](small/README.md) | {descriptions[0].macs:,} |" in small
    assert "|  | 62.50% | 50.00% |" in small and "| 1.5 | 62.50% | 50.00% |" in large


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Apache 2.0", "did you mean apache-2.0"),
        ("MIT", "did you mean mit"),
        ("", "a card needs a licence"),
        (None, "a card needs a licence"),
        ("my licence", "must be as the hub writes it: apache-2.0, mit"),
    ],
)
def test_licences(given: str | None, said: str) -> None:
    assert hub_card.check_license("bigscience-openrail-m") == "bigscience-openrail-m"
    with pytest.raises(UserError, match=said):
        hub_card.check_license(given)


def test_a_card_is_told_from_another_text() -> None:
    text = hub_card.of_network(described(network("small")[2]), "# Words\n", ABOUT)
    assert hub_card.is_card(text) and hub_card.license_of(text, "x") == "cc-by-4.0"
    assert not hub_card.is_card(manifest.model_card(network("small")[2]))
    with pytest.raises(UserError, match="x names no licence"):
        hub_card.license_of("---\ntags: [a]\n---\n", "x")
    with pytest.raises(UserError, match="x does not begin with YAML"):
        hub_card.license_of("---\ntags: [\n---\n", "x")
