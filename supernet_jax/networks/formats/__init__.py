"""The formats that a network is written in, one a file, and the list of them: `table.FORMATS`."""
