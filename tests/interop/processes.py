"""Child processes of one scenario: started in a temporary folder, waited for by condition, all of them gone in the end."""

import contextlib
import ctypes
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class Failure(Exception):
    """The scenario went wrong; the text says how."""


class Process:
    """A child in a session of its own, with its output in a file."""

    def __init__(self, name, argv, env, folder):
        self.name = name
        self.log_path = folder / f"{name}.log"
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen([str(a) for a in argv], env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL, start_new_session=True)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def exit_code(self):
        """None while it runs."""
        return self.popen.poll()

    def interrupt(self):
        if self.exit_code() is None:
            self.popen.send_signal(signal.SIGINT)


class Scenario:
    """Owns the folder, the children and the time of one scenario."""

    def __init__(self, seconds):
        self.deadline = time.monotonic() + seconds
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fedumm-interop-"))
        self.processes = []
        self.began = time.monotonic()
        become_subreaper()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None:
            self.say(f"failed: {error}")
        self.kill_all()
        if kind is not None:
            for process in self.processes:
                lines = [line for line in process.log().splitlines() if "uvicorn.access" not in line][-60:]
                print(f"--- {process.name} (exit code {process.exit_code()}), the last {len(lines)} lines", *lines, sep="\n", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def start(self, name, argv, env):
        process = Process(name, argv, env, self.folder)
        self.processes.append(process)
        return process

    def wait(self, what, condition, alive=()):
        """Returns condition()'s first true value. Fails when time is up or one of `alive` has ended."""
        while True:
            if value := condition():
                return value
            for process in alive:
                if process.exit_code() is not None:
                    if value := condition():
                        return value
                    raise Failure(f"{process.name} ended with exit code {process.exit_code()} while waiting for {what}")
            if time.monotonic() > self.deadline:
                raise Failure(f"no time left while waiting for {what}")
            time.sleep(0.05)

    def wait_for_port(self, port, process):
        self.wait(f"{process.name} to listen on port {port}", lambda: accepts(port), alive=[process])

    def wait_for_end(self, process):
        """Its exit code."""
        self.wait(f"{process.name} to end", lambda: process.exit_code() is not None)
        return process.exit_code()

    def stop(self, processes, seconds=20):
        """Asks them to leave; fails if one does not within the time."""
        for process in processes:
            process.interrupt()
        end = time.monotonic() + seconds
        for process in processes:
            while process.exit_code() is None:
                if time.monotonic() > end:
                    raise Failure(f"{process.name} did not leave within {seconds} s")
                time.sleep(0.05)

    def kill_all(self):
        """Children, their sessions, and whatever they left behind, which has become ours."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.popen.pid, signal.SIGKILL)
            process.popen.wait()
        for _ in range(100):
            orphans = descendants()
            if not orphans:
                return
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0] != 0:
                    pass
            time.sleep(0.02)


def become_subreaper():
    """Grandchildren whose parent ends become our children, so that none is lost."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def descendants():
    """Pids of all processes below this one."""
    parent = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = set(), {os.getpid()}
    while new:
        new = {pid for pid, above in parent.items() if above in new} - found
        found |= new
    return found


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


given_ports = set()


def free_port():
    """Below the range from which the kernel takes the ports of outgoing connections, so that none of those takes it first."""
    while True:
        port = random.randrange(10_000, 32_000)
        if port in given_ports:
            continue
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        given_ports.add(port)
        return port
