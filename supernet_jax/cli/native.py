"""`supernet native`: build the compiled kernels for this machine's CPU."""

import dataclasses

import rich.console

from supernet_jax.runtime import native

EXAMPLES = """
supernet native
CXX=clang++ supernet native
SUPERNET_NATIVE=0 supernet train configs/digits.py --out runs/digits   # leaves them aside"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Build compiled kernels: training on CPU becomes about twice as fast.

    They are depthwise convolution and normalisation with swish. Optional. Building them needs a
    C++17 compiler and takes about a minute, once for every version of this library and of jaxlib;
    later commands find what was built. On GPU and TPU nothing uses them.
    """


def run(arguments: Arguments) -> None:
    """Builds the library and says where it is."""
    with rich.console.Console().status("compiling"):
        library = native.build()
    print(f"built: {library}\nused from now on by programs that run on one CPU device")
