"""Spaces that begin with a trained ViT or BERT: published sizes, parts, and what cannot be."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from theorem import random_params
from tiny_run import supernet
from tiny_space import adapted, bert, tiny, tokens, vit

from supernet_jax.elastic import choices, elastic_block, strategies
from supernet_jax.elastic.notation import from_notation, to_notation
from supernet_jax.elastic.space_identity import describe_space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs.parameters import left_out
from supernet_jax.nn.blocks.text_transformer import Pooler, WidthSpec
from supernet_jax.nn.blocks.vision_transformer import TransformerSpec
from supernet_jax.spaces import BertSupernet, VitSupernet
from supernet_jax.tasks import HiddenTokens, ImageClassification, SequenceClassification

# DeiT-T (Touvron et al. 2020, arXiv 2012.12877) at 224 pixels, from the authors' logs.
DEIT_T = {"macs": 1_253_683_200, "parameters": 5_717_416}
# Devlin et al. 2018 (arXiv 1810.04805) and Jiao et al. 2019 (arXiv 1909.10351), with their pooler.
BERT_BASE, TINY_BERT_4 = 109_482_240, 14_350_248
TINY_BERT = ("width", 312, "heads", 12, "head-dim", 26, "hidden", 1200, "depths", 4)


def counted(capsys: pytest.CaptureFixture[str], name: str, *settings: Any) -> dict[str, Any]:
    """What `supernet info` says of the largest subnet of a space that is named with settings."""
    pairs = zip(settings[::2], settings[1::2], strict=True)
    options = [word for key, value in pairs for word in (f"--space.{key}", value)]
    said = supernet(capsys, "info", name, *options, "--archs", "largest", "--json")
    assert said.status == 0, said
    [row] = json.loads(said.out)
    return row


def test_published_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found = counted(capsys, "vit_supernet")
    assert {key: found[key] for key in DEIT_T} == DEIT_T
    found = counted(capsys, "bert_supernet")
    assert found["parameters"] == BERT_BASE and found["parameters_left_out"] == 2 * 768 + 2
    assert counted(capsys, "bert_supernet", *TINY_BERT)["parameters"] == TINY_BERT_4


@pytest.mark.parametrize("width", [192, 384])
def test_counts_of_vision_transformers_by_the_formula(width: int) -> None:
    d, layers = width, 12
    space = VitSupernet(width=d, depths=(12,), heads=(d // 64,), hidden=(4 * d,)).build()
    largest = choices.largest(space.menu)
    assert costs.parameters(space)(largest) == (
        768 * d + d + d + 197 * d + layers * (12 * d**2 + 13 * d) + 2 * d + 1000 * d + 1000
    )
    products = layers * (197 * 12 * d**2 + 2 * 197**2 * d)
    assert costs.macs(space)(largest) == 196 * 768 * d + products + 1000 * d


def test_what_fewer_heads_and_channels_save() -> None:
    for space, n in ((vit(), 10), (bert(), 5)):
        of_macs, of_all = costs.macs(space), costs.parameters(space)
        whole = to_notation(space.menu, choices.largest(space.menu))
        arch = from_notation(space.menu, {**whole, "heads": [3, 1], "hidden": [5, 3]})
        largest = from_notation(space.menu, whole)
        lost = 2 * 2 * 6 * 4 + 2 * 6 + 2 * (2 * 6) + 2  # heads with biases, channels with theirs
        assert of_all(largest) - of_all(arch) == lost
        products = n * (2 * 2 * 6 * 4 + 2 * 2 * 6) + 2 * n * n * 2 * 2
        assert of_macs(largest) - of_macs(arch) == products
    assert left_out(bert())(choices.largest(bert().menu)) == 6 * 4 + 4


def test_later_fields_of_specs_change_no_older_space() -> None:
    # As spaces of these blocks were described before they had the fields.
    assert describe_space(tokens())["fingerprint"] == "6c7a8228df8ade65"
    assert describe_space(tiny())["fingerprint"] == "1d680fbe712a422b"
    assert describe_space(adapted())["fingerprint"] == "eadef99019b5fcbd"  # a spec within a spec
    usual, other = TransformerSpec(6, 1, 2, 3), TransformerSpec(6, 1, 2, 3, norm_digits=6)
    assert elastic_block.sizes(other) == (*elastic_block.sizes(usual), 6)


def test_the_class_of_a_sequence_is_read_off_its_first_token() -> None:
    pooler = Pooler(WidthSpec(3))
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)
    variables = pooler.init(jax.random.key(0), x)
    others, first = x.copy(), x.copy()
    others[:, 1:] += 1
    first[:, 0] += 1
    found, same, changed = (np.asarray(pooler.apply(variables, y)) for y in (x, others, first))
    assert found.shape == (1, 3) and np.array_equal(found, same)
    assert np.abs(found - changed).max() > 1e-3


def test_what_follows_in_a_sequence_matters_and_it_may_be_shorter() -> None:
    space = bert()
    params, arch = random_params(space), choices.largest(space.menu)
    run = jax.jit(lambda p, x: strategies.sliced(space, p, arch, x, size=()).logits)
    ids = np.asarray([[3, 1, 4, 1, 5], [3, 1, 4, 1, 6]], np.int32)
    found, cut = np.asarray(run(params, ids)), np.asarray(run(params, ids[:, :3]))
    assert found.shape == cut.shape == (2, 4)
    assert np.abs(found[0] - found[1]).max() > 1e-3 and np.array_equal(cut[0], cut[1])


def test_scores_of_sequences() -> None:
    task = SequenceClassification(11, 5, 3)
    outputs = np.asarray([[2.0, 0, 0], [0, 1, 0], [np.nan, 0, 0], [0, 0, 9]], np.float32)
    scores = task.score(outputs, np.asarray([0, 2, 0, 2], np.int32))
    assert scores["right"].tolist() == [True, False, False, True]
    np.testing.assert_allclose(scores["loss"][0], np.log(np.exp(2) + 2) - 2, rtol=1e-6)
    assert float(task.value(scores)) == 0.5 and task.guess == pytest.approx(np.log(3))


def test_spaces_that_cannot_be() -> None:
    sequences = SequenceClassification(11, 5, 2)
    for make, said in (
        (lambda: VitSupernet(width=0).build(), "space.width is 0, but must be at least 1"),
        (lambda: VitSupernet(head_dim=-1).build(), "space.head-dim is -1"),
        (lambda: VitSupernet(patch=0).build(), "space.patch is 0"),
        (lambda: VitSupernet(resolution=30).build(), "30 pixels and patches of 16; .* a multiple"),
        (lambda: VitSupernet(heads=()).build(), r"space.heads is \(\); give numbers above 0"),
        (lambda: VitSupernet(hidden=(0, 2)).build(), r"space.hidden is \(0, 2\)"),
        (lambda: VitSupernet(drop_path=1.0).build(), "drop-path is 1.0"),
        (lambda: VitSupernet(deviation=-1.0).build(), "deviation is -1.0"),
        (lambda: BertSupernet(types=0).build(), "space.types is 0"),
        (lambda: BertSupernet(longest=4).build(task=sequences), "5 bytes, .* at most 4"),
        (lambda: BertSupernet(vocabulary=9).build(task=sequences), "11 ids .* rows for 9; raise"),
        (lambda: BertSupernet().build(task=HiddenTokens(11, 5)), "tells sequences of tokens apart"),
        (lambda: BertSupernet().build(task=ImageClassification(3, 2)), "as --data.name ids:FILE"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make()
        assert "\n" not in str(error.value)
