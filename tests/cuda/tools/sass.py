#!/usr/bin/env python3
"""Prints what the main loop of each kernel of a cubin issues per tensor instruction, and the bounds that follow.

  sass.py FILE.cubin [NAME]

The main loop is the innermost backward branch with most tensor instructions. NAME selects kernels by a part of their names.
Needs cuobjdump and nvdisasm in PATH.
"""
import argparse
import collections
import re
import subprocess

# Cycles that one m16n8k16 occupies a quarter of a multiprocessor, from the published dense bf16 rates.
HMMA_CYCLES = {'sm_80': 8, 'sm_90a': 4, 'sm_90': 4, 'sm_100a': 4, 'sm_120a': 32}
CLASSES = [
    ('HMMA', 'HMMA'), ('HGMMA', 'HGMMA'), ('LDSM', 'LDSM'), ('LDGSTS', 'LDGSTS'), ('UTMALDG', 'TMA'), ('UTMASTG', 'TMA'),
    ('SYNCS', 'mbarrier'), ('BAR', 'barrier'), ('LDGDEPBAR', 'cp.async group'), ('DEPBAR', 'cp.async group'),
    ('WARPGROUP', 'wgmma sync'), ('LDS', 'LDS/STS'), ('STS', 'LDS/STS'), ('LDL', 'spill'), ('STL', 'spill'), ('LDG', 'LDG'),
    ('STG', 'STG'), ('MOV', 'move'), ('BRA', 'branch'),
]


def kernels(text):
    for part in re.split(r'\n\s*Function : ', text)[1:]:
        name, body = part.split('\n', 1)
        code = [(int(a, 16), op) for a, op in re.findall(r'/\*([0-9a-f]{4,6})\*/\s+([^;/]+?)\s*;', body)]
        if code:
            yield subprocess.run(['c++filt', name.strip()], capture_output=True, text=True, check=True).stdout.strip(), code


def opcode(op):
    return re.sub(r'^@!?U?P\w+\s+', '', op).split()[0]


def main_loop(code):
    """(tensor instructions, opcodes) of the main loop, or None."""
    loops = []
    for i, (address, op) in enumerate(code):
        m = re.search(r'\bBRA\b.*?(0x[0-9a-f]+)', op)
        if not m or int(m.group(1), 16) > address:
            continue
        start = next((j for j, (a, _) in enumerate(code) if a >= int(m.group(1), 16)), 0)
        ops = [opcode(o) for _, o in code[start:i + 1]]
        n = sum(o.startswith(('HMMA', 'HGMMA')) for o in ops)
        if n:
            loops.append((n, ops))
    most = max((n for n, _ in loops), default=0)
    return min((l for l in loops if l[0] * 4 >= most), key=lambda l: len(l[1]), default=None)


def classify(op):
    return next((name for prefix, name in CLASSES if op.startswith(prefix)), 'integer/other')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('cubin')
    ap.add_argument('name', nargs='?', default='')
    args = ap.parse_args()
    text = subprocess.run(['cuobjdump', '-sass', args.cubin], capture_output=True, text=True, check=True).stdout
    arch = re.search(r'code for (\w+)', text).group(1)
    for name, code in kernels(text):
        short = re.sub(r'^void |\(.*', '', name)
        if args.name not in short:
            continue
        spills = sum(opcode(o).startswith(('LDL', 'STL')) for _, o in code)
        loop = main_loop(code)
        if loop is None:
            print(f'{arch} {short}: {len(code)} instructions, no tensor loop; spills in kernel {spills}')
            continue
        n, ops = loop
        classes = collections.Counter(classify(o) for o in ops)
        other = len(ops) - n
        if classes['HMMA']:
            # 512 bytes of a warp (ldmatrix x4, 16-byte cp.async) take 4 cycles of the 128 bytes a cycle that four quarters share.
            shared = sum(16 if '.128' in o or o.startswith('LDSM') else 4 for o in ops if o.startswith(('LDSM', 'LDGSTS')))
            cycles = n * HMMA_CYCLES.get(arch, 8)
            print(f'{arch} {short}: loop {len(ops)} = {n} HMMA + {other} ({other / n:.2f} each); of {cycles} tensor cycles: issue '
                  f'{100 * len(ops) / cycles:.0f} %, shared memory {100 * shared / cycles:.0f} %; spills in kernel {spills}')
        else:
            print(f'{arch} {short}: loop {len(ops)} = {n} HGMMA + {other}; spills in kernel {spills}')
        print('     ', ', '.join(f'{v} {k}' for k, v in classes.most_common()))


if __name__ == '__main__':
    main()
