"""Live federations of fedumm and the real Flower: one scenario per call.

Usage: interop_test.py SCENARIO --repository FOLDER --superlink PROGRAM --interop-superlink PROGRAM --interop-supernode PROGRAM

Exit code 77 means skipped: the peers are not installed (scripts/setup.sh). With FEDUMM_REQUIRE_PEERS=1 that is a failure.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
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

    def __init__(self, scenario, programs):
        self.scenario, self.programs, self.repository = scenario, programs, programs.repository
        self.app = scenario.folder / "app"
        shutil.copytree(self.repository / "tests/interop/app", self.app, ignore=shutil.ignore_patterns("__pycache__"))

    def start_our_node(self, port, partition, transport, *flags):
        name = f"node-{partition}-fedumm"
        argv = [self.programs.interop_supernode, "--superlink", f"127.0.0.1:{port}", "--transport", transport,
                "--node-config", f'partition-id={partition} name="{name}"', *(flags or ["--insecure"])]
        return self.scenario.start(name, argv, dict(os.environ))

    def start_our_superlink(self, program, *flags, trust=None, superexec="1.42"):
        """Serves all transports. Itself, and its ports by transport. A fedumm-superlink starts the flower-superexec of that version."""
        ports_file = self.scenario.folder / "ports"
        argv = [program, "--port-file", ports_file, "--fleet-api-address", "127.0.0.1:0", "--port", "0", "--verbose", *flags]
        if trust is None:
            argv += ["--grpc-adapter-address", "127.0.0.1:0", "--insecure"]
        else:
            keys_file = self.scenario.folder / "keys"
            keys_file.write_text("".join(pathlib.Path(f"{key}.pub").read_text() for key in trust.node_keys[:-1]))
            argv += ["--ssl-certfile", trust.certificate, "--ssl-keyfile", trust.key, "--enable-supernode-auth", "--supernode-keys", keys_file]
        env = flower.environment(superexec, self.scenario.folder / "superlink-home")
        process = self.scenario.start("superlink-fedumm", argv, env)
        self.scenario.wait("the SuperLink's ports", ports_file.exists, alive=[process])
        return process, dict(line.split() for line in ("grpc " + ports_file.read_text()).splitlines())

    def make_trust(self):
        """A CA, a server's certificate, and one node key more than there are nodes: a stranger's."""
        folder = self.scenario.folder / "certificates"
        subprocess.run([self.repository / "scripts/make_certificates.sh", folder, "--nodes", str(NODES + 1), "--quiet"], check=True)
        keys = [folder / f"node-{i + 1}" for i in range(NODES + 1)]
        return flower.Trust(folder / "ca.crt", folder / "server.crt", folder / "server.key", keys)

    def must_be_turned_away(self, port, transport, trust):
        """Our node gives up at once, with one clear line, at a server that it does not trust or that does not know it."""
        wrong_ca = self.scenario.folder / "other"
        subprocess.run([self.repository / "scripts/make_certificates.sh", wrong_ca, "--nodes", "1", "--quiet"], check=True)
        known = trust.node_keys[0]
        for partition, what, flags in (
            (90, "a fresh key", ["--root-certificates", trust.ca]),  # one of its own it would offer again for 75 s
            (91, "a wrong CA", ["--root-certificates", wrong_ca / "ca.crt", "--auth-supernode-private-key", known]),
            (92, "plaintext", ["--insecure"]),
        ):
            node = self.start_our_node(port, partition, transport, *flags)
            code = self.scenario.wait_for_end(node)
            check(f"that a node with {what} is turned away", code not in (0, None), True)
            self.scenario.say(f"{what}: exit code {code}: {node.log().splitlines()[-1]}")

    def run_app(self, cli, nodes):
        """`flwr run` to the end; the result is what it must be, and from these nodes."""
        out = self.scenario.folder / f"result-{cli.version}.json"
        status = cli.run(self.app, num_nodes=NODES, scale=SCALE, out=str(out))  # the rest are the bundle's defaults
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


def node_with(version, transport, trusted=False):
    """Our SuperNodes with a stock SuperLink, `flwr run` and ServerApp."""

    def scenario(federation):
        trust = federation.make_trust() if trusted else None
        link = flower.start_superlink(federation.scenario, version, trust, adapter=transport == "grpc-adapter")
        cli = flower.Cli(federation.scenario, version, link.control, trust)
        flags = [["--insecure"]] * NODES
        if trusted:
            flags = [["--root-certificates", trust.ca, "--auth-supernode-private-key", key] for key in trust.node_keys]
            for key in trust.node_keys[:NODES]:
                cli.register(f"{key}.pub")
            federation.must_be_turned_away(link.fleet, transport, trust)
        # The last one finds out by itself what the server speaks.
        transports = [transport] * (NODES - 1) + ["auto"]
        nodes = [federation.start_our_node(link.fleet, p, transports[p], *flags[p]) for p in range(NODES)]
        federation.run_app(cli, nodes)
        federation.leave(nodes)

    return {version}, scenario


def link_with(*versions, trusted=False, adapter=False):
    """Our SuperLink, with its ServerApp in C++, and a stock SuperNode of each of `versions`."""

    def scenario(federation):
        trust = federation.make_trust() if trusted else None
        fab = flower.Cli(federation.scenario, versions[-1], 0).build(federation.app)
        link, ports = federation.start_our_superlink(federation.programs.interop_superlink, "--fab", fab, "--nodes", len(versions),
                                                     trust=trust)
        nodes = []
        for partition, version in enumerate(versions):
            port = ports["grpc-adapter" if adapter else "http" if version == "1.42" else "grpc"]
            nodes.append(flower.start_supernode(federation.scenario, version, port, partition, trust,
                                                trust and trust.node_keys[partition], adapter))
        if trusted:
            stranger = flower.start_supernode(federation.scenario, "1.42", ports["http"], 99, trust, trust.node_keys[-1])
        federation.scenario.wait("the end of the run", lambda: "passed\n" in link.log(), alive=[link, *nodes])
        federation.scenario.say("the mean is exact")
        if trusted:
            check("that the stranger was turned away", federation.scenario.wait_for_end(stranger) != 0, True)
        federation.leave(nodes)
        federation.leave([link])
        check("nodes online at the end", link.log().splitlines()[-1], "online at the end: 0")

    return set(versions), scenario


def hosted_app(version):
    """An unmodified app on fedumm-superlink by `flwr run` and stock nodes; with 1.42 then again with C++ nodes beside one of them."""

    def scenario(federation):
        link, ports = federation.start_our_superlink(federation.programs.superlink, superexec=version)
        nodes = [flower.start_supernode(federation.scenario, peer, ports["http" if peer == "1.42" else "grpc"], partition)
                 for partition, peer in enumerate(("1.42", "1.28", "1.39"))]
        cli = flower.Cli(federation.scenario, version, ports["http"])
        federation.run_app(cli, nodes)
        # One that waits for nodes for ever, unless it is stopped.
        check("status of a stopped run", cli.run_and_stop(federation.app, num_nodes=99), "finished:stopped")
        if version == "1.42":
            federation.leave(nodes[1:])
            nodes[1:] = [federation.start_our_node(ports[port], partition, transport)
                         for partition, (port, transport) in enumerate((("http", "http"), ("grpc", "grpc-rere")), start=1)]
            federation.run_app(cli, nodes)
        federation.leave(nodes)
        federation.leave([link])

    return {"1.28", "1.39", "1.42"}, scenario


def fine_tuning(version):
    """`flwr run` of a ServerApp whose run config lacks most keys, over C++ nodes that fine-tune a model."""

    def scenario(federation):
        scenario, repository = federation.scenario, federation.repository
        programs = federation.programs.superlink.parent
        app = scenario.folder / "fine_tuning"
        shutil.copytree(repository / "tests/interop/fine_tuning", app, ignore=shutil.ignore_patterns("__pycache__"))
        # An adapter to begin with.
        settings, run = scenario.folder / "run.toml", scenario.folder / "run"
        settings.write_text(f'[federation]\nclients = 2\nrounds = 1\n[model]\ncheckpoint = "{repository}/configs/tiny"\n'
                            '[data]\nmin-size = 1\n[train]\ntasks = "draw"\nlocal-steps = 1\n')
        simulation = scenario.start("simulate", [programs / "fedumm", "simulate", settings, "--run-dir", run, "--no-evaluate"],
                                    dict(os.environ))
        check("exit code of the simulation", scenario.wait_for_end(simulation), 0)

        link, ports = federation.start_our_superlink(federation.programs.superlink, superexec=version)
        nodes = [scenario.start(f"node-{partition}-fedumm",
                                [programs / "fedumm-supernode", "--insecure", "--superlink", f"127.0.0.1:{ports['http']}",
                                 "--transport", "http", "--checkpoint", repository / "configs/tiny",
                                 "--node-config", f"partition-id={partition} num-partitions=2"], dict(os.environ))
                 for partition in range(2)]
        out = scenario.folder / "result.json"
        cli = flower.Cli(scenario, version, ports["http"])
        status = cli.run(app, adapter=str(run / "adapter/adapter_model.safetensors"), out=str(out))
        check("status of the run", status, "finished:completed")
        result = json.loads(out.read_text())
        for number, replies in enumerate(result["rounds"], 1):
            check(f"replies of round {number}", sorted(reply["partition-id"] for reply in replies), [0, 1])
            check(f"that round {number} trained", all(reply["draw-loss"] > 0 for reply in replies), True)
        check("number of rounds", len(result["rounds"]), 2)
        check("that the adapter moved", result["moved"] > 0, True)
        for node in nodes:
            notes = [line for line in node.log().splitlines() if "lack some keys" in line]
            check(f"notes of {node.name}", len(notes), 1)
            for text in ("train.learning-rate = 0.005", "lora.r = 6", "data.alpha = 0.5"):
                check(f"that {text} was filled in and told", text in notes[0], True)
            check("that local-steps was given", "local-steps" in notes[0], False)
        scenario.say("both nodes trained with the defaults that they named")
        federation.leave(nodes)
        federation.leave([link])

    return {version}, scenario


# Name -> the peers' versions and the scenario.
SCENARIOS = {
    "link_with_all": link_with("1.28", "1.39", "1.42"),
    "link_with_tls_and_keys": link_with("1.28", "1.39", "1.42", trusted=True),
    "hosted_app_1.39": hosted_app("1.39"),
    "hosted_app_1.42": hosted_app("1.42"),
    "fine_tuning_1.42": fine_tuning("1.42"),
    "link_with_grpc_adapter": link_with("1.28", "1.28", "1.39", adapter=True),
    "node_with_1.28": node_with("1.28", "grpc-rere"),
    "node_with_1.39": node_with("1.39", "grpc-rere"),
    "node_with_1.42": node_with("1.42", "http"),
    "node_with_1.39_tls_and_keys": node_with("1.39", "grpc-rere", trusted=True),
    "node_with_1.42_tls_and_keys": node_with("1.42", "http", trusted=True),
    "node_with_1.28_grpc_adapter": node_with("1.28", "grpc-adapter"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    for option in ("--repository", "--superlink", "--interop-superlink", "--interop-supernode"):
        parser.add_argument(option, type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    versions, scenario = SCENARIOS[arguments.scenario]
    for version in sorted(versions):
        if not flower.program(version, "flower-superlink").exists():
            print(f"Flower {version} is not installed in {flower.venvs()}: run scripts/setup.sh")
            return 1 if os.environ.get("FEDUMM_REQUIRE_PEERS") == "1" else SKIPPED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaves through Scenario.__exit__
    try:
        with Scenario(SECONDS) as owner:
            scenario(Federation(owner, arguments))
            owner.say("passed")
    except Failure:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
