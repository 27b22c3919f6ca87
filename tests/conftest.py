"""Every test runs on 8 virtual CPU devices, with strict dtypes and a compilation cache."""

import gc
import os
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import pytest

# Nearly all the time goes into compiling programs that then run for a moment.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
if "SUPERNET_TEST_CACHE" not in os.environ:  # one for all the processes that share the tests
    _temporary = tempfile.TemporaryDirectory(prefix="supernet-test-cache-")
    os.environ["SUPERNET_TEST_CACHE"] = _temporary.name
CACHE = os.environ["SUPERNET_TEST_CACHE"]
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)

# The longest files first, so that none of them is left for one worker at the end.
LONGEST = (
    "attentivenas",
    "train_step",
    "theorem",
    "loop",
    "doors",
    "elastic_block",
    "costs",
    "own_space",
    "cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first; all stay in the order of their file."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Frees the programs of a file when it is done: kept, they come to many gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("SUPERNET_TEST_DATA", ROOT.parent / "shared/data/tfds"))
