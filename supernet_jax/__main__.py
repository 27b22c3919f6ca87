"""`python -m supernet_jax` is the `supernet` command."""

from supernet_jax.cli import main

main()
