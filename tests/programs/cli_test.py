"""The programs as a newcomer meets them: help, mistakes, signals. Usage: cli_test.py PROGRAMS_FOLDER REPOSITORY"""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAMS, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
CONFIG = str(REPOSITORY / 'configs/demo.toml')


def run(program, *arguments):
    return subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


class Cli(unittest.TestCase):
    def assertRefused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_help_and_version(self):
        for program in ('fedumm', 'fedumm-superlink', 'fedumm-supernode'):
            self.assertEqual(run(program, '--help').returncode, 0)
            self.assertIn('fedumm', run(program, '--version').stdout)
        for command in ('pretrain', 'simulate', 'compare', 'evaluate', 'draw', 'inspect'):
            self.assertEqual(run('fedumm', command, '--help').returncode, 0)

    def test_wrong_flags_are_one_line_and_exit_code_2(self):
        self.assertRefused(run('fedumm', '--frobnicate'), 'frobnicate')
        self.assertRefused(run('fedumm', 'simulate', '--frobnicate'), 'frobnicate')
        self.assertRefused(run('fedumm-supernode', '--superlinks', 'x'), 'superlinks')
        self.assertRefused(run('fedumm'), '--help')

    def test_missing_and_bad_files(self):
        self.assertRefused(run('fedumm', 'inspect', '/no/such/file'), '/no/such/file')
        self.assertRefused(run('fedumm', 'simulate', '/no/such.toml'), '/no/such.toml')
        self.assertRefused(run('fedumm', 'inspect', str(REPOSITORY / 'README.md')), 'README.md')
        with tempfile.NamedTemporaryFile('w', suffix='.toml') as file:
            file.write('[lora]\nrank = 4\n')
            file.flush()
            self.assertRefused(run('fedumm', 'simulate', file.name), 'line 2', "'lora.rank'")
        with tempfile.NamedTemporaryFile('wb', suffix='.safetensors') as file:
            file.write(b'\xff' * 64)
            file.flush()
            self.assertRefused(run('fedumm', 'inspect', file.name), file.name)

    def test_plaintext_must_be_asked_for(self):
        self.assertRefused(run('fedumm-superlink', '--config', CONFIG), '--insecure')
        plaintext = run('fedumm-supernode', '--insecure', '--root-certificates', 'README.md')
        self.assertRefused(plaintext, '--insecure', 'certificates')

    def test_flags_of_a_node_that_contradict_each_other(self):
        self.assertRefused(run('fedumm-supernode', '--grpc-adapter', '--transport', 'http'), 'http', 'grpc-adapter')
        self.assertRefused(run('fedumm-supernode', '--client-certfile', 'README.md'), '--client-keyfile')
        self.assertRefused(run('fedumm-supernode', '--root-certificates', '/no/ca.crt'), '/no/ca.crt')
        self.assertRefused(run('fedumm-supernode', '--transport', 'rest'), 'rest')

    def test_bad_values_name_the_value(self):
        self.assertRefused(run('fedumm-supernode', '--insecure', '--node-config', 'partition-id'), "'partition-id'")
        self.assertRefused(run('fedumm', 'draw', 'a purple circle'), 'purple')

    def test_a_setting_without_a_name_is_refused(self):
        self.assertRefused(run('fedumm', 'settings', '--get', ''), "''")

    def test_a_simulation_that_needs_more_nodes_than_it_has_is_refused(self):
        for key in ('min-available-nodes', 'quorum'):
            with self.subTest(key), tempfile.NamedTemporaryFile('w', suffix='.toml') as file:
                file.write('[federation]\nclients = 2\nquorum = 1\nmin-available-nodes = 2\n'.replace(f'{key} = {1 if key == "quorum" else 2}', f'{key} = 3'))
                file.flush()
                self.assertRefused(run('fedumm', 'simulate', file.name), f"'federation.{key}' is 3")

    def test_a_mistake_in_the_adapter_settings_names_the_section(self):
        with tempfile.NamedTemporaryFile('w', suffix='.toml') as file:
            file.write('[lora]\ntarget-modules = "("\n')
            file.flush()
            self.assertRefused(run('fedumm', 'draw', 'a teal circle', '--config', file.name), '[lora]', 'parenthesis')

    def test_a_part_of_the_data_that_cannot_exist_is_refused(self):
        self.assertRefused(run('fedumm-supernode', '--insecure', '--node-config', 'partition-id=2 num-partitions=2'), 'from 0 to 1')

    def test_inspect_knows_what_we_write(self):
        result = run('fedumm', 'inspect', 'configs/tiny')
        self.assertEqual(result.returncode, 0)
        self.assertIn('model.latent_queries', result.stdout)

    def stop(self, arguments, ready, how, code):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / 'out'
            with out.open('w') as file:
                process = subprocess.Popen([str(PROGRAMS / arguments[0]), *arguments[1:]], stdout=file,
                                           stderr=subprocess.STDOUT, cwd=REPOSITORY)
            deadline = time.monotonic() + 60
            while ready not in out.read_text() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            self.assertIn(ready, out.read_text())
            process.send_signal(how)
            self.assertEqual(process.wait(timeout=30), code, out.read_text())

    def test_a_waiting_server_stops_on_ctrl_c(self):
        with tempfile.TemporaryDirectory() as folder:
            self.stop(['fedumm-superlink', '--insecure', '--config', CONFIG, '--no-evaluate', '--fleet-api-address', '127.0.0.1:0', '--run-dir', folder],
                      'waiting for', signal.SIGINT, 130)

    def test_a_node_without_a_server_stops_on_sigterm(self):
        self.stop(['fedumm-supernode', '--insecure', '--superlink', '127.0.0.1:1', '--node-config', 'partition-id=0 num-partitions=2'],
                  'unreachable', signal.SIGTERM, 0)


sys.argv[1:] = []
os.environ.pop('COLUMNS', None)
unittest.main(verbosity=2)
