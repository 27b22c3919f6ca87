"""A logger of one's own: the losses of a run as a table for a spreadsheet.

python docs/examples/logger.py runs/digits
"""

import csv
import io
import pathlib
import sys

import supernet_jax as sj
from supernet_jax.storage import files


class Table:
    """Writes `losses.csv`: a row for each logged step, a column for each member's loss."""

    def __init__(self, path: pathlib.Path):
        self.path, self.rows = path, {}
        if path.exists():  # of a run that goes on
            for row in csv.DictReader(io.StringIO(files.read_text(path))):
                self.rows[int(row["step"])] = row

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Puts a row in, and leaves out those that the run went back from."""
        self.rows = {s: row for s, row in self.rows.items() if s < step}
        losses = {name: value for name, value in values.items() if name.startswith("loss/")}
        self.rows[step] = {"step": step, **losses}
        text = io.StringIO()
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        writer = csv.DictWriter(text, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(self.rows.values())
        files.write_text(self.path, text.getvalue())


config = sj.Config(train=sj.Train(steps=300, log_every=20))

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    sj.train(config, folder, on_metrics=Table(folder / "losses.csv"))
