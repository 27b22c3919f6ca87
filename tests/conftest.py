"""Every test runs on 8 virtual CPU devices, with strict dtypes and a compilation cache."""

import os
import pathlib
import tempfile

import jax

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

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("SUPERNET_TEST_DATA", ROOT.parent / "shared/data/tfds"))
