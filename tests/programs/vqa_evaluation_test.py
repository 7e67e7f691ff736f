"""`fedumm evaluate vqa` on a small set in VQA v2's layout and the released folder at a tiny size. Usage: vqa_evaluation_test.py FEDUMM REPOSITORY"""
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

FEDUMM, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
MODEL = REPOSITORY / 'tests/data/blip3o/release'
SCORERS = {'official', 'lmms', 'fedumm-legacy'}


def lines(path):
    return pathlib.Path(path).read_text().splitlines()


class VqaEvaluation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.set = cls.folder / 'set'
        subprocess.run([REPOSITORY / 'scripts/make_vqa_v2_sample.py', cls.set], check=True, stdout=subprocess.DEVNULL)
        cls.questions = cls.set / 'v2_OpenEnded_mscoco_val2014_questions.json'
        cls.annotations = cls.set / 'v2_mscoco_val2014_annotations.json'

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def command(self, out, *more, questions=None, images=None, batch=1):
        return [FEDUMM, 'evaluate', 'vqa', '--model', MODEL, '--questions', questions or self.questions, '--images', images or self.set / 'val2014',
                '--threads', '1', '--batch', str(batch), '-o', out, *more]

    def evaluate(self, out, *more, **files):
        return subprocess.run(self.command(out, *more, **files), capture_output=True, text=True, timeout=120)

    def new(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder / 'results.json'

    def assertRefused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_both_prompts_are_answered_and_judged_by_all_scorers(self):
        out = self.new('both')
        done = self.evaluate(out, '--annotations', self.annotations, '--prompt', 'both', batch=5)
        self.assertEqual(done.returncode, 0, done.stderr)
        asked = {q['question_id']: q['question'] for q in json.loads(self.questions.read_text())['questions']}
        for prompt, end in (('plain', ''), ('short', '\nAnswer the question using a single word or phrase.')):
            results = json.loads(out.with_suffix(f'.{prompt}.json').read_text())
            self.assertEqual([r['question_id'] for r in results], list(asked))
            self.assertTrue(all(set(r) == {'question_id', 'answer'} and isinstance(r['answer'], str) for r in results))
            log = [json.loads(line) for line in lines(out.with_suffix(f'.{prompt}.jsonl'))]
            self.assertEqual(log[0]['of']['prompt'], prompt)
            self.assertEqual({(r['question_id'], r['answer']) for r in results}, {(a['question_id'], a['answer']) for a in log[1:]})
            self.assertTrue(all(a['prompt'] == asked[a['question_id']] + end for a in log[1:]))
            scores = json.loads(out.with_suffix(f'.{prompt}.scores.json').read_text())
            self.assertEqual(set(scores['accuracy']), SCORERS)
            self.assertEqual(set(scores['accuracy']['official']['per_answer_type']), {'yes/no', 'number', 'other'})
        for scorer in SCORERS:
            self.assertIn(scorer, done.stdout)

    def test_figures_are_those_of_the_official_script(self):
        """307 cases with the official script's figures: as a set in VQA v2's files whose answers the log has already, so no model runs."""
        golden = json.loads((REPOSITORY / 'tests/data/vqa/accuracy_golden.json').read_text())
        out = self.new('golden')
        questions, annotations = out.parent / 'q.json', out.parent / 'a.json'
        questions.write_text(json.dumps(dict(questions=[dict(question_id=c['id'], image_id=1 + c['id'] % 12, question='?') for c in golden['cases']])))
        annotations.write_text(json.dumps(dict(annotations=[dict(
            question_id=c['id'], image_id=1 + c['id'] % 12, question_type=c['question_type'], answer_type=c['answer_type'],
            multiple_choice_answer=c['answers'][0], answers=[dict(answer_id=i, answer=a) for i, a in enumerate(c['answers'])])
            for c in golden['cases']])))
        started = self.evaluate(out, '--limit', '1', questions=questions)
        self.assertEqual(started.returncode, 0, started.stderr)
        log = out.with_suffix('.jsonl')
        log.write_text('\n'.join([lines(log)[0]] + [json.dumps(dict(question_id=c['id'], answer=c['result'], prompt='?')) for c in golden['cases']]) + '\n')
        judged = self.evaluate(out, '--annotations', annotations, '--per-question-type', questions=questions)
        self.assertEqual(judged.returncode, 0, judged.stderr)
        official = json.loads(out.with_suffix('.scores.json').read_text())['accuracy']['official']
        self.assertEqual(official['overall'], golden['overall'])
        self.assertEqual(official['per_answer_type'], golden['per_answer_type'])
        self.assertEqual(official['per_question_type'], golden['per_question_type'])
        self.assertIn(str(golden['overall']), judged.stdout)

    def test_a_killed_run_goes_on_and_gives_the_same_answers(self):
        whole = self.new('whole')
        self.assertEqual(self.evaluate(whole).returncode, 0)
        out = self.new('killed')
        log = out.with_suffix('.jsonl')
        process = subprocess.Popen(self.command(out), stdout=subprocess.DEVNULL)
        while process.poll() is None and (not log.exists() or len(lines(log)) < 4):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        answered = len(lines(log))
        with log.open('a') as file:  # as if it was killed within a write
            file.write('{"question_id": 12')
        self.assertEqual(self.evaluate(out).returncode, 0)
        self.assertEqual(out.read_text(), whole.read_text())
        self.assertEqual(len(lines(log)), 25)
        self.assertGreaterEqual(answered, 4)
        before = log.read_text()
        self.assertEqual(self.evaluate(out).returncode, 0)
        self.assertEqual(log.read_text(), before)

    def test_a_signal_stops_with_130_and_keeps_the_answers(self):
        out = self.new('stopped')
        log = out.with_suffix('.jsonl')
        process = subprocess.Popen(self.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not log.exists() or len(lines(log)) < 3):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        code = process.wait()
        if len(lines(log)) < 25:
            self.assertEqual(code, 130)
            self.assertFalse(out.exists())
        self.assertEqual(self.evaluate(out).returncode, 0)
        self.assertEqual(len(json.loads(out.read_text())), 24)

    def test_shards_are_put_together(self):
        whole = self.new('unsharded')
        self.assertEqual(self.evaluate(whole).returncode, 0)
        out = self.new('sharded')
        for shard in ('1/2', '2/2'):
            self.assertEqual(self.evaluate(out, '--shard', shard).returncode, 0)
        self.assertEqual(len(json.loads(out.with_suffix('.1-of-2.json').read_text())), 12)
        merged = self.evaluate(out)
        self.assertEqual(merged.returncode, 0, merged.stderr)
        self.assertEqual(out.read_text(), whole.read_text())
        self.assertEqual(len(lines(out.with_suffix('.jsonl'))), 1)  # nothing was left to answer
        self.assertRefused(self.evaluate(out, '--shard', '0/2'), '0/2')

    def test_answers_to_something_else_are_not_gone_on_with(self):
        out = self.new('other')
        self.assertEqual(self.evaluate(out, '--limit', '1').returncode, 0)
        self.assertRefused(self.evaluate(out, '--prompt', 'plain'), 'prompt', '"short"', '"plain"', str(out.with_suffix('.jsonl')))
        self.assertRefused(self.evaluate(out, '--jpeg-again'), 'jpeg-again')
        out.with_suffix('.jsonl').write_text('something else\n')
        self.assertRefused(self.evaluate(out), 'results.jsonl')

    def test_pictures_written_again_are_those_that_pillow_writes(self):
        """golden/blip3o: X.again.jpg is X.jpg as lmms-eval's adapter writes it."""
        jpegs = REPOSITORY / 'tests/data/blip3o/jpeg'
        before, after = self.folder / 'before', self.folder / 'after'
        questions = []
        for folder in (before, after):
            folder.mkdir()
        for number, path in enumerate(sorted(jpegs.glob('*.again.jpg')), 1):
            shutil.copyfile(path, after / f'COCO_val2014_{number:012}.jpg')
            shutil.copyfile(jpegs / path.name.replace('.again', ''), before / f'COCO_val2014_{number:012}.jpg')
            questions.append(dict(question_id=number, image_id=number, question='What is it?'))
        file = self.folder / 'again.questions.json'
        file.write_text(json.dumps(dict(questions=questions)))
        first, second = self.new('again'), self.new('as_it_is')
        self.assertEqual(self.evaluate(first, '--jpeg-again', questions=file, images=before).returncode, 0)
        self.assertEqual(self.evaluate(second, questions=file, images=after).returncode, 0)
        self.assertEqual(first.read_text(), second.read_text())

    def test_a_missing_or_broken_picture_is_named(self):
        images = self.folder / 'broken'
        shutil.copytree(self.set / 'val2014', images)
        shutil.copyfile(REPOSITORY / 'tests/data/blip3o/jpeg/truncated.jpg', images / 'COCO_val2014_000000000003.jpg')
        out = self.new('broken_out')
        self.assertRefused(self.evaluate(out, images=images), 'COCO_val2014_000000000003.jpg')
        self.assertGreater(len(lines(out.with_suffix('.jsonl'))), 1)  # what came before it is kept
        (images / 'COCO_val2014_000000000003.jpg').unlink()
        self.assertRefused(self.evaluate(out, images=images), 'no picture 3', '3000')
        shutil.copyfile(images / 'COCO_val2014_000000000004.jpg', images / 'again_4.jpg')
        self.assertRefused(self.evaluate(out, images=images), 'two pictures', 'again_4.jpg')

    def test_bad_files_and_flags_are_refused(self):
        bad = self.folder / 'bad.json'
        bad.write_text('{"questions": [{"question_id": 1}]}')
        self.assertRefused(self.evaluate(self.new('bad'), questions=bad), 'bad.json', 'image_id')
        self.assertRefused(self.evaluate(self.new('flag'), '--prompt', 'long'), '--prompt')


unittest.main(argv=sys.argv[:1])
