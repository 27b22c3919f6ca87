"""The `supernet` command, also as `python -m supernet_jax`."""

from supernet_jax import stopping


def main() -> None:
    """Runs the command line, and ends the process without waiting for threads if it fails.

    Signals are heard before anything large is imported.
    """
    with stopping.listening():
        try:
            from supernet_jax import cli

            cli.main()
        except stopping.Stopped as stopped:
            stopping.leave(stopped.status)
        except SystemExit as ended:
            if ended.code:
                stopping.leave(ended.code if isinstance(ended.code, int) else 1)
            raise


if __name__ == "__main__":
    main()
