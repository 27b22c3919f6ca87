"""The formats that a network is written in, one a file."""
