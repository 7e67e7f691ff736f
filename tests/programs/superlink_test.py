"""fedumm-superlink as a host of apps: flags, ports, its SuperExec, stopping. Usage: superlink_test.py FEDUMM_SUPERLINK REPOSITORY"""
import http.client
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
# Stands in for flower-superexec: writes down how it was called, starts a child as that does, and waits.
SUPEREXEC = '''#!/bin/sh
echo "$$ $@" >> "$0.calls"
sleep 600 &
echo $! >> "$0.children"
wait
'''


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_running(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


class Server:
    """One that listens on free ports. Stopped at the end, whatever happens."""

    def __init__(self, folder, *arguments):
        self.ports_file, self.out = folder / 'ports', folder / 'out'
        self.out_file = self.out.open('w')
        self.process = subprocess.Popen(
            [PROGRAM, '--insecure', '--fleet-api-address', '127.0.0.1:0', '--control-api-address', '127.0.0.1:0',
             '--port-file', self.ports_file, *arguments],
            stdout=self.out_file, stderr=subprocess.STDOUT)

    def __enter__(self):
        wait_for(lambda: self.ports_file.exists() or self.process.poll() is not None)
        return self

    def __exit__(self, *unused):
        self.out_file.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ports(self):
        first, *others = self.ports_file.read_text().splitlines()
        return int(first), {name: int(port) for name, port in (line.split() for line in others)}

    def stop(self, how):
        self.process.send_signal(how)
        return self.process.wait(timeout=30)


class SuperLink(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def assertRefused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def superexec(self):
        path = self.folder / 'superexec'
        path.write_text(SUPEREXEC)
        path.chmod(0o755)
        return path

    def test_help_and_version(self):
        self.assertEqual(run('--help').returncode, 0)
        self.assertIn('fedumm', run('--version').stdout)

    def test_security_is_chosen_by_name(self):
        self.assertRefused(run(), '--insecure', '--ssl-certfile')
        file = str(REPOSITORY / 'README.md')
        self.assertRefused(run('--insecure', '--ssl-certfile', file, '--ssl-keyfile', file), 'exclude')
        self.assertRefused(run('--ssl-certfile', file), '--ssl-keyfile')
        self.assertRefused(run('--ssl-certfile', file, '--ssl-keyfile', file), '--ssl-ca-certfile')
        self.assertRefused(run('--insecure', '--supernode-keys', file), '--enable-supernode-auth')
        self.assertRefused(run('--ssl-certfile', file, '--ssl-keyfile', file, '--isolation', 'process'), 'certificate')

    def test_mistakes_are_one_line(self):
        self.assertRefused(run('--insecure', '--frobnicate'), 'frobnicate')
        self.assertRefused(run('--insecure', '--port', '65536'), '65536')
        self.assertRefused(run('--insecure', '--fleet-api-address', 'nowhere'), 'nowhere')
        self.assertRefused(run('--insecure', '--isolation', 'none'), 'none')
        self.assertRefused(run('--insecure', '--port', '0', '--control-api-address', '127.0.0.1:0'), '--port')
        self.assertRefused(run('--insecure', '--port', 'off', '--fleet-api-address', 'off'), 'off')
        self.assertRefused(run('--insecure', '--port', '0', '--fleet-api-address', 'off', '--superexec', '/no/such'), '/no/such')
        program = shutil.copy(PROGRAM, self.folder)  # without the others
        result = subprocess.run([program, '--insecure', '--config', 'x.toml'], capture_output=True, text=True, timeout=60)
        self.assertRefused(result, '--config', "'fedumm'")

    def test_serves_on_the_ports_that_it_writes_and_stops_cleanly(self):
        for how in (signal.SIGINT, signal.SIGTERM):
            (self.folder / 'ports').unlink(missing_ok=True)
            with Server(self.folder, '--isolation', 'process', '--grpc-adapter-address', '127.0.0.1:0') as server:
                grpc, others = server.ports()
                self.assertEqual(sorted(others), ['grpc-adapter', 'http'])
                self.assertEqual(len({grpc, *others.values()}), 3)
                connection = http.client.HTTPConnection('127.0.0.1', others['http'], timeout=30)
                connection.request('GET', '/health')
                self.assertEqual(connection.getresponse().status, 200)
                connection.close()
                self.assertIn(f'127.0.0.1:{others["http"]}', server.out.read_text())
                self.assertEqual(server.stop(how), 0, server.out.read_text())

    def test_a_transport_that_is_off_is_left_out(self):
        with Server(self.folder, '--isolation', 'process', '--fleet-api-type', 'grpc-adapter') as server:
            grpc, others = server.ports()
            self.assertEqual((grpc, sorted(others)), (0, ['grpc-adapter', 'http']))
            self.assertEqual(server.stop(signal.SIGTERM), 0)

    def test_flags_of_flower_that_mean_nothing_here_are_accepted(self):
        with Server(self.folder, '--isolation', 'process', '--database', 'x.db', '--serverappio-api-address', '127.0.0.1:1',
                    '--disable-runtime-dependency-installation') as server:
            server.ports()
            self.assertEqual(server.stop(signal.SIGTERM), 0)

    def test_a_missing_superexec_is_said_once_and_nodes_are_served(self):
        path, os.environ['PATH'] = os.environ['PATH'], str(self.folder)
        try:
            with Server(self.folder) as server:
                server.ports()
                self.assertEqual(server.out.read_text().count('flower-superexec'), 2, server.out.read_text())
                self.assertEqual(server.stop(signal.SIGTERM), 0)
        finally:
            os.environ['PATH'] = path

    def test_the_superexec_is_started_again_and_goes_with_the_server(self):
        superexec = self.superexec()
        calls, children = superexec.with_name('superexec.calls'), superexec.with_name('superexec.children')
        with Server(self.folder, '--superexec', superexec) as server:
            _, others = server.ports()
            self.assertTrue(wait_for(children.exists))
            pid, *arguments = calls.read_text().split()
            self.assertEqual(arguments, ['--runtime-api-address', f'127.0.0.1:{others["http"]}', '--insecure',
                                         '--parent-pid', str(server.process.pid)])
            first_child = int(children.read_text())
            os.kill(int(pid), signal.SIGKILL)
            self.assertTrue(wait_for(lambda: len(children.read_text().split()) == 2), server.out.read_text())
            self.assertTrue(wait_for(lambda: not is_running(first_child)), 'what a dead SuperExec started is ended')
            self.assertEqual(server.stop(signal.SIGTERM), 0)
            last = [calls.read_text().splitlines()[-1].split()[0], children.read_text().split()[-1]]
            self.assertTrue(wait_for(lambda: not any(is_running(pid) for pid in last)))

    def test_an_idle_server_is_small(self):
        with Server(self.folder, '--isolation', 'process') as server:
            server.ports()
            status = pathlib.Path(f'/proc/{server.process.pid}/status').read_text()
            rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmRSS'))
            if b'__asan_init' in PROGRAM.read_bytes() or b'__tsan_init' in PROGRAM.read_bytes():
                self.skipTest('sanitizers take memory')
            self.assertLess(rss, 40 * 1024)


sys.argv[1:] = []
os.environ.pop('COLUMNS', None)
unittest.main(verbosity=2)
