"""No file in programs/ names a dataset, a task or a strategy: these come from the World and from NewStrategy. The commands on a checkpoint folder
(model_commands.h) have no World.

Usage: names_test.py REPOSITORY
"""
import pathlib
import re
import sys

FORBIDDEN = re.compile(r'easy.?vqa|"vqa|"draw"|-vqa|fedavg|fedprox|\bvqa-|\bdraw-', re.I)

MODEL_COMMANDS = {'answer.cc', 'draw.cc', 'encode.cc', 'evaluate_geneval.cc', 'evaluate_vqa.cc', 'merge.cc'}

repository = pathlib.Path(sys.argv[1])
found = [f'{path.relative_to(repository)}:{number}: {line.strip()}'
         for path in sorted((repository / 'programs').rglob('*')) if path.is_file() and path.name not in MODEL_COMMANDS
         for number, line in enumerate(path.read_text().splitlines(), 1) if FORBIDDEN.search(line)]
print('\n'.join(found) or 'no dataset, task or strategy is named')
sys.exit(1 if found else 0)
