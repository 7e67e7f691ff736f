"""What more virtual clients cost in one process: peak memory of `fedumm simulate` with the demo's model and 1, 16 and 1,000 clients on one backbone.

Usage: virtual_clients.py [BUILD_DIR] [--clients 1,16,1000]

Two rounds of one local step for each client, all clients in every round, without evaluation. The optimizers' states go to the run's folder.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import bench

TARGET = 1.5  # times one client's peak

CONFIG = """
[federation]
clients = {clients}
rounds = 2
min-available-nodes = {clients}
quorum = {clients}
[data]
partitioner = "iid"
min-size = 1
[train]
local-steps = 1
"""


def play(clients: int) -> dict:
    """Runs in a process of its own, whose only child is measured."""
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "run.toml")
        with open(config, "w") as file:
            file.write(CONFIG.format(clients=clients))
        began = time.monotonic()
        subprocess.run([bench.program("programs", "fedumm"), "simulate", config, "--run-dir", os.path.join(folder, "run"), "--no-evaluate"], check=True,
                       stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        spilled = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(os.path.join(folder, "run")) for name in names)
    return {"peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, "seconds": seconds, "spilled": spilled}


def measured(clients: int) -> dict:
    code = f"import json, virtual_clients; print(json.dumps(virtual_clients.play({clients})))"
    environment = os.environ | {"PYTHONPATH": bench.HERE, "FEDUMM_BUILD": bench.build_dir()}
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?")
    parser.add_argument("--clients", default="1,16,1000")
    arguments = parser.parse_args()
    bench.title("virtual clients on one backbone, the demo's model")
    one = None
    for clients in map(int, arguments.clients.split(",")):
        figures = measured(clients)
        one = one or figures["peak"]
        bench.line(f"{clients} clients", f"{figures['peak'] / 1e6:.0f} MB", f"{figures['peak'] / one:.2f} times the first (target {TARGET}: "
                   f"{bench.verdict(figures['peak'] <= TARGET * one)}); {figures['seconds']:.0f} s, {figures['spilled'] / 1e6:.0f} MB in the run's folder")


if __name__ == "__main__":
    main()
