"""Charts of a report, as SVG that is written here."""
