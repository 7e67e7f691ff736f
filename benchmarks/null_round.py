"""A round that does nothing: one array of one number, two nodes. Ours over each transport, and Flower's processes beside it.

Usage: null_round.py [BUILD_DIR] [--no-peer]
"""

import statistics
import sys

import bench

TARGET_MS = 10


def main() -> None:
    bench.title("null round: 1 array of 1 number, 2 C++ nodes")
    best = None
    for transport in ("grpc-rere", "http"):
        median, least = bench.milliseconds(bench.run_ours("null", 2, 100, transport)["rounds"])
        best = median if best is None else min(best, median)
        bench.line(f"fedumm, {transport}", f"{median:.2f} ms", f"min {least:.2f}; at most {TARGET_MS} ms: {bench.verdict(median <= TARGET_MS)}")
    if "--no-peer" in sys.argv or bench.peer("1.42") is None:
        return
    flower = 1e3 * statistics.median(bench.run_flower_app("1.42", "null", 2, 4)["seconds"][1:])
    bench.line("Flower 1.42, Python nodes and ServerApp", f"{flower:.0f} ms", f"{flower / best:.0f} times as long")


if __name__ == "__main__":
    main()
