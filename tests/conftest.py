"""Every test runs on 8 virtual CPU devices, with strict dtypes and a compilation cache."""

import gc
import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator

import jax
import pytest

from supernet_jax.runtime import hardware

# Nearly all the time goes into compiling programs that then run for a moment. Emitters of
# fusions build a context of MLIR for each, and a program that is split goes through LLVM part by
# part: without both, compiling takes a third to a half of the time. A jaxlib that no longer knows
# one of these flags names it and stops.
QUICKLY = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if hardware.HAS_OLD_EMITTERS:
    QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICKLY])
hardware.collect_rarely()
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
if "SUPERNET_TEST_CACHE" not in os.environ:  # one for all the processes that share the tests
    _temporary = tempfile.TemporaryDirectory(prefix="supernet-test-cache-")
    os.environ["SUPERNET_TEST_CACHE"] = _temporary.name
CACHE = os.environ["SUPERNET_TEST_CACHE"]
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# The longest files first, so that none of them is left for one worker at the end.
LONGEST = (
    "theorem",
    "systems",
    "loop",
    "cli",
    "search",
    "racing",
    "train_step",
    "evaluate",
    "sharding",
    "predictors",
    "doors",
    "once_for_all",
    "native",
    "blockwise_members",
    "documents",
    "distributed",
    "recipe",
    "text_runs",
    "api",
    "data",
    "elastic_block",
    "export_command",
    "new_parts",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first; all stay in the order of their file."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Spares every later collection the modules, which stay."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Frees the programs of a file when it is done: kept, they come to many gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Puts back who hears signals: a process that a later test starts would ignore what this one
    was left to ignore.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("SUPERNET_TEST_DATA", ROOT.parent / "shared/data/tfds"))
