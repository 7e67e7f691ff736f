"""fedumm-superlink as a host of apps: flags, ports, its SuperExec, stopping. Usage: superlink_test.py FEDUMM_SUPERLINK REPOSITORY"""
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
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
# Each flag of --help, and the test that uses it and sees a difference.
EFFECTS = {
    '--help': 'test_help_and_version',
    '--version': 'test_help_and_version',
    '--config': 'test_mistakes_are_one_line',
    '--insecure': 'test_security_is_chosen_by_name',
    '--ssl-certfile': 'test_tls_flags_take_effect',
    '--ssl-keyfile': 'test_tls_flags_take_effect',
    '--ssl-ca-certfile': 'test_tls_flags_take_effect',
    '--ssl-client-ca-certfile': 'test_tls_flags_take_effect',
    '--host': 'test_host_is_an_ipv6_address_with_or_without_brackets',
    '--port': 'test_host_is_an_ipv6_address_with_or_without_brackets',
    '--control-api-address': 'test_serves_on_the_ports_that_it_writes_and_stops_cleanly',
    '--fleet-api-address': 'test_serves_on_the_ports_that_it_writes_and_stops_cleanly',
    '--fleet-api-type': 'test_a_transport_that_is_off_is_left_out',
    '--grpc-adapter-address': 'test_serves_on_the_ports_that_it_writes_and_stops_cleanly',
    '--enable-supernode-auth': 'test_known_keys_are_asked_for_and_read_again',
    '--supernode-keys': 'test_known_keys_are_asked_for_and_read_again',
    '--allow-remote-control': 'test_remote_control_is_allowed_by_its_flag_only',
    '--port-file': 'test_serves_on_the_ports_that_it_writes_and_stops_cleanly',
    '--verbose': 'test_the_descriptor_limit_is_raised_to_the_hard_one',
    '--isolation': 'test_flags_that_cannot_take_effect_are_refused_by_name',
    '--superexec': 'test_the_superexec_is_started_again_and_goes_with_the_server',
    '--allow-runtime-dependency-installation': 'test_tls_flags_take_effect',
    '--serverappio-api-address': 'test_flags_that_cannot_take_effect_are_refused_by_name',
    '--database': 'test_flags_that_cannot_take_effect_are_refused_by_name',
    '--disable-runtime-dependency-installation': 'test_flags_that_cannot_take_effect_are_refused_by_name',
}


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


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
        return True
    except OSError:
        return False


class Server:
    """One that listens on free ports. Stopped at the end, whatever happens."""

    def __init__(self, folder, *arguments, security=('--insecure',), address='127.0.0.1:0', stdout=None, **options):
        self.ports_file, self.out = folder / 'ports', folder / 'out'
        self.ports_file.unlink(missing_ok=True)
        self.out_file = self.out.open('w')
        http_flags = [] if address is None else ['--control-api-address', address]
        self.process = subprocess.Popen(
            [PROGRAM, *security, '--fleet-api-address', '127.0.0.1:0', *http_flags, '--port-file', self.ports_file, *arguments],
            stdout=stdout or self.out_file, stderr=subprocess.STDOUT, **options)

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

    def certificates(self):
        """Files of an authority and of a certificate that it signed for localhost: certificate and key of each."""
        ca, ca_key, certificate, key = (self.folder / name for name in ('ca.crt', 'ca.key', 'server.crt', 'server.key'))
        new = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
        subprocess.run([*new, '-subj', '/CN=test CA', '-keyout', ca_key, '-out', ca], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([*new, '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-addext', 'basicConstraints=critical,CA:FALSE',
                        '-CA', ca, '-CAkey', ca_key, '-keyout', key, '-out', certificate], check=True, stderr=subprocess.DEVNULL)
        return ca, ca_key, certificate, key

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
        self.assertRefused(run('--insecure', '--port', '\x1b[31m'), '\\x1b[31m')
        self.assertRefused(run('--insecure', '--host', '[a]'), '--host', '[a]')
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

    def test_flags_of_flower_are_accepted_where_they_ask_for_what_is_so(self):
        with Server(self.folder, '--isolation', 'process', '--database', ':memory:', '--serverappio-api-address', '127.0.0.1:0',
                    '--disable-runtime-dependency-installation') as server:
            server.ports()
            self.assertEqual(server.stop(signal.SIGTERM), 0)

    def test_flags_that_cannot_take_effect_are_refused_by_name(self):
        file = str(REPOSITORY / 'README.md')
        for flags, *words in (
                (['--database', 'state.db'], '--database', 'state.db', ':memory:'),
                (['--serverappio-api-address', '127.0.0.1:9091'], '--serverappio-api-address', '--host'),
                (['--disable-runtime-dependency-installation', '--allow-runtime-dependency-installation'], 'xclude'),
                (['--ssl-ca-certfile', file], '--insecure', 'certificates'),
                (['--ssl-client-ca-certfile', file], '--insecure', 'certificates'),
                (['--isolation', 'process', '--superexec', 'x'], '--superexec'),
                (['--isolation', 'process', '--allow-runtime-dependency-installation'], '--allow-runtime-dependency-installation'),
                (['--port', 'off', '--isolation', 'subprocess'], '--isolation'),
                (['--port', 'off', '--host', '127.0.0.1'], '--host'),
                (['--port', 'off', '--allow-remote-control'], '--allow-remote-control'),
                (['--control-api-address', '127.0.0.1:0', '--host', '127.0.0.1'], '--host')):
            with self.subTest(flags):
                self.assertRefused(run('--insecure', *flags), *words)
        self.assertRefused(run('--ssl-ca-certfile', file), '--ssl-certfile')

    def test_every_flag_of_help_is_used_by_a_test_that_sees_its_effect(self):
        flags = set(re.findall(r'^ +(?:-\w,)?(--[a-z-]+)', run('--help').stdout, re.MULTILINE))
        self.assertEqual(flags, set(EFFECTS))
        for test in EFFECTS.values():
            self.assertTrue(callable(getattr(self, test)), test)

    def test_host_is_an_ipv6_address_with_or_without_brackets(self):
        if not has_ipv6():
            self.skipTest('this machine has no IPv6')
        superexec = self.superexec()
        calls = superexec.with_name('superexec.calls')
        for host, connect in (('::1', '[::1]'), ('[::1]', '[::1]'), ('::', '[::1]'), ('0.0.0.0', '127.0.0.1')):
            calls.unlink(missing_ok=True)
            with Server(self.folder, '--host', host, '--port', '0', '--superexec', superexec, address=None) as server:
                _, others = server.ports()
                listens = '[::]' if host == '::' else host if host == '0.0.0.0' else '[::1]'
                self.assertIn(f'HTTP {listens}:{others["http"]}', server.out.read_text())
                self.assertTrue(wait_for(lambda: calls.exists() and calls.read_text().endswith('\n')))
                self.assertIn(f'--runtime-api-address {connect}:{others["http"]} ', calls.read_text())
                self.assertEqual(server.stop(signal.SIGTERM), 0)

    def test_remote_control_is_allowed_by_its_flag_only(self):
        for flags, refused in (((), True), (('--allow-remote-control',), False)):
            with Server(self.folder, '--isolation', 'process', *flags) as server:
                connection = http.client.HTTPConnection('127.0.0.1', server.ports()[1]['http'], timeout=30)
                connection.request('POST', '/v1/control/list-runs', b'', {'X-Forwarded-For': '203.0.113.1', 'Content-Type': 'application/protobuf'})
                self.assertEqual(connection.getresponse().status == 403, refused)
                connection.close()

    def test_tls_flags_take_effect(self):
        ca, ca_key, certificate, key = self.certificates()
        superexec = self.superexec()
        with Server(self.folder, '--ssl-certfile', certificate, '--ssl-keyfile', key, '--ssl-ca-certfile', ca, '--superexec', superexec,
                    '--allow-runtime-dependency-installation', security=()) as server:
            context = ssl.create_default_context(cafile=ca)
            connection = http.client.HTTPSConnection('localhost', server.ports()[1]['http'], timeout=30, context=context)
            connection.request('GET', '/health')
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()
            calls = superexec.with_name('superexec.calls')
            self.assertTrue(wait_for(lambda: calls.exists() and calls.read_text().endswith('\n')))
            self.assertIn(f'--root-certificates {ca} --allow-runtime-dependency-installation ', calls.read_text())
        with Server(self.folder, '--ssl-certfile', certificate, '--ssl-keyfile', key, '--ssl-client-ca-certfile', ca, '--isolation', 'process',
                    security=()) as server:
            for with_certificate in (False, True):
                context = ssl.create_default_context(cafile=ca)
                if with_certificate:
                    context.load_cert_chain(certificate, key)
                connection = http.client.HTTPSConnection('localhost', server.ports()[1]['http'], timeout=30, context=context)
                try:
                    connection.request('GET', '/health')
                    served = connection.getresponse().status == 200
                except OSError:
                    served = False
                self.assertEqual(served, with_certificate)
                connection.close()

    def test_known_keys_are_asked_for_and_read_again(self):
        _, _, certificate, key = self.certificates()
        line = (REPOSITORY / 'tests/data/keys/ssh_keygen_p256.pub').read_text()
        keys = self.folder / 'keys'
        keys.write_text('')
        with Server(self.folder, '--ssl-certfile', certificate, '--ssl-keyfile', key, '--enable-supernode-auth', '--supernode-keys', keys,
                    '--isolation', 'process', '--verbose', security=()) as server:
            connection = http.client.HTTPSConnection('localhost', server.ports()[1]['http'], timeout=30, context=ssl._create_unverified_context())
            connection.request('POST', '/v1/fleet/register-node', b'', {'Content-Type': 'application/protobuf'})
            response = connection.getresponse()
            self.assertEqual((response.status, json.loads(response.read())['code']), (412, 2001))  # registration is disabled
            connection.close()
            keys.write_text(line)
            self.assertTrue(wait_for(lambda: '1 keys may join now' in server.out.read_text()), server.out.read_text())

    def test_the_descriptor_limit_is_raised_to_the_hard_one(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        hard = min(hard, 4096)
        with Server(self.folder, '--isolation', 'process', '--verbose',
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))) as server:
            server.ports()
            self.assertEqual(resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE), (hard, hard))
            self.assertIn(f'limit of open files from 256 to {hard}', server.out.read_text())

    def test_a_closed_output_pipe_does_not_end_the_server(self):
        read, write = os.pipe()
        with Server(self.folder, '--isolation', 'process', '--verbose', stdout=write) as server:
            os.close(write)
            os.close(read)
            port = server.ports()[1]['http']
            for _ in range(3):  # each is logged
                with socket.create_connection(('127.0.0.1', port), timeout=30) as connection:
                    connection.sendall(b'\x16\x03\x01\x00\x05hello\r\n\r\n')
                    while connection.recv(4096):
                        pass
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
            connection.request('GET', '/health')
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()
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
