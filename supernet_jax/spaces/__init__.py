"""One file per family of search spaces."""
