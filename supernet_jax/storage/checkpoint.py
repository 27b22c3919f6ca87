"""Checkpoints: training state and what describes it, written by Orbax, safe to kill at any moment.

A checkpoint is a folder named after its step that holds the pytree `state` and the JSON `meta`. It
appears by one rename when everything in it is written, so an unfinished one is never read. Reading
is done by functions that leave the folder alone: evaluation may read beside a running training.

Folders are local paths or those of a bucket (`gs://...`), where there are no renames: see
`bucket_checkpoints`. In a run of several processes all of them
call every function here, on a folder that all of them see.
"""

import contextlib
import functools
import glob
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from supernet_jax.errors import UserError
from supernet_jax.runtime import path_rules
from supernet_jax.storage import (
    bucket_arrays,
    bucket_checkpoints,
    buckets,
    chunked_arrays,
    failures,
    files,
    record,
)
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import Local, absolute

Result = TypeVar("Result")
Folder = str | os.PathLike[str]
UNFINISHED = ".orbax-checkpoint-tmp"  # ends the names of what Orbax has not finished
SLICED = ("params", "ema")  # subtrees of a state of which parts may be read
Tree = Any  # pytree of arrays, or of jax.ShapeDtypeStruct


class Checkpoints:
    """Where one training run writes its checkpoints; the only writer of its folder.

    Saving is asynchronous: the state may be donated as soon as `save` returns. What was saved is
    believed when it was read back: names, shapes, types and number of chunks of all arrays, and
    `meta`. Leftovers of a save that failed or was killed are removed. Close it, or use it in a
    `with` statement.

    Args:
        folder: made if it does not exist.
        keep: how many checkpoints stay, the latest ones; at least 1.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, folder: Folder, *, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(
                f"keep={keep} checkpoints leaves nothing to resume from; keep at least 1"
            )
        self.folder = absolute(folder)
        # Arrays and meta of what was saved and not yet read back, by step.
        self._unread: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._manager: Any
        self._noticing: failures.FailedSave | None = None
        if isinstance(self.folder, Bucket):
            self._manager = bucket_checkpoints.Manager(self.folder, keep=keep)
            return
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(n=keep),
            cleanup_tmp_directories=True,
            # Else threads that wait for a folder which could not be made do so for five minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        with failures.writing(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._noticing = failures.FailedSave(self.folder) if jax.process_count() > 1 else None
        if self._noticing is not None:
            log = logging.getLogger("absl")
            log.setLevel(logging.ERROR)
            log.addFilter(self._noticing)

    def save(self, step: int, state: Tree, meta: Mapping[str, Any], *, wait: bool = False) -> bool:
        """Starts to save `state` and `meta` as checkpoint `step`; waits for the save before it.

        Args:
            step: number of finished training steps.
            state: pytree of arrays.
            meta: what JSON can hold; numbers that it cannot become null.
            wait: return only when it is on disk and was read back.

        Returns:
            False where this step is saved already; it is left as it is.

        Raises:
            UserError: this or the previous save could not be written, as on a full disk, or the
                previous one does not read back.
            TypeError: `meta` holds what JSON cannot.
        """
        described = json.loads(files.dumps(dict(meta)))  # here, not in the thread that writes
        if step in self._manager.all_steps():
            return False
        self.wait()
        kept, how = chunked_arrays.laid_out(
            state, lambda path: path_rules.name_of(path).split("/")[0] in SLICED
        )
        if isinstance(self.folder, Bucket):  # whose manager itself reads back what it has written
            self._manager.save(step, kept, how, described)
            if wait:
                self.wait()
            return True
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(kept, save_args=how), meta=ocp.args.JsonSave(described)
        )
        with self._writing():
            self._manager.save(step, args=items, force=True)
        self._unread[step] = (chunked_arrays.stored(state), described)
        if wait:
            self.wait()
        return True

    def latest(self) -> int | None:
        """The last finished step, or None."""
        self.wait()
        return self._manager.latest_step()

    def restore(self, target: Tree, *, step: int | None = None) -> Tree:
        """See the function `restore`; a save under way is waited for."""
        self.wait()
        return restore(self.folder, target, step=step)

    def has(self, subtree: str) -> bool:
        """Whether the last checkpoint's state has arrays under this name."""
        self.wait()
        run, step = _find(self.folder, None)
        saved = _reading(_metadata, run / str(step) / "state", run, step)
        return bool(jax.tree.leaves(saved.get(subtree)))

    def rewind(self, step: int) -> None:
        """Deletes all checkpoints after `step`, before training goes on from there."""
        self.wait()
        for later in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Returns when everything is on disk and was read back.

        Raises:
            UserError: it could not be written, or does not read back.
        """
        unread, self._unread = self._unread, {}
        with self._writing():
            self._manager.wait_until_finished()
        for step, saved in unread.items():
            check = functools.partial(_check_saved, saved=saved)
            _believe(check, self.folder / str(step), self.folder, step)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What a failed save leaves is removed, or it would take the room that was lacking."""
        try:
            with failures.writing(self.folder):
                yield
        except UserError:
            failures.remove(self.folder, f"*{UNFINISHED}*")
            raise

    def close(self) -> None:
        """Waits, and ends the threads."""
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._noticing is not None:
                logging.getLogger("absl").removeFilter(self._noticing)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def steps(folder: Folder) -> tuple[int, ...]:
    """Steps of the finished checkpoints in a folder, ascending; none where there is no folder.

    Raises:
        UserError: the folder cannot be read.
    """
    path = absolute(folder)
    if isinstance(path, Bucket):
        return bucket_checkpoints.steps(path)
    try:
        if isinstance(path, Local):
            path.stat()  # Orbax takes what may not be looked at for what is not there
        found = list(ocp.path.step.standard_name_format().find_all(path))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise files.unreadable(path, error) from error
    return tuple(sorted(metadata.step for metadata in found))


def restore(
    folder: Folder, target: Tree, *, step: int | None = None, subtree: str | None = None
) -> Tree:
    """The state of a checkpoint, on whatever devices `target` says.

    Args:
        folder: of the run.
        target: pytree like the saved state, or like the subtree, of `jax.ShapeDtypeStruct` with a
            sharding (the first local device where a leaf has none) or of arrays, whose values are
            ignored.
        step: which checkpoint; None takes the last.
        subtree: the field of the state that is read, as "sampler"; None for all of it.

    Raises:
        UserError: no such checkpoint, a damaged one, or one whose arrays are not those of `target`;
            the message names the first array that differs.
    """
    read, saved, what = _part(folder, step, subtree)
    wanted = path_rules.named_leaves(target if subtree is None else {subtree: target})
    _compare(path_rules.named_leaves(saved), wanted, what)
    arrays = path_rules.named_leaves(read(functools.partial(_read, part=saved, wanted=wanted)))
    return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in wanted])


def restore_params(
    folder: Folder,
    *,
    step: int | None = None,
    subtree: str = "params",
    sharding: jax.sharding.Sharding | Callable[[Tree], Tree] | None = None,
) -> Tree:
    """Only the parameters of a checkpoint, without anything known of optimiser and sampler.

    Args:
        folder: of the run.
        step: which checkpoint; None takes the last.
        subtree: "params", or "ema" for their moving average.
        sharding: of every array, or what gives that of each by their shapes, `{subtree:
            parameters}`; None puts them on the first local device.

    Raises:
        UserError: no such checkpoint, a damaged one, or one without this subtree.
    """
    read, part, _ = _part(folder, step, subtree)
    leaves = path_rules.named_leaves(part)
    if callable(sharding):
        places = path_rules.named_leaves(sharding(part))
    else:
        place = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = dict.fromkeys(leaves, place)
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in leaves.items()
    }
    return read(functools.partial(_read, part=part, wanted=wanted))[subtree]


def read_slices(
    folder: Folder, wanted: Tree, *, step: int | None = None, subtree: str = "params"
) -> Tree:
    """Parts of the parameters of a checkpoint; the rest is neither read nor held.

    What is read is the chunks that the parts touch, so of checkpoints written before there were
    small chunks (`chunked_arrays.CHUNK`) it is whole arrays, one after the other.

    Args:
        folder: of the run.
        wanted: pytree like the parameters, of `chunked_arrays.Box`, None where nothing is wanted.
        step: which checkpoint; None takes the last.
        subtree: "params", or "ema" for their moving average.

    Returns:
        The same tree, of NumPy arrays.

    Raises:
        UserError: no such checkpoint, a damaged one, one without this subtree, or one whose arrays
            do not hold these parts.
    """
    read, part, what = _part(folder, step, subtree)
    named = path_rules.named_leaves({subtree: wanted})
    arrays = read(
        functools.partial(
            chunked_arrays.read, saved=path_rules.named_leaves(part), wanted=named, what=what
        )
    )
    return jax.tree.unflatten(jax.tree.structure(wanted), [arrays[name] for name in named])


def read_meta(folder: Folder, *, step: int | None = None) -> dict[str, Any]:
    """What was saved beside the state.

    Raises:
        UserError: no such checkpoint, or a damaged one.
    """
    run, step = _find(folder, step)
    return _reading(_read_json, run / str(step) / "meta", run, step)


def write_tree(folder: Folder, tree: Tree) -> None:
    """Writes a pytree of arrays as an ordinary Orbax checkpoint, alone in a new folder.

    Raises:
        UserError: it cannot be written, or does not read back.
    """
    path = absolute(folder)
    if isinstance(path, Bucket):
        raise TypeError(f"{path}: networks are written to a local folder, and then copied")
    chunked_arrays.quiet()
    try:
        with failures.writing(path), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(path, args=ocp.args.StandardSave(tree))
    except UserError:
        failures.remove(path.parent, f"{glob.escape(path.name)}{UNFINISHED}*")
        raise
    _believe(functools.partial(chunked_arrays.check, arrays=chunked_arrays.stored(tree)), path)


def tree_shapes(folder: Folder) -> Tree:
    """Nested dicts of `jax.ShapeDtypeStruct`: what `write_tree` wrote.

    Raises:
        UserError: there is nothing, it is something else, or it is damaged.
    """
    path = absolute(folder)
    _reading(record.check, path)
    chunked_arrays.check_is_tree(path)
    saved = _reading(_metadata, path)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)


def read_tree(folder: Folder) -> Tree:
    """Nested dicts of arrays on the first local device: what `write_tree` wrote.

    Raises:
        UserError: there is nothing, it is something else, or it is damaged.
    """
    path, shapes = absolute(folder), tree_shapes(folder)
    return _reading(
        functools.partial(_read, part=shapes, wanted=path_rules.named_leaves(shapes)), path
    )


def _find(folder: Folder, step: int | None) -> tuple[epath.Path, int]:
    """The folder, and the step itself if its checkpoint is there and whole; the last for None."""
    path, found = absolute(folder), steps(folder)
    if not found:
        seen = "no finished checkpoint in" if path.is_dir() else "no folder"
        raise UserError(f"there is {seen} {path}; pass the folder of checkpoints of a training run")
    if step is not None and step not in found:
        listed = ", ".join(map(str, found))
        raise UserError(f"{path} has no checkpoint of step {step}, only of {listed}")
    step = found[-1] if step is None else step
    _reading(record.check, path / str(step), path, step)
    return path, step


def _part(
    folder: Folder, step: int | None, subtree: str | None
) -> tuple[Callable[..., Any], Tree, str]:
    """How a checkpoint's state is read, what is saved of one subtree or all, and its name."""
    run, step = _find(folder, step)
    read = functools.partial(_reading, run=run, step=step, path=run / str(step) / "state")
    saved, what = read(_metadata), f"the checkpoint of step {step} in {run}"
    if subtree is None:
        return read, saved, what
    if not jax.tree.leaves(saved.get(subtree)):
        filled = ", ".join(sorted(key for key in saved if jax.tree.leaves(saved[key])))
        average = "; this run kept no average" if subtree == "ema" else ""
        raise UserError(f"{what} has no {subtree!r}, only {filled}{average}")
    return read, {subtree: saved[subtree]}, what


def _metadata(path: epath.Path) -> Tree:
    """What is saved: nested dicts and lists with leaves that have `shape` and `dtype`."""
    if isinstance(path, Bucket):
        return bucket_arrays.metadata(path)
    return ocp.PyTreeCheckpointHandler().metadata(path).tree


def _read(path: epath.Path, part: Tree, wanted: Mapping[str, Any]) -> Tree:
    """Reads the leaves of `part`, a subtree of what is saved, each as `wanted` says."""
    if isinstance(path, Bucket):
        return _of_their_kind(bucket_arrays.read(path, part, wanted), wanted)
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(where: Any, _: Any) -> jax.ShapeDtypeStruct:
        leaf = wanted[path_rules.name_of(where)]
        place = leaf.sharding if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place or default)

    item = jax.tree_util.tree_map_with_path(target, part)
    how = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = reader.restore(path, args=args)
    return _of_their_kind(arrays, wanted)


def _of_their_kind(arrays: Tree, wanted: Mapping[str, Any]) -> Tree:
    for name, array in path_rules.named_leaves(arrays).items():
        if _signature(array) != _signature(wanted[name]):  # as a random key whose kind was lost
            raise ValueError(f"{name} came back as {_signature(array)}")
    return arrays


def _compare(saved: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    hint = "resume with the configuration that it was trained with"
    for name in [*wanted, *saved]:
        if name not in saved:
            raise UserError(f"{what} has no array {name}, which this run needs; {hint}")
        if name not in wanted:
            raise UserError(f"{what} has an array {name}, for which this run has no place; {hint}")
        there, here = (_signature(chunked_arrays.on_disk(of[name])) for of in (saved, wanted))
        if there != here:
            raise UserError(f"{what} has {name} as {there}, but this run needs {here}; {hint}")


def _signature(leaf: Any) -> str:
    """Dtype and shape, as `float32[3, 3]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _reading(
    read: Callable[[epath.Path], Result],
    path: epath.Path,
    run: epath.Path | None = None,
    step: int | None = None,
) -> Result:
    """What `read(path)` returns, or an error that says which checkpoint cannot be read, and why."""
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:  # Orbax raises whatever it stumbles over
        told = buckets.refusal(path, error) if isinstance(path, Bucket) else None
        if told is not None:
            raise told from error
        what = f"the checkpoint in {path}"
        if step is not None:
            what = f"the checkpoint of step {step} in {run}"
        raise failures.reading(what, error, _advice(run, step)) from error


def _believe(
    check: Callable[[epath.Path], None],
    path: epath.Path,
    run: epath.Path | None = None,
    step: int | None = None,
) -> None:
    """Reads back what was written just now, and notes the sizes of its files, so that one that is
    lost or cut later can be named.

    Whoever is killed before this has a checkpoint without the note, which is just as good. Buckets
    keep objects whole.
    """
    if jax.process_index():
        return
    _reading(check, path, run, step)
    if isinstance(path, Local):
        with failures.writing(path):
            record.note(path)


def _check_saved(path: epath.Path, saved: tuple[Mapping[str, Any], dict[str, Any]]) -> None:
    chunked_arrays.check(path / "state", saved[0])
    if _read_json(path / "meta") != saved[1]:
        raise ValueError("meta is not what was saved")


def _read_json(path: epath.Path) -> dict[str, Any]:
    if isinstance(path, Bucket):
        return json.loads(files.read_text(path / "metadata"))
    return ocp.JsonCheckpointHandler().restore(path)


def _advice(folder: epath.Path | None, step: int | None) -> str:
    if folder is None or step is None:
        return "copy it again from where it was written"
    left = steps(folder)
    if step not in left:
        return "its folder was deleted just now, so take a later one"
    before = [s for s in left if s < step]
    if not before:
        return "there is no earlier one"
    return f"move the folder {folder / str(step)} aside to go on from step {before[-1]}"
