"""Fine-tunes an extracted network on other images, with other classes: plain Flax and optax.

python docs/examples/finetune.py networks/cheapest
"""

import dataclasses
import sys

import jax
import numpy as np
import optax

from supernet_jax.networks import manifest, network_folder


def finetune(folder, images, labels, *, classes, steps=100, batch=32, rate=1e-3):
    """Trains on float images `[N, H, W, C]` and labels `[N]`; gives network, variables, losses."""
    network, variables = network_folder.load(folder)
    *body, head = network.blocks
    head = dataclasses.replace(head, spec=dataclasses.replace(head.spec, classes=classes))
    network = network.clone(blocks=(*body, head))
    fresh = jax.jit(network.init)(jax.random.key(0), images[:1])["params"][head.name]["classifier"]
    kept = variables["params"]
    params = {**kept, head.name: {**kept[head.name], "classifier": fresh}}
    optimizer = optax.adam(rate)

    def loss(params, x, y):  # BatchNorm keeps the statistics that the network came with
        logits = network.apply({"params": params, "stats": variables["stats"]}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state, losses, rng = optimizer.init(params), [], np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.integers(len(images), size=batch)
        params, state, value = step(params, state, images[chosen], labels[chosen])
        losses.append(float(value))
    return network, {"params": params, "stats": variables["stats"]}, losses


if __name__ == "__main__":
    side, channels = 32, manifest.read_description(sys.argv[1])["input_channels"]
    rng = np.random.default_rng(0)  # random images of two classes, one brighter; put yours here
    y = rng.integers(2, size=256)
    x = (rng.normal(size=(256, side, side, channels)) + y[:, None, None, None]).astype(np.float32)
    losses = finetune(sys.argv[1], x, y, classes=2)[2]
    print(f"loss {np.mean(losses[:10]):.3f} at first, {np.mean(losses[-10:]):.3f} at last")
