"""What the model card of a network for text shows runs, and is what the network says."""

import re
from typing import Any

import jax
import numpy as np
import pytest
from theorem import random_params

from supernet_jax.elastic import choices
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.formats import table, torch
from supernet_jax.networks.formats.format import Export
from supernet_jax.networks.generate import generate
from supernet_jax.spaces import decoder, text_encoder
from supernet_jax.tasks import HiddenTokens, NextToken

SIZES: dict[str, Any] = {"widths": (8,), "depths": (1,), "heads": (2,), "hidden": (8,)}
LENGTH = 9  # of examples, longer than the card's prompt and shorter than what it writes
FORMATS = ("stablehlo", "onnx", "torch")
THERE = FORMATS[:2] if table.missing_packages(torch.FORMAT) else FORMATS


@pytest.fixture(scope="module", params=[NextToken(256, LENGTH), HiddenTokens(257, LENGTH)])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder, and the module and variables that it was made of."""
    make = decoder.decoder if isinstance(request.param, NextToken) else text_encoder.text_encoder
    space = make("bytes", **SIZES, head_dim=4, task=request.param, longest=LENGTH)
    params, arch = random_params(space), choices.smallest(space.menu)
    module, variables = extract.extract(space, params, arch, None)
    how = {"values": {}, "source": {}, "proof": 0.0, "proof_examples": 1}
    description = extract.describe_any(space, arch, module, variables, **how)
    formats = table.chosen(THERE, pixels=False, size=None)
    export = Export(module, variables, description, (), pixels=False)
    folder = tmp_path_factory.mktemp("cards") / "network"
    network_folder.save(
        folder,
        module,
        variables,
        description=description,
        write=table.writer(formats, export, np.full((1, LENGTH), 7, np.int32)),
        card=table.card(formats),
    )
    return folder, module, variables


def test_the_card_writes_where_the_network_can(written: Any) -> None:
    folder, module, _ = written
    card = manifest.model_card({**manifest.read_description(folder), "formats": {}})
    assert ("sj.generate" in card) == isinstance(module.task, NextToken)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_in_bytes_out(
    written: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name not in THERE:
        pytest.skip("PyTorch is not installed; it is no dependency")
    folder, module, variables = written
    card = (folder / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(rf"As {name}:\n\n```python\n(.*?)```", card, re.DOTALL)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 10 and max(map(len, lines)) <= 100
    monkeypatch.setattr("numpy.random.gumbel", lambda size: np.zeros(size))  # the likeliest
    exec(code, {})
    said = capsys.readouterr().out.removesuffix("\n")
    if isinstance(module.task, NextToken):
        assert said == "import " + generate(module, variables, "import ", tokens=200, temperature=0)
        return
    given = np.array([[256 if byte == ord("?") else byte for byte in b"im?ort"]])
    logits = np.asarray(jax.jit(module.apply)(variables, given))[0, :, :256]
    assert said == str(bytes(logits.argmax(-1).tolist())) and len(set(logits.argmax(-1))) > 1
