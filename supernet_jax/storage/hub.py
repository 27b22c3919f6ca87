"""Repositories on the Hugging Face Hub: what is fetched from them, and what is sent.

The library `huggingface_hub` speaks with the hub, and is optional: `pip install
"supernet_jax[hub]"`. What it reads of the environment holds here too: `HF_TOKEN` or the token of
`hf auth login`, `HF_HOME` for copies on this machine, `HF_ENDPOINT`, `HF_HUB_OFFLINE`. Nothing that
comes from a hub is run.
"""

import contextlib
import glob
import hashlib
import importlib
import json
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from supernet_jax.errors import LOG, UserError, require
from supernet_jax.runtime import optional
from supernet_jax.storage import files

PREFIX = "hf:"
CARD = "README.md"
AGAIN = "start the same command again, which goes on from what has arrived there"
WITH_SLASH = "a branch with / in its name is given by its commit"
OF_THE_HUB = ".gitattributes"  # a file that the hub itself puts into each repository
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_ADDRESS = re.compile(rf"hf:({REPOSITORY.pattern})(?:@([^/]+))?(?:/(.+))?", re.ASCII)


class Address(NamedTuple):
    """A place on the hub, written `hf:ORG/NAME@REVISION/FOLDER`.

    Attributes:
        repository: ORG/NAME.
        revision: a branch without / in its name, a tag or a commit; "" for the main branch.
        folder: inside it, of names without `.` and `..`; "" for all of it.
    """

    repository: str
    revision: str = ""
    folder: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repository}{at}{'/' if self.folder else ''}{self.folder}"


class Sent(NamedTuple):
    """What became of the files of a repository.

    Attributes:
        url: of its page.
        commit: that has them now.
        new: that were not there.
        replaced: that were other ones.
        deleted: that are no longer there.
        kept: that are of somebody else and stay.
    """

    url: str
    commit: str
    new: tuple[str, ...]
    replaced: tuple[str, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]


def address(path: Any) -> Address | None:
    """The place on the hub that a path names; None of any other path.

    Raises:
        UserError: it begins as one and is none.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    if not isinstance(text, str) or not text.startswith(PREFIX):
        return None
    found = _ADDRESS.fullmatch(text.rstrip("/"))
    parts = found[3].split("/") if found and found[3] else []
    if found is None or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise UserError(
            f"{text} names no repository on the hub; write {PREFIX}ORG/NAME, "
            f"{PREFIX}ORG/NAME@REVISION, or {PREFIX}ORG/NAME/FOLDER for a folder of it; "
            f"{WITH_SLASH}"
        )
    return Address(found[1], found[2] or "", found[3] or "")


def library() -> Any:
    """The library `huggingface_hub`.

    Raises:
        UserError: it is not installed, or does not load.
    """
    optional.package("huggingface_hub", extra="hub", who="a repository on the hub")
    import huggingface_hub

    for module in ("errors", "repocard_data", "utils"):
        importlib.import_module(f"huggingface_hub.{module}")
    return huggingface_hub


def fetched(place: Address, names: Sequence[str]) -> tuple[pathlib.Path, Address]:
    """Those files of a folder that have such names, in the cache of `huggingface_hub`.

    Args:
        place: of the folder.
        names: of the files; what is not there is left out.

    Returns:
        The folder on this machine, and its address at the very commit that was fetched.

    Raises:
        UserError: there is no such repository or revision, or it cannot be had.
    """
    inside = f"{place.folder}/" if place.folder else ""
    wanted = [glob.escape(inside + name) for name in names]
    library_ = library()
    with _asking(place.repository, place.revision, again="try again"), _quietly(library_):
        made = library_.snapshot_download(
            place.repository, revision=place.revision or None, allow_patterns=wanted
        )
    root = pathlib.Path(made)
    return root / place.folder, place._replace(revision=root.name)


def check_repository(name: str) -> None:
    """Raises a `UserError` if a name cannot be that of a repository."""
    require(
        REPOSITORY.fullmatch(name) is not None,
        f"--repo is {name!r}, but must be ORG/NAME: a user or an organisation of the hub, and a "
        "name of letters, digits and - _ .",
    )


def send(
    folder: pathlib.Path,
    repository: str,
    *,
    private: bool,
    replace: bool,
    ours: Callable[[Sequence[str]], set[str]],
    message: str,
) -> Sent:
    """Makes the files of a folder those of a repository, in one commit.

    What has arrived before a command was cut is not sent again. Earlier commits stay.

    Args:
        folder: local.
        repository: ORG/NAME; it is made if it is not there.
        private: whether only its owner sees it.
        replace: whether other content may be replaced.
        ours: which of these files of a repository were sent so before; `replace` deletes them
            where the folder no longer has them, and keeps the rest.
        message: of the commit.

    Raises:
        UserError: no token, or one that may not do this; other content, without `replace`; a public
            repository that was to be private; a card that the hub refuses; a hub that is away.
    """
    library_ = library()
    with _asking(repository), _quietly(library_):
        if not library_.get_token():
            raise UserError(
                "the hub needs a token of yours to write: run `hf auth login`, or set HF_TOKEN; "
                "its page of settings makes one, with the right to write"
            )
        api = library_.HfApi()
        there = _there(api, repository)
    if there is not None and private and not there.private:
        raise UserError(
            f"{repository} is there and public, and --private asks for a private one; make it "
            "private on its page of settings, or choose another --repo"
        )
    at = {} if there is None else {one.rfilename: one for one in there.siblings}
    plan = _planned(folder, at, ours)
    _check_replace(plan, repository, replace)
    url = f"{api.endpoint}/{repository}"
    if there is not None and not (plan.new or plan.replaced or plan.deleted):
        return plan._replace(url=url, commit=there.sha)
    card = files.read_text(folder / CARD)
    with _asking(repository), _quietly(library_):
        if there is None:
            _check_card(library_, api, card)
            api.create_repo(repository, private=private, exist_ok=True)
            there = api.model_info(repository)
        added = [
            library_.CommitOperationAdd(name, folder / name) for name in (*plan.new, *plan.replaced)
        ]
        gone = [library_.CommitOperationDelete(name, is_folder=False) for name in plan.deleted]
        made = api.create_commit(
            repository, [*added, *gone], commit_message=message, parent_commit=there.sha
        )
    return plan._replace(url=url, commit=made.oid)


def _there(api: Any, repository: str) -> Any:
    try:
        return api.model_info(repository, files_metadata=True)
    except library().errors.RepositoryNotFoundError:
        return None


def _check_card(library_: Any, api: Any, text: str) -> None:
    """Asks the hub whether it takes a card, before a repository is made; raises as the hub does."""
    given = {"content": text, "repoType": "model"}
    answer = library_.utils.get_session().post(f"{api.endpoint}/api/validate-yaml", json=given)
    if answer.status_code == 400:
        raise ValueError(answer.text)
    library_.utils.hf_raise_for_status(answer)


def _planned(
    folder: pathlib.Path, at: dict[str, Any], ours: Callable[[Sequence[str]], set[str]]
) -> Sent:
    """What is to be done, where these files are there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    others = [name for name in at if name not in names and name != OF_THE_HUB]
    stale = ours(list(at))
    return Sent(
        url="",
        commit="",
        new=tuple(name for name in names if name not in at),
        replaced=tuple(n for n, path in names.items() if n in at and not _is(path, at[n])),
        deleted=tuple(name for name in others if name in stale),
        kept=tuple(name for name in others if name not in stale),
    )


def _is(path: pathlib.Path, there: Any) -> bool:
    """Whether a file of the hub has the content of one here."""
    content = files.read_bytes(path)
    if there.lfs is not None:
        return bool(there.lfs.sha256 == hashlib.sha256(content).hexdigest())
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(there.blob_id == git.hexdigest())


def _check_replace(plan: Sent, repository: str, replace: bool) -> None:
    """Raises a `UserError` if there is other content that is not to be replaced."""
    seen = [
        f"{listed(names)} {what}"
        for names, what in (
            (plan.replaced, "would be replaced"),
            (plan.deleted, "deleted"),
            (plan.kept, "kept"),
        )
        if names
    ]
    changes = plan.new or plan.replaced or plan.deleted
    if changes and seen and not replace:
        raise UserError(
            f"{repository} holds something else already: with --replace {'; '.join(seen)} (earlier "
            "commits stay); or choose another --repo"
        )


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@contextlib.contextmanager
def _quietly(library_: Any) -> Iterator[None]:
    """Without bars where nobody sees them. What the hub warns of goes to the logger of this
    library, and other warnings go to where they would have gone.
    """
    bars = library_.utils
    silent = not (sys.stderr.isatty() or bars.are_progress_bars_disabled())
    silent = silent and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    level = bars.logging.get_verbosity()
    bars.logging.set_verbosity(max(level, logging.ERROR))
    if silent:
        bars.disable_progress_bars()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
    finally:
        bars.logging.set_verbosity(level)
        if silent:
            bars.enable_progress_bars()
        for one in caught:
            if issubclass(one.category, UserWarning):
                LOG.warning(f"warning: {' '.join(str(one.message).split())}")
            else:  # a filter has let it through already
                warnings.showwarning(one.message, one.category, one.filename, one.lineno)


@contextlib.contextmanager
def _asking(repository: str, revision: str = "", *, again: str = AGAIN) -> Iterator[None]:
    """Turns what the hub and its library refuse into a `UserError`, which says what helps where
    only time does. Nothing but calls of the library belongs inside: an error of ours is not theirs.
    """
    errors = library().errors
    try:
        yield
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this machine's own files
            raise
        raise UserError(_refusal(error, repository, revision, again)) from error


def _refusal(error: BaseException, repository: str, revision: str, again: str) -> str:
    """What to say of an error."""
    errors = library().errors
    if isinstance(error, errors.LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        return _refusal(error.__cause__, repository, revision, again)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repository} is not on this machine, and HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: ask for access on its page, and run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or does not show it to you: look at the "
            "name; of a private one, run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{repository} has no revision {revision!r}; give a branch, a tag or a commit of it; "
            f"{WITH_SLASH}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error, repository, again)
    text = " ".join(str(error).split())
    if isinstance(error, errors.HTTPError):
        kind = type(error).__name__
        return f"the hub cannot be reached for {repository} ({kind}: {text}); {again}"
    return f"the hub does not take {repository}: {_messages(text)}"


def _messages(text: str) -> str:
    """The words of an answer, which is JSON where it is of a card."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return "; ".join(one["message"] for one in json.loads(text)["errors"])
    return text


def _status(error: Any, repository: str, again: str) -> str:
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())
    if status == 401:
        return (
            f"the hub refuses your token (401 {said}); run `hf auth login`, or set HF_TOKEN to one "
            "that is valid"
        )
    if status == 403:
        return (
            f"your token may not do that with {repository} (403 {said}); take one with the right "
            "to write there, or another --repo"
        )
    if status in (409, 412):
        return (
            f"{repository} was changed by somebody else meanwhile ({status} {said}); look at it, "
            "and start the same command again"
        )
    return f"the hub answers {status} for {repository} ({said or 'no reason'}); {again}"
