"""Times the weighted mean of 8 replies of 10 M float32 parameters: fedumm beside NumPy, each in its own process, turn by turn.

Usage: python3 aggregate_vs_numpy.py BUILD_DIR    (needs NumPy; BUILD_DIR built with -DFEDUMM_BUILD_BENCHMARKS=ON)

The NumPy loop is Flower's: the first reply times its share, then `out += reply * share`. It checks nothing and its bits depend on the order
of the replies. A second NumPy line checks each reply for NaN and infinity, as fedumm does.
"""

import json
import os
import subprocess
import sys
import time

PARAMETERS, REPLIES, TURNS = 10_000_000, 8, 5


def numpy_ms(check: bool) -> float:
    import numpy as np

    random = np.random.default_rng(1)
    replies = [random.standard_normal(PARAMETERS, dtype=np.float32) for _ in range(REPLIES)]
    weights = [10 + i for i in range(REPLIES)]
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        total = sum(weights)
        mean = None
        for reply, weight in zip(replies, weights):
            if check and not np.isfinite(reply).all():
                raise ValueError("not finite")
            if mean is None:
                mean = reply * (weight / total)
            else:
                mean += reply * (weight / total)
        best = min(best, 1e3 * (time.process_time() - start))
    return best


def fedumm_ms(build_dir: str) -> float:
    out = subprocess.run(
        [os.path.join(build_dir, "benchmarks", "aggregate_bench"), "--benchmark_filter=WeightedMean/10/8",
         "--benchmark_repetitions=5", "--benchmark_min_time=0.01", "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return min(run["cpu_time"] for run in json.loads(out)["benchmarks"] if run["run_type"] == "iteration")


def main() -> None:
    if sys.argv[1] == "--numpy":
        print(numpy_ms(sys.argv[2] == "checked"))
        return
    best = {}
    for _ in range(TURNS):
        for name in ("plain", "checked"):
            out = subprocess.run([sys.executable, __file__, "--numpy", name], check=True, stdout=subprocess.PIPE).stdout
            best[name] = min(best.get(name, float("inf")), float(out))
        best["fedumm"] = min(best.get("fedumm", float("inf")), fedumm_ms(sys.argv[1]))
    print(f"weighted mean, {REPLIES} replies x {PARAMETERS // 1_000_000} M f32, best of {TURNS} turns")
    print(f"  NumPy, no checks       {best['plain']:8.1f} ms")
    print(f"  NumPy, finite checked  {best['checked']:8.1f} ms")
    print(f"  fedumm, all checks     {best['fedumm']:8.1f} ms")
    print(f"  fedumm / NumPy         {best['fedumm'] / best['plain']:8.2f} (no checks), "
          f"{best['fedumm'] / best['checked']:.2f} (finite checked)")


if __name__ == "__main__":
    main()
