"""What the benchmark scripts share: processes and their memory and CPU, our federation, and Flower's.

Every script takes the build folder as its first argument, or from FEDUMM_BUILD (default build/release). Flower's virtual environments flwr128,
flwr139 and flwr142 are looked for in FEDUMM_PEERS, then in $FEDUMM_DEPS/venvs and ~/.cache/fedumm/deps/venvs.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
ADAPTER_BYTES = 288 * 16 * 1600 * 4


# No script hangs: the longest takes some minutes.
signal.signal(signal.SIGALRM, lambda *_: sys.exit("out of time"))
signal.alarm(40 * 60)


def build_dir() -> str:
    given = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else os.environ.get("FEDUMM_BUILD", "build/release")
    return os.path.abspath(given)


def program(*path: str) -> str:
    found = os.path.join(build_dir(), *path)
    if not os.path.exists(found):
        sys.exit(f"{found} is not built (configure with -DFEDUMM_BUILD_BENCHMARKS=ON)")
    return found


def federation_program() -> str:
    return program("benchmarks", "adapter_federation")


def peer(version: str) -> str | None:
    """The virtual environment of a Flower version, such as "1.42"; None if it is not installed."""
    name = "flwr" + version.replace(".", "")
    deps = os.environ.get("FEDUMM_DEPS", os.path.expanduser("~/.cache/fedumm/deps"))
    for folder in (os.environ.get("FEDUMM_PEERS"), os.path.join(deps, "venvs"), os.path.expanduser("~/.cache/fedumm-peers")):
        if folder and os.path.exists(os.path.join(folder, name, "bin", "flower-superlink")):
            return os.path.join(folder, name)
    return None


def machine() -> str:
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} before the run"


def title(text: str) -> None:
    print(f"\n{text}\n  machine: {machine()}", flush=True)


def line(name: str, value: str, note: str = "") -> None:
    print(f"  {name:<52} {value:>14}  {note}", flush=True)


def verdict(ok: bool) -> str:
    return "reached" if ok else "MISSED"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def status_bytes(pid: int, name: str) -> int:
    """VmRSS (memory now) or VmHWM (its peak) of a process."""
    for entry in open(f"/proc/{pid}/status"):
        if entry.startswith(name + ":"):
            return int(entry.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loopback_bytes() -> int:
    entry = next(text for text in open("/proc/net/dev") if text.strip().startswith("lo:"))
    return int(entry.split(":")[1].split()[0])


class Processes:
    """Started processes, each the leader of its own group; all are ended when the block is left."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="fedumm-bench-")
        self.running: list[subprocess.Popen] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.running):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if error[0] is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"logs are in {self.folder}", file=sys.stderr)

    def start(self, command: list[str], env: dict[str, str] | None = None, pipe: bool = False) -> subprocess.Popen:
        log = open(os.path.join(self.folder, f"{len(self.running)}-{os.path.basename(command[0])}.log"), "wb")
        process = subprocess.Popen(command, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if pipe else log,
                                   stderr=log if pipe else subprocess.STDOUT, start_new_session=True, text=pipe)
        log.close()
        self.running.append(process)
        return process


def port_of(ready: dict, transport: str) -> int:
    port = ready[{"grpc-rere": "fleet_port", "grpc-adapter": "grpc_adapter_port", "http": "http_port"}[transport]]
    if port == 0:
        raise RuntimeError(f"the server does not serve {transport}")
    return port


def events(process: subprocess.Popen) -> "contextlib.Iterator[dict]":
    for text in process.stdout:
        yield json.loads(text)


def run_ours(work: str, nodes: int, rounds: int, transport: str = "grpc-rere", processes_of_nodes: bool = True) -> dict:
    """Plays rounds between a server process and node processes; returns what the server printed."""
    address = {"grpc-rere": "fleet", "grpc-adapter": "adapter", "http": "http"}[transport]
    with Processes() as processes:
        before = time.monotonic()
        server = processes.start([federation_program(), "server", "--work", work, "--nodes", str(nodes), "--rounds", str(rounds),
                                  f"--{address}", "127.0.0.1:0"], pipe=True)
        lines = events(server)
        ready = next(lines)
        ready_s = time.monotonic() - before
        port = port_of(ready, transport)
        node = [federation_program(), "node", "--transport", transport, "--superlink", f"127.0.0.1:{port}"]
        for index in range(nodes if processes_of_nodes else 1):
            processes.start(node + (["--index", str(index)] if processes_of_nodes else ["--count", str(nodes)]))
        start = loopback_bytes()
        played = []
        for event in lines:
            if event["event"] == "round" and event["round"] > 0:
                now = loopback_bytes()
                played.append(event | {"loopback_bytes": now - start})
                start = now
            elif event["event"] == "round":
                start = loopback_bytes()
            elif event["event"] == "done":
                return {"ready": ready, "ready_s": ready_s, "rounds": played, "done": event}
        raise RuntimeError("the server ended early")


def milliseconds(rounds: list[dict]) -> tuple[float, float]:
    """Median and minimum. The first round also fills caches and connections: left out if there are others."""
    times = [event["ms"] for event in rounds[1:] or rounds]
    return statistics.median(times), min(times)


def floor_ms(nodes: int, work: str = "adapter") -> float:
    out = subprocess.run([federation_program(), "floor", "--work", work, "--nodes", str(nodes)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)["ms"]


def run_flower_app(version: str, work: str, nodes: int, rounds: int, server: str = "flower", limit_s: float = 900) -> dict:
    """`flwr run` of the app beside this file with stock nodes of that version, on Flower's own server or on "fedumm"'s.

    Returns seconds of each round and, of the server process alone, its CPU seconds and peak memory.
    """
    venv = peer(version)
    if venv is None:
        raise RuntimeError(f"Flower {version} is not installed: scripts/setup.sh peers")
    with Processes() as processes:
        home = os.path.join(processes.folder, "home")
        os.makedirs(home)
        env = os.environ | {"PATH": f"{venv}/bin:{os.environ['PATH']}", "FLWR_HOME": home, "FLWR_TELEMETRY_ENABLED": "0",
                            "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        port, fleet = free_port(), free_port()
        if server == "fedumm":
            command = [program("programs", "fedumm-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port),
                       "--fleet-api-address", f"127.0.0.1:{fleet}"]
        elif version == "1.28":
            control = free_port()
            command = ["flower-superlink", "--insecure", "--control-api-address", f"127.0.0.1:{control}", "--fleet-api-address", f"127.0.0.1:{fleet}",
                       "--serverappio-api-address", f"127.0.0.1:{port}"]
        else:
            command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
            command += ["--fleet-api-address", f"127.0.0.1:{fleet}"] if version == "1.39" else []
        superlink = processes.start([shutil.which(command[0], path=env["PATH"]) or command[0]] + command[1:], env=env)
        nodes_port = port if version == "1.42" else fleet
        wait_for_port(port, superlink)
        wait_for_port(nodes_port, superlink)
        for index in range(nodes):
            node_home = os.path.join(processes.folder, f"home{index}")
            os.makedirs(node_home)
            own = free_port()
            listen = ["--clientappio-api-address", f"127.0.0.1:{own}"] if version == "1.28" else ["--host", "127.0.0.1", "--port", str(own)]
            processes.start([f"{venv}/bin/flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{nodes_port}", "--node-config",
                             f"partition-id={index} num-partitions={nodes}"] + listen, env=env | {"FLWR_HOME": node_home})
        address = control if version == "1.28" and server != "fedumm" else port
        with open(os.path.join(home, "config.toml"), "w") as config:
            config.write(f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{address}"\ninsecure = true\n')
        app = shutil.copytree(os.path.join(HERE, "flower_app"), os.path.join(processes.folder, "app"))
        out = os.path.join(processes.folder, "stamps")
        run = subprocess.run([f"{venv}/bin/flwr", "run", app, "bench", "--run-config", f"rounds={rounds} nodes={nodes} work='{work}' out='{out}'"],
                             env=env, cwd=processes.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"flwr run failed: {run.stdout[-2000:]}")
        cpu = {}
        end = time.monotonic() + limit_s
        stamps: dict[int, float] = {}
        while len(stamps) <= rounds:
            if time.monotonic() > end or superlink.poll() is not None:
                raise RuntimeError(f"no end after {len(stamps)} stamps of {rounds + 1}")
            time.sleep(0.05)
            if os.path.exists(out):
                stamps = {int(number): float(at) for number, at in (text.split() for text in open(out).read().splitlines())}
                cpu.setdefault(len(stamps), cpu_seconds(superlink.pid))
        return {"seconds": [stamps[i + 1] - stamps[i] for i in range(rounds)], "server_cpu_s": cpu[max(cpu)] - cpu[min(cpu)],
                "server_cpu_rounds": max(cpu) - min(cpu), "peak_rss_bytes": status_bytes(superlink.pid, "VmHWM")}


def command_text(command: list[str]) -> str:
    return shlex.join(command)
