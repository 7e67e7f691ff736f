"""Bytes on the loopback device for each payload byte of an adapter round, TCP and IP headers and all.

Usage: wire_bytes.py [BUILD_DIR]    (counts the whole machine's loopback traffic unless a network namespace of its own can be had)
"""

import os
import shutil
import statistics
import subprocess
import sys

import bench

TARGET = 1.02


def main() -> None:
    if "FEDUMM_OWN_NETWORK" not in os.environ and shutil.which("unshare") and shutil.which("ip"):
        inner = f"ip link set lo up && FEDUMM_OWN_NETWORK=1 exec {bench.command_text([sys.executable] + sys.argv)}"
        probe = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL, check=False)
        if probe.returncode == 0:
            sys.exit(subprocess.run(["unshare", "-rn", "sh", "-c", inner], check=False).returncode)
    bench.title("bytes on the wire / payload: adapter round, 4 C++ nodes")
    for transport in ("grpc-rere", "http"):
        rounds = bench.run_ours("adapter", 4, 4, transport)["rounds"][1:]
        ratio = statistics.median(event["loopback_bytes"] / event["payload_bytes"] for event in rounds)
        bench.line(f"fedumm, {transport}", f"{ratio:.4f}", f"at most {TARGET}: {bench.verdict(ratio <= TARGET)}")


if __name__ == "__main__":
    main()
