"""What a round with N virtual clients costs beside their training: ours beside pfl's SimulatedBackend, interleaved.

Usage: simulation.py [BUILD_DIR] [--clients 16,100,1000] [--pfl PYTHON]

PYTHON is the interpreter of an environment with pfl[pytorch]==0.6.0; without it pfl's figures are left out. A client adds a constant to 288 arrays
(7,372,800 float32, 29.5 MB). Each figure is the best round of two runs, the first round of a run left out.
"""

import argparse
import json
import os
import subprocess

import bench

TARGET_RATIO = 5
TARGET_BYTES = 200e6
ROUNDS = {16: 6, 100: 4, 1000: 3}


def ours(clients: int, rounds: int) -> dict:
    command = [bench.federation_program(), "simulate", "--nodes", str(clients), "--rounds", str(rounds)]
    events = [json.loads(text) for text in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]
    played = [event for event in events if event["event"] == "round"][1:]
    return {"ms": [event["ms"] for event in played], "cpu_ms": [event["cpu_ms"] for event in played], "peak_rss_bytes": events[-1]["peak_rss_bytes"]}


def pfl(python: str, clients: int, rounds: int) -> dict:
    command = [python, os.path.join(bench.HERE, "pfl_simulation.py"), str(clients), str(rounds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def best(runs: list[dict], key: str) -> float:
    return min(value for run in runs for value in run[key][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?")
    parser.add_argument("--clients", default="16,100,1000")
    parser.add_argument("--pfl", metavar="PYTHON")
    arguments = parser.parse_args()
    bench.title("a round with virtual clients, without their training")
    for clients in map(int, arguments.clients.split(",")):
        rounds = ROUNDS.get(clients, 3)
        runs, peer_runs = [], []
        for _ in range(2):
            runs.append(ours(clients, rounds))
            if arguments.pfl:
                peer_runs.append(pfl(arguments.pfl, clients, rounds))
        peak = max(run["peak_rss_bytes"] for run in runs)
        bench.line(f"{clients} clients", f"{best(runs, 'ms') / 1e3:.2f} s", f"{best(runs, 'ms') / clients:.1f} ms a client, CPU {best(runs, 'cpu_ms') / 1e3:.2f} s")
        bench.line("  peak memory", f"{peak / 1e6:.0f} MB", f"under 200 MB: {bench.verdict(peak < TARGET_BYTES)}")
        if peer_runs:
            ratio = best(peer_runs, "ms") / best(runs, "ms")
            bench.line("  pfl 0.6.0", f"{best(peer_runs, 'ms') / 1e3:.2f} s", f"CPU {best(peer_runs, 'cpu_ms') / 1e3:.2f} s, peak "
                       f"{max(run['peak_rss_bytes'] for run in peer_runs) / 1e6:.0f} MB; {ratio:.1f} times ours: {bench.verdict(ratio >= TARGET_RATIO)}")


main()
