"""Partitions as NVFlare's FedUMM example and flwr-datasets 0.6.1 make them, restated on NumPy's Generator."""
import json

import numpy as np


def labels_of(n):
    return ["yes" if i % 3 == 0 else ["yes", "no", "2", "red", "left"][7 * i % 5] for i in range(n)]


def tail_labels(n):
    return ["word%d" % int(i**0.7) for i in range(n)]


def nvflare(labels, k, alpha, seed):
    rng = np.random.default_rng(seed)
    classes = sorted(set(labels))
    shards = [[] for _ in range(k)]
    shares = rng.dirichlet([alpha] * k, size=len(classes))
    for c, name in enumerate(classes):
        index = np.array([i for i, x in enumerate(labels) if x == name])
        rng.shuffle(index)
        cuts = (np.cumsum(shares[c])[:-1] * len(index)).astype(int)
        for client, part in enumerate(np.split(index, cuts)):
            shards[client].extend(part.tolist())
    return [sorted(s) for s in shards]


def flower(labels, k, alpha, seed, minimum, shuffle, balance):
    rng = np.random.default_rng(seed)
    for _ in range(11):
        shards = [[] for _ in range(k)]
        for name in sorted(set(labels)):
            index = np.array([i for i, x in enumerate(labels) if x == name])
            shares = rng.dirichlet([alpha] * k)
            if balance:
                shares = [0 if len(s) > len(labels) / k else p for s, p in zip(shards, shares)]
                total = sum(shares)
                shares = [p / total for p in shares]
            cuts = (np.cumsum(shares) * len(index)).astype(int)[:-1]
            for client, part in enumerate(np.split(index, cuts)):
                shards[client].extend(part.tolist())
        if min(len(s) for s in shards) >= minimum:
            if shuffle:
                for s in shards:
                    rng.shuffle(s)
            return shards
    return None


def generator(seed):
    rng = np.random.default_rng(seed)
    out = {"seed": seed}
    out["uint64"] = [str(int(x)) for x in rng.bit_generator.random_raw(4)]
    out["uniform"] = rng.random(4).tolist()
    out["exponential"] = rng.standard_exponential(400).tolist()
    out["normal"] = rng.standard_normal(400).tolist()
    for shape in (0.05, 0.5, 1.0, 2.5):
        out["gamma_%s" % shape] = rng.standard_gamma(shape, 50).tolist()
    for alpha in (0.01, 0.05, 0.1, 0.5, 1.0, 3.0):
        out["dirichlet_%s" % alpha] = rng.dirichlet([alpha] * 5, 10).tolist()
    values = list(range(50))
    rng.shuffle(values)
    out["shuffled"] = values
    return out


cases = []
for n, maker in ((40, "short"), (300, "short"), (500, "tail")):
    labels = labels_of(n) if maker == "short" else tail_labels(n)
    for k in (3, 8):
        for alpha in (0.02, 0.5, 1.0, 4.0):
            for seed in (0, 42, 2**40 + 7):
                base = dict(n=n, labels=maker, k=k, alpha=alpha, seed=seed)
                cases.append(dict(base, scheme="nvflare", shards=nvflare(labels, k, alpha, seed)))
                for minimum, shuffle, balance in ((1, True, False), (5, False, False), (1, True, True)):
                    shards = flower(labels, k, alpha, seed, minimum, shuffle, balance)
                    cases.append(dict(base, scheme="flower", min=minimum, shuffle=shuffle, balance=balance, shards=shards))
json.dump(
    dict(numpy=np.__version__, generator=[generator(s) for s in (0, 42, 2**63 + 5)], cases=cases),
    open("partition_golden.json", "w"),
    separators=(",", ":"),
)
