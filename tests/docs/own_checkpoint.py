"""Runs every command of docs/own-checkpoint.md, in its order, on the tiny checkpoint of tests/data/blip3o.

Usage: own_checkpoint.py FOLDER_OF_PROGRAMS REPOSITORY
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

programs, repository = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
page = (repository / 'docs/own-checkpoint.md').read_text()
data = repository / 'tests/data/blip3o'

with tempfile.TemporaryDirectory() as folder:
    work = pathlib.Path(folder)
    (work / 'BLIP3o-Model-4B').symlink_to(data / 'release')
    shutil.copy(data / 'question.png', work / 'cat.png')
    shutil.copy(data / 'eva.safetensors', work)
    (work / 'run.toml').write_text(re.search(r'```toml\n(.*?)```', page, re.S).group(1))
    prompts = (repository / 'tests/data/geneval/evaluation_metadata.jsonl').read_text().splitlines()[:2]
    (work / 'prompts.jsonl').write_text('\n'.join(prompts) + '\n')
    (work / 'detections.json').write_text(json.dumps({f'{i:05d}/samples/00000.png': [] for i in range(2)}))
    (work / 'scripts').symlink_to(repository / 'scripts')
    path = os.pathsep.join([str(programs), os.environ['PATH']])
    commands = [line for block in re.findall(r'```sh\n(.*?)```', page, re.S) for line in block.splitlines() if line]
    assert len(commands) > 10, commands
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=work, env={**os.environ, 'PATH': path}, capture_output=True, text=True, errors='replace',
                              timeout=120)
        if done.returncode != 0:
            sys.exit(f'{command}\nexit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}')
    assert (work / 'drawing.png').read_bytes().startswith(b'\x89PNG')
    summary = json.loads((work / 'runs/own/run.json').read_text())
    assert 'vqa' in summary['rounds'][-1]['on_clients'], summary['rounds'][-1]
    assert (work / 'merged/diffusion-decoder/unet/config.json').exists()
print(f'{len(commands)} commands')
