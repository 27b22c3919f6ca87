"""Token accuracy and BLEU of the subnets that a search of a translation found.

python docs/examples/translations.py RUN
"""

import argparse

import jax
import numpy as np

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.experiment import read_archs
from supernet_jax.networks import extract, translate
from supernet_jax.tasks import bleu

LINES = 256  # of the test part, that are translated


def lines_of(rows: np.ndarray) -> list[str]:
    """Ids as text, up to the end of each line."""
    return [bytes(row[row >= 0].astype(np.uint8)).partition(b"\n")[0].decode() for row in rows]


def measured(run: sj.Run, arch: object, beam: int) -> tuple[float, float]:
    """The share of test tokens that are right, and BLEU of what beam search writes."""
    test, task = run.experiment.dataset.test, run.space.task
    module, variables = extract.extract(run.space, run.params, arch, None)
    score = jax.jit(lambda inputs, targets: task.score(module.apply(variables, inputs), targets))
    scores = jax.device_get(score(test.images[:].astype(np.int32), test.labels[:]))
    sources = test.images[:LINES, : task.source].astype(np.int32)
    made = translate.search(module, variables, sources, beam=beam, length_penalty=1.0)
    written = [bytes(line).decode(errors="replace") for line in made]
    return task.accuracy(scores), bleu.bleu(written, lines_of(test.labels[:LINES])).score


def main() -> None:
    """Prints a row for the smallest, some of the front and the largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--most", type=int, default=8, help="networks of the front, evenly spread")
    given = parser.parse_args()
    run = sj.open_run(given.run)
    menu, macs, parameters = run.space.menu, sj.macs(run.space), sj.parameters(run.space)
    archs = {"smallest": choices.smallest(menu)}
    front = read_archs.read_archs(run.space, f"{given.run}/search.json")
    some = sorted({*np.linspace(0, len(front) - 1, given.most).round().astype(int).tolist()})
    archs |= {f"front:{i}": front[i] for i in some}
    archs["largest"] = choices.largest(menu)
    print("| subnet | MACs | parameters | token accuracy | BLEU |\n|---|---|---|---|---|")
    for name, arch in archs.items():
        accuracy, score = measured(run, arch, given.beam)
        counts = f"{int(macs(arch)):,} | {int(parameters(arch)):,}"
        print(f"| {name} | {counts} | {accuracy:.2%} | {score:.2f} |", flush=True)


if __name__ == "__main__":
    main()
