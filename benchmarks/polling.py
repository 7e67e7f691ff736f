"""1,000 nodes that wait for work: errors, and memory and CPU of the server.

Usage: polling.py [BUILD_DIR] [--nodes N] [--seconds N]
"""

import argparse
import time

import bench


def poll(transport: str, nodes: int, seconds: float) -> None:
    address = ["--http", "127.0.0.1:0"] if transport == "http" else []
    with bench.Processes() as processes:
        server = processes.start([bench.federation_program(), "idle-server"] + address, pipe=True)
        lines = bench.events(server)
        ready = next(lines)
        client = processes.start([bench.federation_program(), "node", "--count", str(nodes), "--transport", transport, "--superlink",
                                  f"127.0.0.1:{bench.port_of(ready, transport)}"], pipe=True)
        before = time.monotonic()
        next(bench.events(client))
        while next(lines)["nodes"] < nodes:
            pass
        joined = time.monotonic() - before
        time.sleep(2)
        rss, cpu = bench.status_bytes(server.pid, "VmRSS"), bench.cpu_seconds(server.pid)
        time.sleep(seconds)
        grown = bench.status_bytes(server.pid, "VmRSS") - rss
        used = (bench.cpu_seconds(server.pid) - cpu) / seconds
        client.terminate()
        failures = next(bench.events(client))["failures"]
        bench.line(f"{transport}: {nodes} nodes joined in", f"{joined:.1f} s")
        bench.line(f"{transport}: failed calls in {seconds:.0f} s", str(failures), bench.verdict(failures == 0))
        bench.line(f"{transport}: server memory", f"{rss / bench.MIB:.0f} MiB", f"{(rss - ready['rss_bytes']) / nodes / 1024:.0f} KiB a node; "
                   f"then {grown / bench.MIB:+.1f} MiB")
        bench.line(f"{transport}: server CPU", f"{100 * used:.1f} %", "of one core")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    bench.title(f"{options.nodes} nodes polling for {options.seconds:.0f} s")
    for transport in ("grpc-rere", "http"):
        poll(transport, options.nodes, options.seconds)


if __name__ == "__main__":
    main()
