"""Each flag of each subcommand of fedumm has an effect. A flag that --help lists and no test here names makes this fail.

Usage: flags_test.py PROGRAMS_FOLDER REPOSITORY
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

PROGRAMS, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
RELEASE = REPOSITORY / 'tests/data/blip3o/release'
# One round of drawing, which is evaluated fast.
SETTINGS = '''name = "{name}"
seed = {seed}
[federation]
clients = 2
rounds = 1
[data]
min-size = 1
[train]
tasks = "draw"
local-steps = 1
draw-batch-size = 2
[evaluate]
drawings-per-prompt = 1
'''
# Those that superlink_test.py and node_flags_test.cc test: the same code serves fedumm-superlink.
SERVER_FLAGS = 'fedumm-superlink'
# Subcommand -> its flags and positional arguments, each with the test that shows its effect.
TESTED = {
    'simulate': {'config': 'simulate', '--run-dir': 'simulate', '--resume': 'resume', '--no-evaluate': 'no_evaluate',
                 '--compare': 'simulate_compare', '--data': 'data', '--verbose': 'verbose'},
    'compare': {'config': 'compare_with_other_settings', '--run-dir': 'compare', '--jobs': 'compare', '--started': 'compare',
                '--data': 'data', '--verbose': 'verbose'},
    'evaluate': {'config': 'evaluate', '--adapter': 'evaluate', '--data': 'data'},
    'draw': {'prompt': 'draw_in_a_world', '--config': 'draw_config', '--adapter': 'draw_in_a_world', '--out': 'draw_in_a_world', '--seed': 'draw_in_a_world',
             '--flow-steps': 'draw_in_a_world', '--flow-guidance': 'draw_in_a_world', '--data': 'data', '--model': 'draw', '--dtype': 'draw',
             '--device': 'draw_refuses', '--threads': 'draw', '--steps': 'draw', '--guidance': 'draw', '--latents-only': 'draw_latents_only',
             '--geneval': 'draw_geneval', '--prompts': 'draw_geneval', '--samples': 'draw_geneval', '--shard': 'draw_geneval'},
    'answer': {'question': 'answer', '--model': 'answer', '--adapter': 'merge', '--dtype': 'answer', '--device': 'answer_refuses', '--threads': 'answer',
               '--image': 'answer', '--processor': 'answer', '--prompt-style': 'answer', '--max-new-tokens': 'answer', '--greedy': 'answer_samples',
               '--temperature': 'answer_samples', '--top-k': 'answer_samples', '--top-p': 'answer_samples', '--min-p': 'answer_samples',
               '--repetition-penalty': 'answer', '--seed': 'answer_samples', '--stop': 'answer'},
    'encode': {'pictures': 'encode', '--encoder': 'encode', '--out': 'encode', '--heads': 'encode', '--pooling': 'encode', '--dtype': 'encode',
               '--batch': 'encode', '--shard-mb': 'encode', '--threads': 'encode'},
    'merge': {'--model': 'merge', '--adapter': 'merge', '--dtype': 'merge', '--device': 'answer_refuses', '--threads': 'merge', '--out': 'merge',
              '--shard-mb': 'merge'},
    'convert': {'--model': 'merge', '--adapter': 'merge', '--names': 'merge', '--out': 'merge', '--dtype': 'answer_refuses', '--device': 'answer_refuses',
                '--threads': 'merge'},
    'pretrain': {'folder': 'pretrain', '--world': 'pretrain'},
    'settings': {'--config': 'settings', '--world': 'settings', '--get': 'settings'},
    'inspect': {'path': 'inspect', '--check': 'inspect'},
    'serve': {'--config': 'serve_resume', '--data': 'data', '--fab': 'serve_fab', '--run-dir': 'serve_resume', '--resume': 'serve_resume',
              '--no-evaluate': 'serve_no_evaluate'},
}


def run(*arguments, timeout=240):
    return subprocess.run([PROGRAMS / arguments[0], *map(str, arguments[1:])], capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY)


def fedumm(*arguments):
    return run('fedumm', *arguments)


def flags_of(program, *subcommand):
    """The names in --help: long flags with their dashes, positional arguments without."""
    text = run(program, *subcommand, '--help').stdout
    positionals = re.search(r'^Positionals:\n((?: +.*\n)+)', text, re.M)
    names = re.findall(r'^  (\S+) ', positionals.group(1), re.M) if positionals else []
    names += re.findall(r'^  (?:-\w,)?(--[\w-]+)', text, re.M)
    return set(names) - {'--help', '--version'}


class Flags(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings = cls.write('settings.toml', SETTINGS.format(name='first', seed=3))
        cls.run_dir = cls.folder / 'run'
        cls.simulated = fedumm('simulate', cls.settings, '--run-dir', cls.run_dir)
        assert cls.simulated.returncode == 0, cls.simulated.stderr
        (cls.folder / 'empty').mkdir()

    @classmethod
    def write(cls, name, text):
        path = cls.folder / name
        path.write_text(text)
        return path

    def copy_of_run(self, name):
        return pathlib.Path(shutil.copytree(self.run_dir, self.folder / name))

    def assertDone(self, result):
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result

    def assertRefused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        for word in words:
            self.assertIn(str(word), result.stderr)

    def test_every_flag_that_help_lists_has_a_test(self):
        for subcommand, tested in TESTED.items():
            flags = flags_of('fedumm', subcommand)
            if subcommand == 'serve':
                flags -= flags_of(SERVER_FLAGS) - set(tested)
            self.assertEqual(flags, set(tested), subcommand)
            for test in tested.values():
                self.assertTrue(hasattr(self, f'test_{test}'), test)
        listed = set(re.findall(r'^  ([a-z]+) ', run('fedumm', '--help').stdout.partition('Subcommands:')[2], re.M))
        self.assertEqual(listed, set(TESTED))

    def test_simulate(self):
        data = json.loads((self.run_dir / 'run.json').read_text())
        self.assertEqual((data['name'], data['seed']), ('first', 3))
        self.assertTrue((self.run_dir / 'adapter/adapter_model.safetensors').exists())
        self.assertGreater(data['rounds'][1]['nodes'][0]['num-examples'], 0)
        self.assertFalse((self.run_dir / 'report.html').exists())

    def test_no_evaluate(self):
        self.assertRegex(self.simulated.stdout, r'(?m)^ +0 .*\d %')
        run_dir = self.folder / 'not-evaluated'
        result = self.assertDone(fedumm('simulate', self.settings, '--run-dir', run_dir, '--no-evaluate'))
        self.assertNotIn('%', result.stdout)
        self.assertEqual(json.loads((run_dir / 'run.json').read_text())['rounds'][0]['accuracies'], {})

    def test_resume(self):
        self.assertRegex(self.simulated.stdout, r'(?m)^ +1 +2/2')
        run_dir = self.copy_of_run('resumed')
        result = self.assertDone(fedumm('simulate', self.settings, '--run-dir', run_dir, '--resume'))
        self.assertNotRegex(result.stdout, r'(?m)^ +1 +2/2')
        first, again = (json.loads((folder / 'run.json').read_text()) for folder in (self.run_dir, run_dir))
        for key in ('rounds', 'verdicts', 'clients'):
            self.assertEqual(again[key], first[key])

    def test_simulate_compare(self):
        run_dir = self.folder / 'compared'
        result = self.assertDone(fedumm('simulate', self.settings, '--run-dir', run_dir, '--compare'))
        self.assertIn('centralized', result.stdout)
        self.assertTrue((run_dir / 'report.html').exists())

    def test_compare(self):
        run_dir = self.copy_of_run('to-compare')
        result = self.assertDone(fedumm('compare', self.settings, '--run-dir', run_dir, '--jobs', '1', '--started', '1000'))
        self.assertEqual(re.findall(r'\((\d) of 3\)', result.stdout), ['1', '2', '3'])
        self.assertLess(result.stdout.index('all examples together'), result.stdout.index('client 0 alone'))
        self.assertLess(result.stdout.index('client 0 alone'), result.stdout.index('client 1 alone'))
        summary = json.loads((run_dir / 'summary.json').read_text())
        self.assertGreater(summary['seconds'], 1e9)
        # One round of two clients, one step each, two pictures a step.
        self.assertEqual(summary['draw']['examples'], {'local_mean': 2, 'federated': 4, 'centralized': 4})
        self.assertRefused(fedumm('compare', self.settings, '--run-dir', run_dir, '--jobs', '0'), '--jobs')

    def test_compare_with_other_settings(self):
        other = self.write('other.toml', SETTINGS.format(name='first', seed=4) + '[lora]\nr = 2\n')
        result = fedumm('compare', other, '--run-dir', self.run_dir)
        self.assertRefused(result, 'seed is 3 there and 4 here', 'lora.r is 6 there and 2 here', other)

    def test_data(self):
        empty = self.folder / 'empty'
        for arguments in (('simulate', self.settings, '--run-dir', self.folder / 'no-data'),
                          ('compare', self.settings, '--run-dir', self.run_dir),
                          ('evaluate', self.settings),
                          ('draw', 'a red circle', '--config', self.settings),
                          ('serve', '--config', self.settings, '--run-dir', self.folder / 'no-data', '--insecure')):
            self.assertRefused(fedumm(*arguments, '--data', empty), empty)

    def test_verbose(self):
        self.assertNotIn('[info]', self.simulated.stderr)
        result = self.assertDone(fedumm('simulate', self.settings, '--run-dir', self.folder / 'verbose', '--no-evaluate', '-v'))
        self.assertIn('[info]', result.stderr)
        run_dir = self.copy_of_run('verbose-compare')
        self.assertIn('[info]', self.assertDone(fedumm('compare', self.settings, '--run-dir', run_dir, '-v')).stderr)

    def test_evaluate(self):
        frozen = self.assertDone(fedumm('evaluate', self.settings)).stdout
        self.assertIn('draw', frozen)
        self.assertNotIn('vqa', frozen)
        trained = self.write('trained.toml', SETTINGS.format(name='trained', seed=3).replace('local-steps = 1', 'local-steps = 30'))
        run_dir = self.folder / 'trained'
        self.assertDone(fedumm('simulate', trained, '--run-dir', run_dir, '--no-evaluate'))
        with_adapter = self.assertDone(fedumm('evaluate', trained, '--adapter', run_dir / 'adapter')).stdout
        self.assertNotEqual(with_adapter, frozen)

    def picture(self, name, *flags):
        out = self.folder / f'{name}.png'
        prompt = 'a red circle' if name != 'prompt' else 'a blue rectangle'
        self.assertDone(fedumm('draw', prompt, '--config', self.settings, '--out', out, *flags))
        return out.read_bytes()

    def test_draw_in_a_world(self):
        plain = self.picture('plain', '--flow-steps', '3')
        self.assertTrue(plain.startswith(b'\x89PNG'))
        self.assertEqual(self.picture('again', '--flow-steps', '3'), plain)
        for name, *flags in (('prompt', '--flow-steps', '3'), ('seed', '--flow-steps', '3', '--seed', '5'), ('steps', '--flow-steps', '4'),
                             ('guidance', '--flow-steps', '3', '--flow-guidance', '1'),
                             ('adapter', '--flow-steps', '3', '--adapter', self.run_dir / 'adapter')):
            self.assertNotEqual(self.picture(name, *flags), plain, name)

    def test_draw_config(self):
        other = self.write('elsewhere.toml', '[model]\ncheckpoint = "no/such/model"\n')
        self.assertRefused(fedumm('draw', 'a red circle', '--config', other), 'no/such/model')

    def answer(self, *flags, model=RELEASE, question='What color is the cat?', image='question.png'):
        return subprocess.run([PROGRAMS / 'fedumm', 'answer', '--model', model, '--image', REPOSITORY / 'tests/data/blip3o' / image, *map(str, flags),
                               question], capture_output=True, timeout=120, cwd=REPOSITORY)

    def answered(self, *flags, **changes):
        result = self.answer(*flags, **changes)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_answer(self):
        plain = self.answered()
        self.assertEqual(self.answered('--threads', 1), plain)
        for change in ({'question': 'How many cats?'}, {'image': 'jpeg/grey.jpg'}):
            self.assertNotEqual(self.answered(**change), plain)
        for flags in (('--dtype', 'float32'), ('--processor', 'lmms'), ('--prompt-style', 'plain'), ('--max-new-tokens', 5),
                      ('--repetition-penalty', 3)):
            self.assertNotEqual(self.answered(*flags), plain, flags)
        end = plain.decode(errors='ignore').strip()[4:6]
        self.assertNotIn(end.encode(), self.answered('--stop', end))

    def test_answer_samples(self):
        in_fp32 = ('--dtype', 'float32')  # in which no two logits are equal
        hot = ('--temperature', 5, *in_fp32)
        plain = self.answered(*hot)
        self.assertEqual(self.answered(*hot), plain)
        greedy = self.answered(*in_fp32)
        self.assertNotEqual(plain, greedy)
        self.assertNotEqual(self.answered(*hot, '--seed', 7), plain)
        self.assertEqual(self.answered(*hot, '--greedy'), greedy)
        for flag, value in (('--top-k', 1), ('--top-p', 1e-6), ('--min-p', 1)):
            self.assertEqual(self.answered(*hot, flag, value), greedy, flag)

    def test_answer_refuses(self):
        for flags in (('--device', 'moon'), ('--dtype', 'int8'), ('--top-p', 2), ('--temperature', 0)):
            result = self.answer(*flags)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(flags[0][2:].replace('-', '_').encode(), result.stderr)
        convert = ('convert', '--model', RELEASE, '--adapter', self.run_dir / 'adapter', '--names', 'published', '-o', self.folder / 'none')
        self.assertRefused(fedumm(*convert, '--device', 'moon'), 'moon')
        self.assertRefused(fedumm(*convert, '--dtype', 'int8'), 'int8')
        self.assertIn(b'truncated', self.answer(image='jpeg/truncated.jpg').stderr)
        self.assertRefused(fedumm('merge', '--model', RELEASE, '--adapter', self.run_dir / 'adapter', '--device', 'moon', '-o', self.folder / 'none'),
                           'moon')

    def test_encode(self):
        pictures = self.folder / 'pictures'
        pictures.mkdir()
        for name in ('grey', 'cmyk', 'progressive'):
            shutil.copy(REPOSITORY / f'tests/data/blip3o/jpeg/{name}.jpg', pictures)

        def encode(name, *flags):
            out = self.folder / name
            result = fedumm('encode', pictures, '--encoder', REPOSITORY / 'tests/data/blip3o/eva.safetensors', '-o', out, *flags)
            return result, out
        tiny = ('--heads', 2, '--pooling', 2)
        result, out = encode('latents', *tiny, '--batch', 2, '--threads', 1, '--shard-mb', 1)
        self.assertIn('3 latents of [28, 2, 2]', self.assertDone(result).stdout)
        again, _ = encode('latents', *tiny)
        self.assertIn('3 of 3', self.assertDone(again).stderr)
        self.assertIn('[28, 4, 4]', self.assertDone(encode('larger', '--heads', 2, '--pooling', 1)[0]).stdout)
        self.assertRefused(encode('none')[0], '28')
        other = self.assertDone(encode('bfloat16', *tiny, '--dtype', 'bfloat16')[0])
        self.assertIn('[28, 2, 2]', other.stdout)
        self.assertNotEqual((self.folder / 'bfloat16/latents-00001.safetensors').read_bytes(), (out / 'latents-00001.safetensors').read_bytes())
        shutil.copy(REPOSITORY / 'tests/data/blip3o/jpeg/truncated.jpg', pictures)
        bad, _ = encode('latents', *tiny)
        self.assertEqual(bad.returncode, 1)
        self.assertIn('truncated.jpg', bad.stderr)

    def test_merge(self):
        settings = self.write('tiny.toml', '[world]\nkind = "vqa-v2"\n[model]\ncheckpoint = "%s"\n[data]\nfolder = "%s"\nmin-size = 0\n'
                              '[federation]\nclients = 2\nrounds = 1\n[train]\nlocal-steps = 2\nbatch-size = 2\nlearning-rate = 0.05\n'
                              'schedule = "constant"\n[lora]\nr = 4\ntarget-modules = ["q_proj", "v_proj", "down_proj"]\n'
                              % (RELEASE, self.folder / 'vqa'))
        subprocess.run([REPOSITORY / 'scripts/make_vqa_v2_sample.py', self.folder / 'vqa'], check=True)
        run_dir = self.folder / 'tiny'
        self.assertDone(fedumm('simulate', settings, '--run-dir', run_dir, '--no-evaluate'))
        merge = ('merge', '--model', RELEASE, '--adapter', run_dir / 'adapter')
        self.assertDone(fedumm(*merge, '-o', self.folder / 'merged', '--dtype', 'float32', '--shard-mb', 1, '--threads', 1))
        self.assertDone(fedumm(*merge, '-o', self.folder / 'merged-bf16'))
        self.assertRefused(fedumm(*merge, '-o', self.folder / 'merged'), 'exists')
        in_fp32 = ('--dtype', 'float32')
        with_adapter = self.answered('--adapter', run_dir / 'adapter', *in_fp32)
        self.assertNotEqual(with_adapter, self.answered(*in_fp32))
        self.assertEqual(self.answered(*in_fp32, model=self.folder / 'merged'), with_adapter)
        self.assertIn('F32', self.assertDone(fedumm('inspect', self.folder / 'merged')).stdout)
        self.assertIn('BF16', self.assertDone(fedumm('inspect', self.folder / 'merged-bf16')).stdout)
        self.assertEqual(list(self.folder.glob('*.unfinished')), [])

        convert = ('convert', '--model', RELEASE, '--adapter', run_dir / 'adapter', '--threads', 1)
        renamed = self.folder / 'renamed'
        self.assertDone(fedumm(*convert, '--names', 'transformers-5', '-o', renamed))
        tensors = 'adapter_model.safetensors'
        self.assertIn(b'base_model.model.model.language_model.layers.0.', (renamed / tensors).read_bytes())
        self.assertRefused(fedumm(*convert, '--names', 'transformers-5', '-o', renamed), 'exists')
        self.assertRefused(fedumm(*convert, '--names', 'transformers-6', '-o', self.folder / 'none'), 'transformers-6')
        self.assertRefused(fedumm('convert', '--model', RELEASE, '--names', 'published', '-o', self.folder / 'none'), '--adapter')
        self.assertDone(fedumm('convert', '--model', RELEASE, '--adapter', renamed, '--names', 'published', '-o', self.folder / 'back'))
        self.assertEqual((self.folder / 'back' / tensors).read_bytes(), (run_dir / 'adapter' / tensors).read_bytes())

    def drawing(self, name, *flags):
        out = self.folder / f'drawing-{name}.png'
        fast = () if '--steps' in flags else ('--steps', '2')
        self.assertDone(fedumm('draw', 'a photo of a cow', '--model', RELEASE, '-o', out, '--flow-steps', '2', *fast, *flags))
        return out.read_bytes()

    def test_draw(self):
        plain = self.drawing('plain')
        self.assertEqual(self.drawing('threads', '--threads', '1'), plain)
        for name, *flags in (('seed', '--seed', '5'), ('steps', '--steps', '3'), ('guidance', '--guidance', '1'), ('dtype', '--dtype', 'float32')):
            self.assertNotEqual(self.drawing(name, *flags), plain, name)

    def test_draw_latents_only(self):
        out = self.folder / 'tokens.safetensors'
        self.assertDone(fedumm('draw', 'a photo of a cow', '--model', RELEASE, '-o', out, '--flow-steps', '2', '--latents-only'))
        self.assertIn('clip_tokens', self.assertDone(fedumm('inspect', out)).stdout)

    def test_draw_refuses(self):
        self.assertRefused(fedumm('draw'), 'prompt')
        self.assertRefused(fedumm('draw', 'a cow', '--model', RELEASE, '--device', 'moon'), 'moon')
        self.assertRefused(fedumm('draw', 'a cow', '--steps', '3', '--config', self.settings), '--flow-steps')
        self.assertRefused(fedumm('draw', '--model', RELEASE, '--geneval', self.folder / 'none', '--shard', '3/2'), '3/2')
        bad = self.write('bad.jsonl', '{"tag": "x"}\n')
        self.assertRefused(fedumm('draw', '--model', RELEASE, '--geneval', self.folder / 'none', '--prompts', bad), 'line 1')

    def test_draw_stops_at_a_signal_and_leaves_no_file(self):
        out = self.folder / 'stopped.png'
        process = subprocess.Popen([PROGRAMS / 'fedumm', 'draw', 'a cow', '--model', RELEASE, '-o', out, '--steps', '1000', '--flow-steps', '1000'],
                                   stderr=subprocess.PIPE, text=True)
        self.assertRaises(subprocess.TimeoutExpired, process.wait, 1.5)
        process.send_signal(signal.SIGINT)
        self.assertIn('stopped', process.communicate(timeout=60)[1])
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(self.folder.glob('stopped*')), [])

    def geneval(self, name, *flags):
        folder = self.folder / name
        self.assertDone(fedumm('draw', '--model', RELEASE, '--geneval', folder, '--prompts', self.prompts, '--samples', '2', '--steps', '2',
                               '--flow-steps', '2', *flags))
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}

    def test_draw_geneval(self):
        lines = (REPOSITORY / 'tests/data/geneval/evaluation_metadata.jsonl').read_text().splitlines()[:3]
        self.prompts = self.write('prompts.jsonl', '\n'.join(lines) + '\n')
        whole = self.geneval('whole')
        official = REPOSITORY / 'tests/data/blip3o/geneval/images/00000'
        names = [str(path.relative_to(official)) for path in sorted(official.rglob('*')) if path.is_file()]
        self.assertEqual([name for name in whole if name.startswith('00000/')], [f'00000/{name}' for name in names])
        self.assertEqual([whole[f'{i:05d}/metadata.jsonl'].decode() for i in range(3)], lines)
        # Two samples of 64 pixels, one below the other, with two pixels around each.
        self.assertEqual(whole['00001/grid.png'][16:24], (68).to_bytes(4, 'big') + (134).to_bytes(4, 'big'))
        self.assertNotEqual(whole['00000/samples/00000.png'], whole['00000/samples/00001.png'])
        # Two shards, one of which starts without the first prompt, give the same files.
        self.assertEqual(len(self.geneval('shards', '--shard', '2/2')), 4)
        self.assertEqual(self.geneval('shards', '--shard', '1/2'), whole)
        # So does a folder in which some files are missing.
        for name in ('00000/samples/00001.png', '00000/grid.png', '00002/samples/00000.png', '00002/grid.png'):
            (self.folder / 'shards' / name).unlink()
        self.assertEqual(self.geneval('shards'), whole)
        self.prompts = self.write('prompts.jsonl', lines[1] + '\n')
        (self.folder / 'shards/00000/grid.png').unlink()
        self.assertRefused(fedumm('draw', '--model', RELEASE, '--geneval', self.folder / 'shards', '--prompts', self.prompts), 'another prompt')

    def test_pretrain(self):
        folder = self.folder / 'model'
        folder.mkdir()
        for name in ('config.json', 'tokenizer.json'):
            shutil.copy(REPOSITORY / 'configs/tiny' / name, folder)
        recipe = (REPOSITORY / 'configs/tiny/pretrain.toml').read_text()
        recipe = re.sub(r'(?m)^(steps|batch_size) = \d+', r'\1 = 2', re.sub(r'(?m)^(warmup_steps) = \d+', r'\1 = 1', recipe))
        (folder / 'pretrain.toml').write_text(re.sub(r'(?m)^pictures = \d+', 'pictures = 8', recipe))
        self.assertRefused(fedumm('pretrain', folder, '--world', 'moon'), 'moon')
        self.assertFalse((folder / 'model.safetensors').exists())
        self.assertDone(fedumm('pretrain', folder, '--world', 'easy-vqa'))
        self.assertTrue((folder / 'model.safetensors').exists())

    def test_scenes(self):
        # Pre-training, the run, the comparison and the figures of the world that needs no data.
        folder = self.folder / 'scenes-model'
        folder.mkdir()
        for name in ('config.json', 'tokenizer.json'):
            shutil.copy(REPOSITORY / 'configs/scenes' / name, folder)
        recipe = (REPOSITORY / 'configs/scenes/pretrain.toml').read_text()
        recipe = re.sub(r'(?m)^(steps|batch_size) = \d+', r'\1 = 2', re.sub(r'(?m)^(warmup_steps) = \d+', r'\1 = 1', recipe))
        (folder / 'pretrain.toml').write_text(re.sub(r'(?m)^pictures = \d+', 'pictures = 8', recipe))
        self.assertDone(fedumm('pretrain', folder, '--world', 'scenes'))
        settings = self.write('scenes.toml', f'''[world]
kind = "scenes"
[federation]
clients = 2
rounds = 1
min-available-nodes = 2
quorum = 1
[model]
checkpoint = "{folder}"
[lora]
r = 2
[data]
pictures = 36
test-pictures = 12
min-size = 1
[train]
local-steps = 1
[evaluate]
prompts-per-tag = 1
''')
        tags = {'single_object', 'two_object', 'counting', 'colors', 'position', 'color_attr'}
        evaluated = self.assertDone(fedumm('evaluate', settings)).stdout
        self.assertTrue(tags <= set(evaluated.split()), evaluated)
        run_dir = self.folder / 'scenes'
        self.assertDone(fedumm('simulate', settings, '--run-dir', run_dir))
        self.assertDone(fedumm('compare', settings, '--run-dir', run_dir))
        summary = json.loads((run_dir / 'summary.json').read_text())
        self.assertEqual(set(summary['draw']['kinds']), tags)
        for figures in (summary['draw'], *summary['draw']['kinds'].values()):
            for way in ('frozen', 'local_mean', 'federated', 'centralized'):
                self.assertIsInstance(figures[way], float)
        self.assertIn('color_attr', (run_dir / 'report.html').read_text())

    def test_settings(self):
        defaults = self.assertDone(fedumm('settings')).stdout
        self.assertIn('rounds = 40', defaults)
        self.assertIn('rounds = 1 ', self.assertDone(fedumm('settings', '--config', self.settings)).stdout)
        self.assertEqual(self.assertDone(fedumm('settings', '--config', self.settings, '--get', 'name')).stdout, 'first\n')
        self.assertEqual(self.assertDone(fedumm('settings', '--world', 'easy-vqa')).stdout, defaults)
        self.assertRefused(fedumm('settings', '--world', 'moon'), 'moon')
        self.assertRefused(fedumm('settings', '--get', 'federation.round'), 'federation.rounds')

    def test_inspect(self):
        self.assertIn('lora_A', self.assertDone(fedumm('inspect', self.run_dir / 'adapter')).stdout)
        self.assertIn('all numbers are finite', self.assertDone(fedumm('inspect', 'configs/tiny', '--check')).stdout)

    def test_serve_resume(self):
        # Everything is done already: it ends without waiting for nodes.
        run_dir = self.copy_of_run('served')
        result = self.assertDone(fedumm('serve', '--insecure', '--config', self.settings, '--run-dir', run_dir, '--resume',
                                        '--fleet-api-address', '127.0.0.1:0'))
        self.assertIn(str(run_dir), result.stdout)
        self.assertTrue((run_dir / 'superlink.log').exists())

    def serve_without_nodes(self, name, *flags):
        settings = self.write(f'{name}.toml', SETTINGS.format(name=name, seed=3).replace('rounds = 1', 'rounds = 1\nwait-for-nodes = 0.5'))
        return fedumm('serve', '--insecure', '--config', settings, '--run-dir', self.folder / name, '--fleet-api-address', '127.0.0.1:0', *flags)

    def test_serve_no_evaluate(self):
        for flags, evaluated in (((), True), (('--no-evaluate',), False)):
            result = self.serve_without_nodes(f'serve-{evaluated}', *flags)
            self.assertEqual(result.returncode, 1, 'no node came in time')
            self.assertIn('0 of 2 nodes online', result.stdout)
            self.assertEqual('%' in result.stdout, evaluated, result.stdout)

    def test_serve_fab(self):
        self.assertRefused(self.serve_without_nodes('fab', '--fab', self.settings), self.settings.name)


sys.argv[1:] = []
os.environ.pop('COLUMNS', None)
unittest.main(verbosity=2)
