"""No file in programs/ names a dataset, a task or a strategy: these come from the World and from NewStrategy.

Usage: names_test.py REPOSITORY
"""
import pathlib
import re
import sys

FORBIDDEN = re.compile(r'easy.?vqa|"vqa|"draw"|-vqa|fedavg|fedprox|\bvqa-|\bdraw-', re.I)

repository = pathlib.Path(sys.argv[1])
found = [f'{path.relative_to(repository)}:{number}: {line.strip()}'
         for path in sorted((repository / 'programs').rglob('*')) if path.is_file()
         for number, line in enumerate(path.read_text().splitlines(), 1) if FORBIDDEN.search(line)]
print('\n'.join(found) or 'no dataset, task or strategy is named')
sys.exit(1 if found else 0)
