"""Live federations of fedumm and the real Flower: one scenario per call.

Usage: interop_test.py SCENARIO --programs FOLDER --repository FOLDER

Exit code 77 means skipped: the peers are not installed (scripts/setup.sh). With FEDUMM_REQUIRE_PEERS=1 that is a failure.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys

import flower
from processes import Failure, Scenario

SECONDS = 180  # of one scenario
NODES = 3
SCALE = 0.25
SKIPPED = 77


def check(what, actual, expected):
    if actual != expected:
        raise Failure(f"{what} is {actual!r}, not {expected!r}")


class Federation:
    """What the scenarios start and check."""

    def __init__(self, scenario, programs, repository):
        self.scenario, self.programs, self.repository = scenario, programs, repository
        self.app = scenario.folder / "app"
        shutil.copytree(repository / "tests/interop/app", self.app, ignore=shutil.ignore_patterns("__pycache__"))

    def start_our_node(self, port, partition, transport, *flags):
        name = f"node-{partition}-fedumm"
        argv = [self.programs / "interop_supernode", "--superlink", f"127.0.0.1:{port}", "--transport", transport,
                "--node-config", f'partition-id={partition} name="{name}"', *(flags or ["--insecure"])]
        return self.scenario.start(name, argv, dict(os.environ))

    def run_app(self, cli, nodes):
        """`flwr run` to the end; the result is what it must be, and from these nodes."""
        out = self.scenario.folder / f"result-{cli.version}.json"
        status = cli.run(self.app, num_nodes=NODES, scale=SCALE, offset=1.0, greeting="hello", out=str(out))
        check("status of the run", status, "finished:completed")
        result = json.loads(out.read_text())
        # 2 rounds, each of which adds 0.25 * (1 * 1 + 3 * 2 + 4 * 3) / 8.
        check("final array", result["w"], [[1.1875, 2.1875, 3.1875], [4.1875, 5.1875, 6.1875]])
        check("nodes", result["names"], [node.name for node in nodes])
        self.scenario.say(f"flwr run {cli.version}: {status}, the mean is exact")

    def leave(self, nodes):
        self.scenario.stop(nodes)
        for node in nodes:
            check(f"exit code of {node.name}", node.exit_code(), 0)


def node_with(version, transport):
    """Our SuperNodes with a stock SuperLink, `flwr run` and ServerApp."""

    def scenario(federation):
        link = flower.start_superlink(federation.scenario, version)
        nodes = [federation.start_our_node(link.fleet, p, transport) for p in range(NODES)]
        federation.run_app(flower.Cli(federation.scenario, version, link.control), nodes)
        federation.leave(nodes)

    return {version}, scenario


# Name -> the peers' versions and the scenario.
SCENARIOS = {
    "node_with_1.28": node_with("1.28", "grpc-rere"),
    "node_with_1.39": node_with("1.39", "grpc-rere"),
    "node_with_1.42": node_with("1.42", "http"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--repository", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    versions, scenario = SCENARIOS[arguments.scenario]
    for version in sorted(versions):
        if not flower.program(version, "flower-superlink").exists():
            print(f"Flower {version} is not installed in {flower.venvs()}: run scripts/setup.sh")
            return 1 if os.environ.get("FEDUMM_REQUIRE_PEERS") == "1" else SKIPPED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaves through Scenario.__exit__
    try:
        with Scenario(SECONDS) as owner:
            scenario(Federation(owner, arguments.programs, arguments.repository))
            owner.say("passed")
    except Failure:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
