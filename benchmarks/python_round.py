"""The null round of an unmodified Flower app: stock Python nodes and ServerApp, `flwr run`; on our server, and on Flower's.

Usage: python_round.py [BUILD_DIR] [VERSION...]    (default 1.42)
"""

import re
import statistics
import sys

import bench

TARGET_S = 2.2


def main() -> None:
    for version in [text for text in sys.argv[1:] if re.fullmatch(r"1\.\d+", text)] or ["1.42"]:
        bench.title(f"null round of a stock app: 2 nodes and ServerApp of Flower {version}")
        seconds = {}
        for server in ("fedumm", "flower"):
            rounds = bench.run_flower_app(version, "null", 2, 6, server)["seconds"][1:]
            seconds[server] = statistics.median(rounds)
            note = f"min {min(rounds):.2f}, max {max(rounds):.2f}"
            if server == "fedumm":
                note += f"; at most {TARGET_S} s: {bench.verdict(seconds[server] <= TARGET_S)}"
            bench.line(f"server: {server}", f"{seconds[server]:.2f} s", note)
        bench.line("Flower's server takes", f"{seconds['flower'] / seconds['fedumm']:.1f} x")


if __name__ == "__main__":
    main()
