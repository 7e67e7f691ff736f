#!/usr/bin/env python3
"""What the compiled CUDA kernels tell without a GPU, as a Markdown table: registers, spills, and what the main loop issues for each tensor instruction.

    static_table.py [--arch 80,90a,100,120] [--only TEXT] [FILE.cu ...]

Without files: all of src/kernels. TEXT selects kernels by a part of their names, such as bf16. Needs nvcc (in PATH, CUDACXX or /usr/local/cuda/bin), and for the
columns after the registers cuobjdump and nvdisasm in PATH (PyPI: nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm). Exit code 1 if a kernel spills.

The main loop is that with most tensor instructions of those without another one inside. "Issue" and "shared memory" are the cycles that its instructions take to issue, and its ldmatrix and
cp.async to move their bytes, as a share of the cycles that its tensor instructions keep the tensor cores busy: under 100 % the tensor cores can be the bound.
"""
import argparse
import collections
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
# Cycles that one m16n8k16 occupies a quarter of a multiprocessor, from the published dense bf16 rates.
HMMA_CYCLES = {"80": 8, "90a": 4, "100": 4, "120": 32}
Figures = collections.namedtuple("Figures", "registers spills loop")


def compile_cubin(nvcc: str, source: str, arch: str, cubin: str) -> dict[str, tuple[int, int]]:
    """Mangled name -> (registers, bytes spilled)."""
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", f"-I{ROOT}/include", f"-I{ROOT}/src", source, "-o", cubin]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    entries = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", done.stderr, re.S)
    return {name: (int(registers), int(stack) + int(stores) + int(loads)) for name, stack, stores, loads, registers in entries}


def opcode(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0]


def main_loop(code: list[tuple[int, str]]) -> list[str]:
    """The opcodes of the main loop; empty without tensor instructions."""
    loops = []  # (first, last) instruction
    for i, (address, text) in enumerate(code):
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
        if target and int(target.group(1), 16) <= address:
            loops.append((next((j for j, (a, _) in enumerate(code) if a >= int(target.group(1), 16)), 0), i))
    opcodes = [opcode(text) for _, text in code]
    loops = [(first, last) for first, last in loops if tensor_instructions(opcodes[first:last + 1])]
    innermost = [opcodes[first:last + 1] for first, last in loops
                 if not any(first <= f and l <= last for f, l in loops if (f, l) != (first, last))]
    return max(innermost, key=tensor_instructions, default=[])


def tensor_instructions(opcodes: list[str]) -> int:
    return sum(o.startswith(("HMMA", "HGMMA")) for o in opcodes)


def loops_of(cubin: str) -> dict[str, list[str]]:
    """Mangled name -> opcodes of the main loop."""
    text = subprocess.run(["cuobjdump", "-sass", cubin], capture_output=True, text=True, check=True).stdout
    loops = {}
    for part in re.split(r"\n\s*Function : ", text)[1:]:
        name, body = part.split("\n", 1)
        code = [(int(a, 16), t) for a, t in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+([^;/]+?)\s*;", body)]
        loops[name.strip()] = main_loop(code)
    return loops


def describe(figures: Figures, arch: str) -> str:
    cells = [str(figures.registers) + (f" (spills {figures.spills} B)" if figures.spills else "")]
    n = tensor_instructions(figures.loop)
    if n == 0:
        return " | ".join(cells + [""] * 4)
    cells += [f"{n} of {len(figures.loop)}", f"{(len(figures.loop) - n) / n:.1f}"]
    wide = [int(m.group(1)) for o in figures.loop if (m := re.match(r"HGMMA\.64x(\d+)x16", o))]
    if wide:  # 64 x N x 16 products by four warps at 2,048 a cycle; shared memory is read without instructions
        return " | ".join(cells + [f"{100 * len(figures.loop) / sum(n / 2 for n in wide):.0f} %", ""])
    cycles = n * HMMA_CYCLES[arch]
    # 512 bytes of a warp (ldmatrix x4, 16-byte cp.async) take 4 cycles of the 128 bytes a cycle that four quarters share.
    shared = sum(16 if ".128" in o or o.startswith("LDSM") else 4 for o in figures.loop if o.startswith(("LDSM", "LDGSTS")))
    return " | ".join(cells + [f"{100 * len(figures.loop) / cycles:.0f} %", f"{100 * shared / cycles:.0f} %"])


def short_name(name: str) -> str:
    text = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"^void ", "", text)
    text = re.sub(r"\((?!int\)|bool\)|unsigned|fedumm).*$", "", text)  # parameters
    return re.sub(r"fedumm::kernels::|\((?:int|bool|unsigned int)\)", "", text).replace("__nv_bfloat16", "bf16").replace("__half", "fp16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", metavar="LIST", default=",".join(HMMA_CYCLES), help="default: %(default)s")
    parser.add_argument("--only", metavar="TEXT", default="")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    archs = arguments.arch.split(",")
    for arch in archs:
        if arch not in HMMA_CYCLES:
            parser.error(f"--arch: {arch} is none of {', '.join(HMMA_CYCLES)}")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    disassembles = bool(shutil.which("cuobjdump") and shutil.which("nvdisasm"))
    spilled = False
    print("| kernel | sm | registers | tensor instructions in the loop | others for each | issue | shared memory |\n|---|---|---|---|---|---|---|")
    for source in arguments.files or sorted(glob.glob(f"{ROOT}/src/kernels/*.cu")):
        rows = collections.defaultdict(dict)
        for arch in archs:
            with tempfile.TemporaryDirectory() as folder:
                cubin = os.path.join(folder, "kernels.cubin")
                compiled = compile_cubin(nvcc, source, arch, cubin)
                loops = loops_of(cubin) if disassembles else {}
            for name, (registers, spills) in compiled.items():
                if registers <= 8:  # empty for this architecture
                    continue
                spilled = spilled or spills > 0
                rows[name][arch] = Figures(registers, spills, loops.get(name, []))
        for name, row in rows.items():
            short = short_name(name)
            if arguments.only in short:
                for arch, figures in row.items():
                    print(f"| `{short}` | {arch} | {describe(figures, arch)} |")
        sys.stdout.flush()
    sys.exit(1 if spilled else 0)


main()
