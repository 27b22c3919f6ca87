"""One file per command of the `supernet` command line: its arguments, examples and work."""
