"""`sj.publish`: networks become a repository on the Hugging Face Hub, with a card.

First the folder of the repository is made, then it is sent in one commit. What is in it is said by
`networks.repository_folder`, what becomes of a repository that is there by `storage.hub`.
"""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from supernet_jax.errors import LOG, UserError
from supernet_jax.experiment import extract, front
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.front import MEASURED, Front
from supernet_jax.experiment.run import Run
from supernet_jax.networks import hub_card, network_folder, published_networks, repository_folder
from supernet_jax.networks.hub_card import About
from supernet_jax.networks.repository_folder import Costs, Networks
from supernet_jax.storage import files, hub, local_copy, whole_folder
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.hub import Sent
from supernet_jax.storage.paths import expanded, on_this_machine

Path = str | os.PathLike[str]


class Published(NamedTuple):
    """What was written, and what became of it.

    Attributes:
        address: from which `load` takes it.
        files: bytes of each, by path in the repository.
        card: its `README.md`.
        sent: None where nothing was sent.
    """

    address: str
    files: dict[str, int]
    card: str
    sent: Sent | None


def publish(
    source: Run | Path,
    repo: str,
    *,
    license: str | None = None,
    dataset: str = "",
    private: bool = False,
    replace: bool = False,
    formats: Sequence[str] | None = None,
    out: Path | None = None,
    dry_run: bool = False,
) -> Published:
    """Puts one network, or several with a table, on the Hugging Face Hub.

    Args:
        source: folder of a network; of several, as `extract_all` writes it; a run, or its folder,
            whose front is extracted first, into the run's `networks`; or what `out` kept.
        repo: ORG/NAME of the repository; it is made if it is not there.
        license: as the hub names it, like apache-2.0; needed unless the source has a card already.
        dataset: of the hub, ORG/NAME, that the networks were trained on.
        private: make a private repository.
        replace: replace what the repository holds, if it is something else.
        formats: beside safetensors, programs to publish, as onnx; None for all that the networks
            have, and none of a run.
        out: folder in which what is sent is kept; new or empty.
        dry_run: write the files, and send nothing.

    Returns:
        What was written and sent.

    Raises:
        UserError: no network there; no licence; a repository that holds something else; no token,
            or one that may not write; a hub that cannot be reached.
    """
    hub.check_repository(repo)
    hub.library()
    if dataset and not hub.REPOSITORY.fullmatch(dataset):
        raise UserError(f"--dataset is {dataset!r}, but must be ORG/NAME of a data set on the hub")
    if not isinstance(source, Run):
        _check_known(expanded(source), license)
    else:
        hub_card.check_license(license)
    with contextlib.ExitStack() as stack:
        if out is None:
            place = stack.enter_context(whole_folder.temporary("repository"))
        else:
            place = _free(expanded(out), repo)
        networks = _networks(source, formats, stack)
        about = About(repo, hub_card.check_license(license) if not networks.card else "", dataset)
        with whole_folder.unfinished(place) as path:
            repository_folder.write(path, networks, about, formats)
        made = _made(place, about)
        if made.address not in made.card:
            LOG.warning(
                f"warning: {hub.CARD} of {source} is used as it is, and does not name "
                f"{made.address}; was it written for another repository?"
            )
        if dry_run:
            return made
        what = f"{len(networks.folders)} networks" if networks.front else "a network"
        sent = hub.send(
            place,
            repo,
            private=private,
            replace=replace,
            ours=published_networks.files_of_networks,
            message=f"Publish {what} of supernet_jax",
        )
        return made._replace(sent=sent)


def _free(out: pathlib.Path, repo: str) -> pathlib.Path:
    """The folder that is to be written, absolute.

    Raises:
        UserError: it is in a bucket, or there is something.
    """
    place = on_this_machine(out, "what is sent is read from this machine").absolute()
    if files.exists(place) and not whole_folder.is_free(place):
        raise UserError(
            f"{place} exists already; choose another --out, or send what it holds: supernet "
            f"publish {out} --repo {repo}"
        )
    return network_folder.check_free(place)


def _check_known(folder: pathlib.Path, license: str | None) -> None:
    """Makes sure, before any work is done, that there is something, and that its card has a
    licence.
    """
    if not files.is_folder(folder):
        raise UserError(f"there is no folder {folder}; give that of a network or of a run")
    card = folder / hub.CARD
    text = files.read_text(card) if files.exists(card) else ""
    if not hub_card.is_card(text):
        hub_card.check_license(license)
        return
    known = hub_card.license_of(text, card)
    if license not in (None, known):
        raise UserError(
            f"--license is {license}, but {card}, which is used as it is, says {known}; leave "
            "--license out, or change the card"
        )


def _networks(
    source: Run | Path, formats: Sequence[str] | None, stack: contextlib.ExitStack
) -> Networks:
    """The networks of a folder, or the front of a run, which is kept in the run where that can be
    written and else goes with the stack.
    """
    if not isinstance(source, Run):
        folder = expanded(source)
        if not files.exists(folder / "config.json"):
            found = repository_folder.found(local_copy.local(folder))
            if found is None:
                raise UserError(
                    f"{folder} holds no network and is no run; `supernet extract` writes networks"
                )
            return found
    run = experiment_run.opened(source, read=False)
    best = front.last(run)
    chosen = tuple(dict.fromkeys(("safetensors", *(formats or ()))))
    networks = run.folder / "networks"
    if not isinstance(run.folder, Bucket) and not os.access(run.folder, os.W_OK):
        networks = stack.enter_context(whole_folder.temporary("networks"))
    folder = networks / f"front-{run.step}-{'-'.join(chosen)}"
    made = extract.extract_all(run, best, folder, formats=chosen)
    folders = tuple(local_copy.local(one.folder) for one in made)
    return Networks(folders, True, _costs(best), "")


def _costs(best: Front) -> Costs:
    """What the search knew beside MACs and parameters, as milliseconds, by name with unit."""
    own = {
        str(one["cost"]): str(one["unit"])
        for one in best.result.get("budgets", ())
        if one["cost"] not in ("macs", "parameters")
    }
    names = {**own, MEASURED: "measured ms"}
    return {
        files.dumps(entry.record["arch"]): {
            text: float(entry.record[name])
            for name, text in names.items()
            if isinstance(entry.record.get(name), int | float)
        }
        for entry in best
    }


def _made(place: pathlib.Path, about: About) -> Published:
    paths = [at / name for at, _, names in files.walk(place) for name in names]
    sizes = {path.relative_to(place).as_posix(): files.size_of(path) for path in sorted(paths)}
    card = files.read_text(place / hub.CARD)
    return Published(f"{hub.PREFIX}{about.repository}", sizes, card, None)
