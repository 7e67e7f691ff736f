"""A round of a LoRA adapter: 288 arrays, 7.4 M float32, 29.5 MB; ours beside the floor and beside Flower 1.42.

Usage: adapter_round.py [BUILD_DIR] [--no-peer] [--peer-16]

The floor is the time in which one thread hashes and copies once the bytes that the round moves. Flower takes about a minute a round with 4 nodes;
--peer-16 adds its round with 16 nodes, which takes some 5 minutes and 8 GB.
"""

import statistics
import sys

import bench

MOST_FLOORS, LEAST_RATIO = 3, 100


def main() -> None:
    ours = {}
    for nodes in (4, 16):
        bench.title(f"adapter round: 288 arrays, 29.5 MB, {nodes} C++ nodes")
        floor = bench.floor_ms(nodes)
        bench.line("floor: hash and copy the same bytes once", f"{floor:.0f} ms")
        for transport in ("grpc-rere", "http"):
            median, least = bench.milliseconds(bench.run_ours("adapter", nodes, 7, transport)["rounds"])
            ours[nodes] = min(median, ours.get(nodes, median))
            bench.line(f"fedumm, {transport}", f"{median:.0f} ms",
                       f"min {least:.0f}; {median / floor:.1f} floors, at most {MOST_FLOORS}: {bench.verdict(median <= MOST_FLOORS * floor)}")
        if "--no-peer" in sys.argv or bench.peer("1.42") is None or (nodes == 16 and "--peer-16" not in sys.argv):
            continue
        flower = 1e3 * statistics.median(bench.run_flower_app("1.42", "adapter", nodes, 2 if nodes == 4 else 1)["seconds"])
        ratio = flower / ours[nodes]
        bench.line("Flower 1.42, Python nodes and ServerApp", f"{flower:.0f} ms",
                   f"{ratio:.0f} times as long, at least {LEAST_RATIO}: {bench.verdict(ratio >= LEAST_RATIO)}")


if __name__ == "__main__":
    main()
