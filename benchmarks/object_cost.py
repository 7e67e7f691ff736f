"""Server CPU for each object of the standard protocol, one call an object: an adapter round with nodes that know nothing better.

Usage: object_cost.py [BUILD_DIR] [--no-peer]

C++ nodes through the grpc-adapter are such nodes whose calls carry no signature. Stock nodes of Flower sign each call with a P-384 key. Their round
has the app's own calls on the same server too, 580 x (1 + 3 x nodes) objects in all.
"""

import sys

import bench

TARGET_MS = 0.1
OBJECTS = 288 * 2 + 4


def main() -> None:
    bench.title("server CPU for each standard object: adapter round, 2 nodes")
    rounds = bench.run_ours("adapter", 2, 4, "grpc-adapter")["rounds"][1:]
    cost = sum(event["server_cpu_ms"] for event in rounds) / len(rounds) / (2 * 2 * OBJECTS)
    bench.line("fedumm, unsigned calls, all of the round's CPU", f"{cost:.3f} ms", f"at most {TARGET_MS} ms: {bench.verdict(cost <= TARGET_MS)}")
    if "--no-peer" in sys.argv or bench.peer("1.42") is None:
        return
    for server in ("fedumm", "flower"):
        run = bench.run_flower_app("1.42", "adapter", 2, 2, server)
        cost = 1e3 * run["server_cpu_s"] / run["server_cpu_rounds"] / (OBJECTS * (1 + 3 * 2))
        bench.line(f"stock app and nodes of 1.42, server: {server}", f"{cost:.3f} ms")


if __name__ == "__main__":
    main()
