"""What a server and a node cost that do nothing, and how long the server takes to start.

Usage: idle.py [BUILD_DIR]
"""

import os
import statistics
import time

import bench


def start_seconds() -> tuple[float, int]:
    """From the start of the process to the first accepted connection on both ports; memory then."""
    with bench.Processes() as processes:
        superlink = os.path.join(bench.build_dir(), "programs", "fedumm-superlink")
        before = time.monotonic()
        if os.path.exists(superlink):
            http, fleet = bench.free_port(), bench.free_port()
            before = time.monotonic()
            server = processes.start([superlink, "--insecure", "--isolation", "process", "--host", "127.0.0.1", "--port", str(http),
                                      "--fleet-api-address", f"127.0.0.1:{fleet}"])
            bench.wait_for_port(fleet, server)
            bench.wait_for_port(http, server)
        else:
            server = processes.start([bench.federation_program(), "idle-server", "--http", "127.0.0.1:0"], pipe=True)
            next(bench.events(server))
        took = time.monotonic() - before
        time.sleep(0.5)
        return took, bench.status_bytes(server.pid, "VmRSS")


def node_bytes(transport: str) -> int:
    with bench.Processes() as processes:
        server = processes.start([bench.federation_program(), "idle-server", "--http", "127.0.0.1:0"], pipe=True)
        lines = bench.events(server)
        ready = next(lines)
        port = bench.port_of(ready, transport)
        node = processes.start([bench.federation_program(), "node", "--transport", transport, "--superlink", f"127.0.0.1:{port}"])
        next(lines)  # it is online
        time.sleep(0.5)
        return bench.status_bytes(node.pid, "VmRSS")


def main() -> None:
    bench.title("idle processes")
    starts = [start_seconds() for _ in range(7)]
    took = 1e3 * statistics.median(seconds for seconds, _ in starts)
    memory = max(rss for _, rss in starts) / bench.MIB
    bench.line("SuperLink, start to ready", f"{took:.0f} ms", f"under 100 ms: {bench.verdict(took < 100)}")
    bench.line("SuperLink, idle", f"{memory:.1f} MiB", f"under 40 MiB: {bench.verdict(memory < 40)}")
    for transport in ("grpc-rere", "http"):
        memory = node_bytes(transport) / bench.MIB
        bench.line(f"SuperNode (core only), {transport}, idle", f"{memory:.1f} MiB", f"under 25 MiB: {bench.verdict(memory < 25)}")


if __name__ == "__main__":
    main()
