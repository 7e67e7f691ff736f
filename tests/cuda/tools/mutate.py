#!/usr/bin/env python3
"""Mutation test of a CUDA kernel: breaks its source in one place at a time and sees whether its test notices.

  mutate.py SOURCE UNIT TEST [--arch sm_90a] [-I DIR]... [--general N]

SOURCE is the file to change (a header or a .cu), UNIT the .cu file whose PTX the test loads (often the same), TEST the test's
executable. Each mutant is compiled to PTX only; the test binary stays and loads the PTX through FEDUMM_CUDA_PTX_SM80 or _SM90.
Prints a line per mutant and a table. A mutant that survives is either equivalent to the original or a gap of the test.
"""
import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile

# (what, pattern, replacement): statements that order, wait and commit. Wrappers of PTX instructions are found by their names.
SYNC = [
    ('no barrier', r'__sync(threads|warp)\(\);', ';'),
    ('no named barrier', r'\b(\w+::)?Bar(Sync|Arrive)\([^;]*\);', ';'),
    ('no commit', r'\b(\w+::)?\w*(CommitGroup|Commit)\(\);', ';'),
    ('no wait', r'\b(\w+::)?\w*Wait\w*(<[^;>]*>)?\([^;]*\);', ';'),
    ('wait for one group less', r'Wait\w*<(\d+)>\(\)', lambda m: m.group(0).replace(f'<{m.group(1)}>', f'<{int(m.group(1)) + 1}>')),
    ('no arrive', r'\b(\w+::)?\w*Arrive\w*\([^;]*\);', ';'),
    ('half the bytes expected', r'(Expect\w*\([^;]*)\);', r'\1 / 2);'),
    ('no fence', r'\b(\w+::)?\w*Fence\w*\([^;]*\);', ';'),
    ('wrong parity', r'(\w*Wait\w*\([^;]*)\);', r'\1 ^ 1);'),
    ('no cluster barrier', r'\b(\w+::)?ClusterSync\(\);', ';'),
    ('no transposition', r'(Ld|Load|St|Store)[Mm]atrix(\w*)Trans\b', lambda m: m.group(0).replace('Trans', '')),
    ('stage shifted', r'% (kStages)\b', r'% (\1 - 1)'),
]
GENERAL = [
    ('< to <=', r'(?<=\w) < (?=\w)', ' <= '),
    ('+ to -', r' \+ ', ' - '),
    ('* to +', r' \* ', ' + '),
    ('% to /', r' % ', ' / '),
    ('&& to ||', r' && ', ' || '),
    ('>= to >', r' >= ', ' > '),
    ('^ to |', r' \^ ', ' | '),
    ('>> to <<', r' >> ', ' << '),
    ('number + 1', r'(?<![\w.<])(\d+)(?![\w.x>])', lambda m: str(int(m.group(1)) + 1)),
]
SKIPPED_LINE = re.compile(r'\s*(#|//|static_assert|template|namespace|using|struct|asm)')
HOST = re.compile(r'// -+ Host')


def mutants(text, rules):
    lines = text.split('\n')
    for n, line in enumerate(lines):
        if HOST.match(line):
            return
        code = line.split('//')[0]
        if SKIPPED_LINE.match(code):
            continue
        for what, pattern, to in rules:
            for m in re.finditer(pattern, code):
                new = code[:m.start()] + (to(m) if callable(to) else m.expand(to)) + code[m.end():]
                if new != code:
                    yield n + 1, what, code.strip(), '\n'.join(lines[:n] + [new] + lines[n + 1:])


def swaps(text):
    """A barrier or wait one statement too early or too late."""
    lines = text.split('\n')
    for n, line in enumerate(lines[:-1]):
        if HOST.match(line):
            return
        if not re.search(r'__syncthreads\(\);|Wait\w*[<(]|BarSync\(|ClusterSync\(', line):
            continue
        for a in (n - 1, n):
            if all(re.search(r';\s*(//.*)?$', lines[i]) for i in (a, a + 1)):
                swapped = lines[:a] + [lines[a + 1], lines[a]] + lines[a + 2:]
                yield n + 1, 'swapped', f'{lines[a].strip()} <-> {lines[a + 1].strip()}', '\n'.join(swapped)


def run(args, ptx):
    variable = 'FEDUMM_CUDA_PTX_SM90' if args.arch.startswith('sm_90') else 'FEDUMM_CUDA_PTX_SM80'
    command = [os.path.abspath(args.test)] + ([f'--gtest_filter={args.filter}'] if args.filter else [])
    try:
        r = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout, env={**os.environ, variable: str(ptx)}, check=False)
    except subprocess.TimeoutExpired:
        return True, 'timed out'
    kinds = sorted(set(re.findall(r'^\s+\[([a-z -]+)\] ', r.stdout, re.M)))
    return r.returncode != 0, 'crash' if r.returncode < 0 else ', '.join(kinds) or 'values'


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('source', help='file to change')
    ap.add_argument('unit', help='.cu file whose PTX the test loads')
    ap.add_argument('test', help='test executable')
    ap.add_argument('--arch', default='sm_80', help='sm_80 or sm_90a (default: %(default)s)')
    ap.add_argument('-I', dest='include', action='append', default=[], help='include folder')
    ap.add_argument('--general', type=int, default=0, metavar='N', help='also N of the mutants of arithmetic and comparisons')
    ap.add_argument('--filter', help='gtest filter')
    ap.add_argument('--timeout', type=int, default=300, help='seconds for a run of the test (default: %(default)s)')
    args = ap.parse_args()

    source, unit = pathlib.Path(args.source).resolve(), pathlib.Path(args.unit).resolve()
    text = source.read_text()
    todo = list(mutants(text, SYNC)) + list(swaps(text))
    general = list(mutants(text, GENERAL))
    random.Random(1).shuffle(general)
    todo += general[:args.general]
    counts = collections.Counter()
    for line, what, code, mutant in todo:
        with tempfile.TemporaryDirectory() as folder:
            # The folder of the source is copied, so that includes between its files find the mutant.
            copy = pathlib.Path(folder) / 'kernels'
            shutil.copytree(source.parent, copy)
            (copy / source.name).write_text(mutant)
            mutated_unit = copy / unit.relative_to(source.parent) if unit.is_relative_to(source.parent) else unit
            ptx = pathlib.Path(folder) / 'mutant.ptx'
            includes = [f'-I{copy}'] + [f'-I{i}' for i in args.include]
            command = ['nvcc', '-std=c++17', '-O3', '-lineinfo', f'-arch={args.arch}', '-ptx', *includes, str(mutated_unit), '-o', str(ptx)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                verdict, note = 'does not compile', ''
            else:
                noticed, note = run(args, ptx)
                verdict = 'noticed' if noticed else 'SURVIVED'
        counts[what, verdict] += 1
        print(f'{source.name}:{line} {what}: {verdict}' + (f' ({note})' if verdict == 'noticed' else '') + f'\n      {code[:120]}', flush=True)
    print(f'\n{"mutation":28} {"noticed":>8} {"survived":>9} {"invalid":>8}')
    for what in sorted({w for w, _ in counts}):
        print(f'{what:28} {counts[what, "noticed"]:8} {counts[what, "SURVIVED"]:9} {counts[what, "does not compile"]:8}')


if __name__ == '__main__':
    main()
