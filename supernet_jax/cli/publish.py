"""`supernet publish`: put networks on the Hugging Face Hub, with a model card."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from supernet_jax.experiment import publish
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.dry_run import spelt_bytes
from supernet_jax.experiment.publish import Published
from supernet_jax.networks.formats import table
from supernet_jax.networks.published_networks import TABLE
from supernet_jax.storage import files
from supernet_jax.storage.hub import CARD, listed

EXAMPLES = """
supernet publish networks/largest --repo me/digits --license apache-2.0 --dry-run
supernet publish networks/largest --repo me/digits --license apache-2.0 --private
supernet publish networks/front --repo me/digits-front --license mit
supernet publish runs/digits --repo me/digits-front --license mit --format onnx
supernet publish networks/front --repo me/digits-front --license mit --dry-run --out sent
supernet publish sent --repo me/digits-front
It needs pip install "supernet_jax[hub]", and the token of hf auth login or HF_TOKEN.
The same command again goes on where an interrupted one stopped."""
FORMATS = (
    f"programs to publish beside safetensors: one or several of {table.names(program=True)}; if "
    "none is given, all that the networks have, and none of a run"
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Put one network, or several with a table of them, on the Hugging Face Hub.

    The repository gets a model card, and `sj.load("hf:ORG/NAME")` loads from it. What it holds
    already is replaced only with --replace. With --out the files are kept: change their README.md,
    and publish that folder.
    """

    source: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK|RUN")]
    """folder of a network, or of several; or a run, whose front is extracted first"""
    repo: str
    """ORG/NAME of the repository, which is made if it is not there"""
    license: str | None = None
    """licence of the networks as the hub names it, like apache-2.0; needed for a new card"""
    dataset: str = ""
    """ORG/NAME of the data set on the hub that the networks were trained on"""
    format: Annotated[tuple[str, ...], tyro.conf.arg(help=FORMATS)] = ()
    private: bool = False
    """make a repository that only its owner sees"""
    replace: bool = False
    """replace what the repository holds, if it is something else; earlier commits stay"""
    dry_run: bool = False
    """show what would be sent, and send nothing"""
    out: pathlib.Path | None = None
    """folder in which to keep what is sent"""
    config: pathlib.Path | None = None
    """config file that defines the run's parts, where some are your own"""


def run(arguments: Arguments) -> None:
    """Writes the files of the repository, sends them, and says what became of them."""
    source = arguments.source
    is_run = arguments.config is not None and files.exists(source / "config.json")
    done = publish.publish(
        experiment_run.open_run(source, arguments.config, read=False) if is_run else source,
        arguments.repo,
        license=arguments.license,
        dataset=arguments.dataset,
        private=arguments.private,
        replace=arguments.replace,
        formats=arguments.format or None,
        out=arguments.out,
        dry_run=arguments.dry_run,
    )
    _tell(arguments, done)


def _tell(arguments: Arguments, done: Published) -> None:
    size = sum(done.files.values())
    print(f"{arguments.repo}: {len(done.files)} files, {spelt_bytes(size)}")
    if done.sent is None:
        for name, bytes_ in done.files.items():
            print(f"  {name}  {spelt_bytes(bytes_)}")
        print("this was a dry run: nothing was sent")
        if arguments.out is None:
            print(f"\n{CARD} would be:\n\n{done.card}", end="")
            return
        print(
            f"next: read {arguments.out / CARD}, change it if you like, and send it: supernet "
            f"publish {arguments.out} --repo {arguments.repo}"
        )
        return
    sent = done.sent
    for what, names in (
        ("new", sent.new),
        ("replaced", sent.replaced),
        ("deleted", sent.deleted),
        ("kept as they are, not ours", sent.kept),
    ):
        if names:
            print(f"{len(names)} {what}: {listed(names)}")
    if not (sent.new or sent.replaced or sent.deleted):
        print("it holds all of that already; nothing was sent")
    print(f"see {sent.url} (commit {sent.commit[:10]}); next: sj.load({_shown(done)})")


def _shown(done: Published) -> str:
    return f'"{done.address}"' + (', arch="front:0"' if TABLE in done.files else "")
