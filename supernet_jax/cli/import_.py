"""`supernet import`: make a run of weights that were trained elsewhere."""

import collections
import dataclasses
import pathlib
import shlex
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from supernet_jax.errors import UserError, one_of
from supernet_jax.experiment import imports
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.imports import FAMILIES, FILE, Imported
from supernet_jax.storage import hub

EXAMPLES = """
supernet import attentivenas FILE --config configs/alphanet_imagenet.py --out runs/alphanet
supernet import vit FILE --config my_vit.py --sort-channels --new-classifier --out runs/vit
supernet import network FOLDER --config configs/cifar10.py --sort-channels --out runs/grown
supernet import hub ORG/NAME --config configs/cifar10.py --out runs/grown
Fields of the config can be overridden, as --data.data-dir."""
NETWORK, HUB = "network", "hub"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make a run of weights that were trained elsewhere; it is then like any other run.

    KIND is `attentivenas`, a published AttentiveNAS or AlphaNet supernet; `autoformer`, a published
    AutoFormer supernet; `nasvit`, a published NASViT supernet; `ofa`, a published Once-for-All
    MobileNetV3 supernet; `vit_resnas`, a published ViT-ResNAS supernet; or an ordinary network,
    which becomes the largest subnet of a new supernet: `vit`, a ViT or DeiT named as by timm;
    `bert`, a BERT named as by transformers; `network`, an extracted one; `hub`, one that was
    published on the Hugging Face Hub.
    """

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KIND")]
    """attentivenas | autoformer | bert | nasvit | ofa | vit | vit_resnas | network | hub"""
    source: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """file of weights (.safetensors; .pth and .pth.tar need PyTorch), folder of a network, or
    ORG/NAME of a repository (ORG/NAME/FOLDER of one of several networks there)"""
    settings: Annotated[Config, tyro.conf.arg(name="")]
    config: pathlib.Path | None = None
    """config file of the run: its space, its images, and how training would go on"""
    out: pathlib.Path | None = None
    """folder of the run to make"""
    std: tuple[float, ...] | None = None
    """divisor of the published supernet's images, per channel, pixels in 0..1, if not ImageNet's"""
    class_order: Literal["text", "number"] | None = None
    """order of the published supernet's numbered classes: text puts 10 before 2, number after"""
    sort_channels: bool = False
    """with a network: put important channels and heads first, so that smaller subnets keep them"""
    new_classifier: bool = False
    """with vit and bert: begin with a random classifier, as for data of other classes"""


def run(arguments: Arguments) -> None:
    """Reads the weights, makes the run folder and says what was mapped."""
    one_of("the first argument", arguments.kind, [*FAMILIES, NETWORK, HUB])
    if arguments.config is None or arguments.out is None:
        raise UserError(
            "--config and --out are required: the config file of space and data, and the run "
            "folder to make, as --config configs/alphanet_imagenet.py --out runs/alphanet"
        )
    extracted = arguments.kind in (NETWORK, HUB)
    if extracted and arguments.std is not None:
        raise UserError("--std is for published supernets; an extracted network says its own")
    if extracted and arguments.class_order is not None:
        raise UserError("--class-order is for published supernets; a network names its classes")
    if extracted and arguments.new_classifier:
        raise UserError("--new-classifier is for vit and bert; a network is taken as it is")
    source, settings, out = arguments.source, arguments.settings, arguments.out
    if arguments.kind == HUB and hub.address(source) is None:
        source = pathlib.Path(f"{hub.PREFIX}{source}")
    if extracted:
        how: dict[str, Any] = {"space_file": arguments.config}
        imported = imports.grown(
            source, settings, out, sort_channels=arguments.sort_channels, **how
        )
    else:
        names = ("std", "class_order", "sort_channels", "new_classifier")
        how = {name: getattr(arguments, name) for name in names}
        imported = imports.published(arguments.kind, source, settings, out, **how)
    _tell(arguments, imported)


def _tell(arguments: Arguments, imported: Imported) -> None:
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(imported.params))
    mapped, left = imported.report
    print(
        f"read {len(mapped) + len(left)} tensors of {arguments.source}: {len(mapped)} of them are "
        f"in the {size:,} shared parameters"
    )
    reasons = collections.Counter(line.split(": ", 1)[1] for line in left)
    for reason, count in reasons.items():
        print(f"left out {count}: {reason}")
    print(imported.said)
    out, file = shlex.quote(str(arguments.out)), shlex.quote(str(arguments.config))
    print(
        f"wrote {out}, a run of 0 steps ({FILE} names all tensors); next: "
        f"supernet evaluate {out} --archs largest, supernet search {out}, or train on with "
        f"supernet train {file} --out {out} and the same settings"
    )
