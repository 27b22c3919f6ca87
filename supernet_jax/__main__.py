"""`supernet`, and `python -m supernet_jax`: the command line, if it can be imported."""

import sys

from supernet_jax.errors import UserError


def main() -> None:
    """Entry point of the `supernet` command. Exit status 2 for a user's mistake."""
    try:
        from supernet_jax import cli  # here, where versions that do not fit are told in one line
    except UserError as error:
        print(f"supernet: {error}", file=sys.stderr)
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
