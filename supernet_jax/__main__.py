"""The `supernet` command, also as `python -m supernet_jax`."""

import sys

from supernet_jax.errors import UserError
from supernet_jax.runtime import stopping, versions


def main() -> None:
    """Entry point of the `supernet` command: `cli.main`, which imports much. Signals are heard
    before that, and what is said of versions that do not fit is one line.
    """
    with stopping.listening(ends=True):
        try:
            versions.check()
            from supernet_jax.cli import main as cli

            cli.main()
        except UserError as error:
            print(f"supernet: {error}", file=sys.stderr)
            sys.exit(2)
        except BaseException as error:
            stopped = stopping.thrown()
            if stopped is not None:  # while modules were imported, which makes other errors of it
                stopping.leave(stopped.status)
            if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
                stopping.leave_within(error.code)
            raise


if __name__ == "__main__":
    main()
