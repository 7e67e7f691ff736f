"""What exit code, last line and run folder say of a run's outcome. Usage: outcomes_test.py PROGRAMS_FOLDER REPOSITORY"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAMS, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
SETTINGS = '''[federation]
clients = 2
rounds = 2
[data]
min-size = 1
[train]
tasks = "draw"
local-steps = {steps}
learning-rate = {rate}
draw-batch-size = 2
[evaluate]
drawings-per-prompt = 1
'''


class Outcomes(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.run_dir = self.folder / 'run'

    def simulate(self, steps=1, rate=3e-3, extra='', flags=()):
        settings = self.folder / 'settings.toml'
        settings.write_text(SETTINGS.format(steps=steps, rate=rate) + extra)
        return subprocess.run([PROGRAMS / 'fedumm', 'simulate', settings, '--run-dir', self.run_dir, '--no-evaluate', *flags],
                              capture_output=True, text=True, timeout=240, cwd=REPOSITORY)

    def test_a_run_that_learnt_nothing_fails_and_leaves_no_adapter(self):
        self.assertEqual(self.simulate().returncode, 0)
        self.assertTrue((self.run_dir / 'adapter/adapter_model.safetensors').exists())
        result = self.simulate(steps=3, rate=1e30)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn('no reply was ever accepted in 2 rounds: the model is the one that it began with', result.stderr.splitlines()[-1])
        for name in ('adapter', 'run.json', 'report.html'):
            self.assertFalse((self.run_dir / name).exists(), f'{name} of the earlier run')
        # To go on does not help: the same message, not "wrong usage".
        self.assertEqual(self.simulate(steps=3, rate=1e30, flags=['--resume']).returncode, 1)

    @unittest.skipUnless(os.path.exists('/dev/full'), 'no /dev/full')
    def test_a_line_that_cannot_be_logged_is_told_at_once_and_costs_no_result(self):
        self.run_dir.mkdir()
        (self.run_dir / 'metrics.jsonl').symlink_to('/dev/full')
        result = self.simulate()
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn('metrics.jsonl', result.stderr.splitlines()[0])
        self.assertIn('No space left', result.stderr.splitlines()[-1])
        self.assertTrue((self.run_dir / 'adapter/adapter_model.safetensors').exists())
        self.assertEqual(len(json.loads((self.run_dir / 'run.json').read_text())['rounds']), 3)

    def test_a_run_json_that_cannot_be_written_costs_no_adapter(self):
        (self.run_dir / 'run.json/in-the-way').mkdir(parents=True)
        result = self.simulate()
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn('run.json', result.stderr.splitlines()[-1])
        self.assertTrue((self.run_dir / 'adapter/adapter_model.safetensors').exists())

    def test_a_damaged_checkpoint_is_a_bad_file(self):
        self.assertEqual(self.simulate().returncode, 0)
        checkpoint = self.run_dir / 'checkpoint'
        checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
        result = self.simulate(flags=['--resume'])
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn('checkpoint', result.stderr.splitlines()[-1])

    def test_a_run_that_is_killed_goes_on_to_the_same_bits_with_its_settings_only(self):
        adapter = self.run_dir / 'adapter/adapter_model.safetensors'
        settings = self.folder / 'settings.toml'
        settings.write_text(SETTINGS.format(steps=4, rate=3e-3).replace('rounds = 2', 'rounds = 5'))
        command = [PROGRAMS / 'fedumm', 'simulate', settings, '--run-dir', self.run_dir, '--no-evaluate']
        self.assertEqual(subprocess.run(command, capture_output=True, timeout=240, cwd=REPOSITORY).returncode, 0)
        straight = adapter.read_bytes()
        shutil.rmtree(self.run_dir)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY)
        metrics = self.run_dir / 'metrics.jsonl'
        deadline = time.monotonic() + 120
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
            self.assertIsNone(process.poll(), 'the run ended before it was killed')
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        process.kill()
        process.wait()
        self.assertFalse(adapter.exists())
        self.assertTrue(list((self.run_dir / 'optimizers').iterdir()))
        other = self.simulate(steps=4, rate=1e-3, flags=['--resume'])
        self.assertEqual(other.returncode, 2, other.stderr)
        self.assertIn('train.learning-rate was 0.003 and is now 0.001', other.stderr)
        settings.write_text(SETTINGS.format(steps=4, rate=3e-3).replace('rounds = 2', 'rounds = 5'))
        resumed = subprocess.run([*command, '--resume'], capture_output=True, text=True, timeout=240, cwd=REPOSITORY)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(adapter.read_bytes(), straight)

    def test_mods_of_the_settings_are_around_the_clients_messages(self):
        lines = self.simulate(flags=['-v'])
        self.assertEqual(lines.returncode, 0, lines.stderr)
        plain = (self.run_dir / 'adapter/adapter_model.safetensors').read_bytes()
        settings = 'mods = ["fixed-clipping", "arrays-size"]\n'
        path = self.folder / 'mods.toml'
        path.write_text(settings + SETTINGS.format(steps=1, rate=3e-3) + '[mod]\nclipping-norm = 1e-6\n')
        result = subprocess.run([PROGRAMS / 'fedumm', 'simulate', path, '--run-dir', self.run_dir, '--no-evaluate', '-v'],
                                capture_output=True, text=True, timeout=240, cwd=REPOSITORY)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotEqual((self.run_dir / 'adapter/adapter_model.safetensors').read_bytes(), plain)
        path.write_text('mods = ["fixed-cliping"]\n')
        result = subprocess.run([PROGRAMS / 'fedumm', 'simulate', path, '--run-dir', self.run_dir], capture_output=True, text=True,
                                timeout=240, cwd=REPOSITORY)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn('fixed-cliping', result.stderr)


sys.argv[1:] = []
unittest.main(verbosity=2)
