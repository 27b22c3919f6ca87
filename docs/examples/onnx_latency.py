"""Measures how long an extracted network takes for one image in ONNX Runtime, on CPU.

supernet extract runs/digits --arch front:0 --out networks/cheapest --format onnx
python docs/examples/onnx_latency.py networks/cheapest
"""

import pathlib
import statistics
import sys
import time

import numpy as np
import onnxruntime


def latency(folder, *, threads=1, seconds=2.0):
    """Median milliseconds of one image, by so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = (pathlib.Path(folder) / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    kind = np.uint8 if taken.type == "tensor(uint8)" else np.float32
    image = np.ones([1, *taken.shape[1:]], kind)  # the first axis is the batch
    times, end = [], time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, {taken.name: image})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[10:])  # the first runs find memory and caches cold


if __name__ == "__main__":
    print(f"{latency(sys.argv[1]):.3f} ms for one image, one thread")
