"""What the federation computes. Everything is a small dyadic number, so float32 holds it exactly whatever the order of
the sums. tests/interop/arithmetic.h says the same in C++."""

import numpy as np


def initial():
    """The model before the first round. The last array is larger than one chunk of 5 MiB."""
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": 0.5 * np.arange(4, dtype=np.float64),
        "big": (np.arange(1_400_000) % 7).astype(np.float32),
    }


def weight(partition):
    """Examples of a partition: 1, 3, 4, 8, ...: those of the first n sum to a power of two."""
    return {0: 1, 1: 3}.get(partition, 2**partition)


def step(partition, scale, offset):
    """What a partition adds to every element in one round."""
    return scale * (partition + offset)


def mean_step(nodes, scale, offset):
    """What the weighted mean over all nodes adds in one round."""
    weights = [weight(p) for p in range(nodes)]
    return sum(w * step(p, scale, offset) for p, w in enumerate(weights)) / sum(weights)
