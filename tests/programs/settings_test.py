"""Every key that `fedumm settings` prints is read somewhere: a setting that is accepted has an effect.

Usage: settings_test.py FEDUMM REPOSITORY
"""
import pathlib
import re
import subprocess
import sys
import tomllib

PROGRAM, REPOSITORY = map(pathlib.Path, sys.argv[1:3])


def flatten(table, prefix=''):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield prefix + key


# Sources without the tables, which name each key as `.key = "…"` or in Count("…", …) and Number("…", …).
TABLE_ENTRY = re.compile(r'\.key\s*=\s*"[^"]*"|^\s*(Count|Number)\("[^"]*"', re.M)
sources = ''.join(TABLE_ENTRY.sub('', path.read_text())
                  for folder in ('src', 'programs') for path in (REPOSITORY / folder).rglob('*.cc'))


def is_read(key):
    last = key.rpartition('.')[2]
    # A task's keys are put together from its name.
    suffixes = [suffix for suffix in ('-batch-size', '-loss-weight') if last.endswith(suffix)]
    return any(f'"{name}"' in sources for name in (key, *suffixes))


unread = []
kinds = subprocess.run([PROGRAM, 'settings', '--world', '?'], capture_output=True, text=True)
assert kinds.returncode == 2, kinds
for kind in re.search(r'one of ([^:]*):', kinds.stderr).group(1).split(', '):
    printed = subprocess.run([PROGRAM, 'settings', '--world', kind], capture_output=True, text=True, check=True).stdout
    keys = list(flatten(tomllib.loads(printed)))
    assert len(keys) > 30, keys
    unread += [f'{kind}: {key}' for key in keys if not is_read(key)]
print('\n'.join(unread) or 'every setting is read')
sys.exit(1 if unread else 0)
