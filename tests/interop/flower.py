"""The stock Flower programs, by version: how each is started, and what it is told."""

import dataclasses
import json
import os
import pathlib

from processes import Failure, free_port

VERSIONS = ("1.28", "1.39", "1.42")


@dataclasses.dataclass
class Trust:
    """Files of one scenario's test CA; `certificate` and `key` are the server's. Beside each node key lies its `.pub`."""

    ca: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    node_keys: list


@dataclasses.dataclass
class Link:
    """A stock SuperLink: where nodes and the CLI reach it."""

    process: object
    fleet: int
    control: int


def venvs():
    deps = os.environ.get("FEDUMM_DEPS")
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return (pathlib.Path(deps) if deps else pathlib.Path(cache) / "fedumm" / "deps") / "venvs"


def venv(version):
    return venvs() / f"flwr{version.replace('.', '')}"


def program(version, name):
    return venv(version) / "bin" / name


def environment(version, home):
    """Each process group has its own settings, installed apps and state."""
    home.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{venv(version)}/bin:{os.environ['PATH']}",
    }


def start_superlink(scenario, version, trust=None, adapter=False):
    fleet, control, appio = free_port(), free_port(), free_port()
    if version == "1.28":
        argv = ["--serverappio-api-address", f"127.0.0.1:{appio}", "--fleet-api-address", f"127.0.0.1:{fleet}",
                "--control-api-address", f"127.0.0.1:{control}"]
    else:
        argv = ["--host", "127.0.0.1", "--port", control, "--disable-runtime-dependency-installation"]
        if version == "1.39":
            argv += ["--fleet-api-address", f"127.0.0.1:{fleet}"]
        else:
            fleet = control
    if adapter:
        argv += ["--fleet-api-type", "grpc-adapter"]
    if trust is None:
        argv.append("--insecure")
    else:
        argv += ["--ssl-ca-certfile", trust.ca, "--ssl-certfile", trust.certificate, "--ssl-keyfile", trust.key,
                 "--enable-supernode-auth"]
    process = scenario.start(f"superlink-{version}", [program(version, "flower-superlink"), *argv],
                             environment(version, scenario.folder / "superlink-home"))
    for port in {fleet, control}:
        scenario.wait_for_port(port, process)
    scenario.say(f"SuperLink {version} listens")
    return Link(process, fleet, control)


def start_supernode(scenario, version, port, partition, trust=None, key=None, adapter=False):
    name = f"node-{partition}-flwr-{version}"
    argv = ["--superlink", f"127.0.0.1:{port}", "--node-config", f'partition-id={partition} name="{name}"']
    own = free_port()
    argv += ["--clientappio-api-address", f"127.0.0.1:{own}"] if version == "1.28" else ["--host", "127.0.0.1", "--port", own]
    argv += ["--insecure"] if trust is None else ["--root-certificates", trust.ca]
    if key is not None:
        argv += ["--auth-supernode-private-key", key]
    if adapter:
        argv.append("--grpc-adapter")
    return scenario.start(name, [program(version, "flower-supernode"), *argv], environment(version, scenario.folder / f"{name}-home"))


def run_config(config):
    """As `--run-config` takes it."""
    return " ".join(f"{key.replace('_', '-')}={json.dumps(value)}" for key, value in config.items())


class Cli:
    """`flwr` of one version, told of one SuperLink."""

    def __init__(self, scenario, version, control, trust=None):
        self.scenario, self.version, self.calls = scenario, version, 0
        home = scenario.folder / f"cli-{version}-home"
        self.env = environment(version, home)
        security = "insecure = true" if trust is None else f'root-certificates = "{trust.ca}"'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{control}"\n{security}\n')

    def call(self, *argv):
        """The JSON object that a command prints, which must report success."""
        self.calls += 1
        process = self.scenario.start(f"flwr-{self.version}-{argv[0]}-{self.calls}", [program(self.version, "flwr"), *argv], self.env)
        code = self.scenario.wait_for_end(process)
        text = process.log()
        try:
            answer = json.loads(text[text.index("{"):])
        except ValueError:
            answer = {}
        if code != 0 or not answer.get("success"):
            raise Failure(f"flwr {argv[0]} of {self.version} failed with exit code {code}")
        return answer

    def run(self, app, **config):
        """Runs an app, to the end of the run; its last status."""
        self.calls += 1
        process = self.scenario.start(f"flwr-{self.version}-run-{self.calls}",
                                      [program(self.version, "flwr"), "run", app, "test", "--run-config", run_config(config), "--stream"],
                                      self.env)
        if (code := self.scenario.wait_for_end(process)) != 0:
            raise Failure(f"flwr run of {self.version} ended with exit code {code}")
        return self.last_status()

    def run_and_stop(self, app, **config):
        """Starts a run and stops it; its last status."""
        run = self.call("run", app, "test", "--run-config", run_config(config), "--format", "json")["run-id"]
        self.call("stop", run, "test", "--format", "json")
        return self.last_status()

    def last_status(self):
        return self.call("list", "test", "--format", "json")["runs"][0]["status"]

    def register(self, public_key):
        self.call("supernode", "register", public_key, "test", "--format", "json")

    def build(self, app):
        """A FAB of the app, as a file."""
        process = self.scenario.start(f"flwr-{self.version}-build", [program(self.version, "flwr"), "build", "--app", app], self.env)
        if self.scenario.wait_for_end(process) != 0:
            raise Failure("flwr build failed")
        return next(self.scenario.folder.glob("*.fab"))
