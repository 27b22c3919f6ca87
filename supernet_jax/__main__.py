"""The `supernet` command, also as `python -m supernet_jax`."""

from supernet_jax import stopping


def main() -> None:
    """Runs the command line. Signals are heard before anything large is imported."""
    with stopping.listening():
        try:
            from supernet_jax import cli

            cli.main()
        except BaseException as error:
            stopped = stopping.thrown()
            if stopped is not None:  # while modules were imported, which makes other errors of it
                stopping.leave(stopped.status)
            if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
                stopping.leave_within(error.code)
            raise


if __name__ == "__main__":
    main()
