"""Files: read defensively, written whole."""
