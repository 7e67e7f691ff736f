"""Peak memory of the server process in adapter rounds with 2, 16 and 64 nodes, over what it uses while it waits for nodes with the model loaded.

Usage: server_memory.py [BUILD_DIR] [TRANSPORT...]    (default grpc-rere http)
"""

import sys

import bench


def main() -> None:
    limit = 2 * bench.ADAPTER_BYTES + 64 * bench.MIB
    transports = [text for text in sys.argv[1:] if text in ("grpc-rere", "http", "grpc-adapter")] or ["grpc-rere", "http"]
    bench.title(f"server peak RSS over idle: adapter rounds, at most 2 x adapter + 64 MiB = {limit / bench.MIB:.0f} MiB")
    for transport in transports:
        for nodes in (2, 16, 64):
            run = bench.run_ours("adapter", nodes, 3, transport, processes_of_nodes=nodes <= 16)
            done, ready = run["done"], run["ready"]
            over = done["peak_rss_bytes"] - done["loaded_rss_bytes"]
            bench.line(f"{transport}, {nodes} nodes", f"{over / bench.MIB:.0f} MiB",
                       f"{bench.verdict(over <= limit)}; over the bare server {(done['peak_rss_bytes'] - ready['rss_bytes']) / bench.MIB:.0f} MiB")


if __name__ == "__main__":
    main()
