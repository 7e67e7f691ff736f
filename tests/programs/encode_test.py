"""`fedumm encode` with the target encoder at a tiny size. Usage: encode_test.py FEDUMM REPOSITORY"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

FEDUMM, REPOSITORY = map(pathlib.Path, sys.argv[1:3])
ENCODER = REPOSITORY / 'tests/data/blip3o/eva.safetensors'
JPEGS = sorted((REPOSITORY / 'tests/data/blip3o/jpeg').glob('*.jpg'))[:4]


class Encode(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)
        self.pictures = self.folder / 'pictures'
        self.out = self.folder / 'latents'
        self.pictures.mkdir()

    def tearDown(self):
        self.scratch.cleanup()

    def encode(self, *more, encoder=ENCODER):
        return subprocess.run([FEDUMM, 'encode', self.pictures, '--encoder', encoder, '--heads', '2', '--pooling', '2', '--threads', '1',
                               '--batch', '1', '-o', self.out, *more], capture_output=True, text=True, errors='replace', timeout=60)

    def shard_of(self):
        return json.loads((self.out / 'latents.safetensors.index.json').read_text())['weight_map']

    def shards(self):
        return {path.name: path.read_bytes() for path in self.out.glob('*.safetensors')}

    def test_a_second_call_goes_on_and_equal_calls_write_equal_bytes(self):
        for jpeg in JPEGS[:2]:
            shutil.copy(jpeg, self.pictures)
        done = self.encode()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('2 latents of [28, 2, 2]', done.stdout)
        first = self.shards()
        (self.pictures / 'more').mkdir()
        for jpeg in JPEGS[2:]:
            shutil.copy(jpeg, self.pictures / 'more')
        self.assertIn('holds the latents of 2 of 4', self.encode().stderr)
        second = self.shards()
        self.assertEqual(len(second), 2)
        self.assertEqual(second['latents-00001.safetensors'], first['latents-00001.safetensors'])
        self.assertEqual(set(self.shard_of()), {jpeg.name for jpeg in JPEGS[:2]} | {'more/' + jpeg.name for jpeg in JPEGS[2:]})
        self.encode()
        self.assertEqual(self.shards(), second)
        shutil.rmtree(self.out)
        self.encode()
        again = self.shards()
        self.assertEqual(len(again), 1)
        shutil.rmtree(self.out)
        self.encode()
        self.assertEqual(self.shards(), again)

    def test_a_shard_that_no_index_names_is_made_again(self):
        """As a kill between a shard and its index leaves the folder."""
        shutil.copy(JPEGS[0], self.pictures)
        self.encode()
        whole = self.shards()
        (self.out / 'latents.safetensors.index.json').unlink()
        (self.out / 'latents-00001.safetensors').write_bytes(b'half of a sha')
        self.assertEqual(self.encode().returncode, 0)
        self.assertEqual(self.shards(), whole)

    def test_links_have_their_own_names(self):
        shutil.copy(JPEGS[0], self.folder / 'elsewhere.jpg')
        for name in ('a.jpg', 'b.jpg'):
            (self.pictures / name).symlink_to(self.folder / 'elsewhere.jpg')
        done = self.encode()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(self.shard_of()), {'a.jpg', 'b.jpg'})

    def test_bad_pictures_are_named_and_the_others_encoded(self):
        shutil.copy(JPEGS[0], self.pictures / 'good.jpg')
        (self.pictures / 'cut.jpg').write_bytes(JPEGS[0].read_bytes()[:200])
        shutil.copy(JPEGS[0], os.fsencode(self.pictures) + b'/\xff.jpg')
        done = self.encode()
        self.assertEqual(done.returncode, 1)
        self.assertIn('left out: cut.jpg: ', done.stderr)
        self.assertIn('its name is not UTF-8', done.stderr)
        self.assertIn('2 of 3 pictures could not be encoded', done.stderr)
        self.assertEqual(set(self.shard_of()), {'good.jpg'})

    def test_another_encoder_or_dtype_does_not_mix_with_what_is_there(self):
        shutil.copy(JPEGS[0], self.pictures)
        self.assertEqual(self.encode().returncode, 0)
        other = bytearray(ENCODER.read_bytes())
        start = 8 + int.from_bytes(other[:8], 'little')
        begin, end = json.loads(other[8:start])['model.gen_vision_tower.vision_tower.model.blocks.1.mlp.fc1.weight']['data_offsets']
        other[start + begin:start + end] = bytes(end - begin)
        (self.folder / 'other.safetensors').write_bytes(other)
        for refused in (self.encode(encoder=self.folder / 'other.safetensors'), self.encode('--dtype', 'bfloat16')):
            self.assertEqual(refused.returncode, 2)
            self.assertIn('another encoder', refused.stderr)

    def test_a_pickle_is_refused_with_the_remedy(self):
        shutil.copy(JPEGS[0], self.pictures)
        pickle = self.folder / 'pytorch_model.bin'
        pickle.write_bytes(b'x')
        refused = self.encode(encoder=pickle)
        self.assertEqual(refused.returncode, 2)
        self.assertIn('weights_only=True', refused.stderr)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
