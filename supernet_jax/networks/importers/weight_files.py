"""Tensors out of files that others wrote: safetensors, or PyTorch's where the user has PyTorch.

Nothing in a file is executed. PyTorch's format is a pickle, of which `torch.load` with
`weights_only=True` builds tensors and plain containers alone; what else is in it is refused.
"""

import hashlib
import pathlib
import re
import types
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.storage import safetensors_file
from supernet_jax.storage.files import unreadable

TORCH = (".pth", ".pt", ".tar", ".bin", ".ckpt")  # the published ones end with .pth.tar
OLDEST_TORCH = (2, 6)  # before it, weights_only could be tricked (CVE-2025-32434)
NESTED = ("state_dict", "model")  # under which training scripts keep the tensors
WRAPPED = "module."  # what PyTorch's data parallelism puts before each name
CONVERT = (
    "python -c \"import torch; from safetensors.torch import save_file; d = torch.load('FILE', "
    "weights_only=True); d = d.get('state_dict', d); save_file({k: v.contiguous() for k, v in "
    "d.items()}, 'FILE.safetensors')\""
)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The named tensors of a file, floats all finite, names without `module.`.

    Args:
        path: of a `.safetensors` file, or of one of PyTorch's (`.pth`, `.pt`, `.pth.tar`, `.bin`,
            `.ckpt`), which needs PyTorch.

    Raises:
        UserError: no such file; one that is cut off, damaged, of another kind or holds more than
            tensors; odd names; numbers that are not finite.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file of published weights in it")
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the file of published weights")
    if path.suffix not in (".safetensors", *TORCH):
        raise UserError(
            f"{path} ends with {path.suffix!r}; allowed are .safetensors and, with PyTorch, "
            f"{', '.join(TORCH)}: rename or convert it"
        )
    try:
        with path.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise unreadable(path, error) from None
    if empty:
        raise UserError(f"{path} is empty, so it was cut short (it has 0 bytes); copy it again")
    found = safetensors_file.read(path) if path.suffix == ".safetensors" else _read_torch(path)
    found = _unwrapped(found, path)
    for name in found:
        if not name.isprintable() or re.search(r"[/\\]", name):
            raise UserError(
                f"{path} has a tensor named {name[:80]!r}; PyTorch's names are printable and have "
                "dots, no slashes: is it of another library?"
            )
    safetensors_file.check_finite(found, path)
    return found


def digest(path: str | pathlib.Path) -> str:
    """SHA-256 of a file."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrapped(found: dict[str, np.ndarray], path: pathlib.Path) -> dict[str, np.ndarray]:
    if not found:
        raise UserError(f"{path} holds no tensors")
    if not all(name.startswith(WRAPPED) for name in found):
        return found
    return {name.removeprefix(WRAPPED): array for name, array in found.items()}


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    _check_zip(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises whatever it stumbles over
        reason = re.sub(r"\s+", " ", str(error)).strip().split(". ")[0][:200]
        raise UserError(
            f"{path} cannot be read as PyTorch's weights ({type(error).__name__}: {reason}); it is "
            "damaged, or holds more than tensors, which is not loaded since that may run code: "
            "where you trust the file, save its tensors alone as safetensors"
        ) from None
    named = _state(value, path)
    return {name: _to_numpy(torch, name, tensor, path) for name, tensor in named.items()}


def _torch(path: pathlib.Path) -> types.ModuleType:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is PyTorch's, and there is no PyTorch here: pip install 'torch>=2.6', or "
            f"convert it where there is: {CONVERT}"
        ) from None
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} can be tricked into running code of a file "
            "(CVE-2025-32434): pip install 'torch>=2.6'"
        )
    return torch


def _check_zip(path: pathlib.Path) -> None:
    """Refuses an archive that would unpack to more than it is; PyTorch never compresses."""
    if not zipfile.is_zipfile(path):
        return  # as PyTorch wrote before 1.6
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({error}); copy it again") from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
            raise UserError(
                f"{path}: {entry.filename[:80]!r} in it is compressed, which PyTorch never does; "
                "it is not loaded, since it may unpack to anything"
            )


def _state(value: Any, path: pathlib.Path) -> Mapping[str, Any]:
    """The mapping of names to tensors somewhere in what training scripts save."""
    for _ in range(3):
        named = value if isinstance(value, Mapping) else {}
        inner = [named[key] for key in NESTED if isinstance(named.get(key), Mapping)]
        value = inner[0] if inner else value
    if not isinstance(value, Mapping):
        raise UserError(
            f"{path} holds a {type(value).__name__}, not tensors by name; save model.state_dict()"
        )
    return value


def _to_numpy(torch: Any, name: Any, tensor: Any, path: pathlib.Path) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise UserError(
            f"{path} holds {str(name)[:80]!r}, a {type(tensor).__name__}, among its tensors; save "
            "model.state_dict() alone, or under the key 'state_dict'"
        )
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in kinds:
        seen = f"{tensor.layout}, {tensor.dtype} on {tensor.device}"
        raise UserError(f"{path}: {name} is {seen}; only dense floats and integers are read")
    # A view may claim to be larger than its numbers: PyTorch would spell that out.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{path}: {name} has the shape {list(tensor.shape)}, more than the numbers it has; it "
            "is not loaded"
        )
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()
