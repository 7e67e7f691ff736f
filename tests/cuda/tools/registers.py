#!/usr/bin/env python3
"""Registers, static shared memory and spills of every CUDA kernel, as a Markdown table: one row a kernel, one column an architecture.

    tests/cuda/tools/registers.py [--arch 80 90a 100 120] [FILE.cu ...]

Without files: all of src/kernels. Needs nvcc (in PATH, CUDACXX or /usr/local/cuda/bin). Exit code 1 if a kernel spills.
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


def compile_verbose(nvcc: str, source: str, arch: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", f"-I{ROOT}/include", f"-I{ROOT}/src", source, "-o",
                   os.path.join(folder, "kernel.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


def demangled(names: list[str]) -> dict[str, str]:
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout.splitlines()
    short = {}
    for name, text in zip(names, plain):
        text = re.sub(r"^void ", "", text)
        text = re.sub(r"\((?!int\)|bool\)|unsigned|fedumm).*$", "", text)  # parameters
        short[name] = re.sub(r"fedumm::kernels::|\((?:int|bool|unsigned int)\)", "", text).replace("__nv_bfloat16", "bf16").replace("__half", "fp16")
    return short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["80", "90a", "100", "120"])
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    table = collections.defaultdict(dict)
    spilled = False
    for source in arguments.files or sorted(glob.glob(f"{ROOT}/src/kernels/*.cu")):
        for arch in arguments.arch:
            entries = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
                                 r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", compile_verbose(nvcc, source, arch), re.S)
            for name, stack, stores, loads, registers, shared in entries:
                bad = int(stack) + int(stores) + int(loads)
                spilled = spilled or bad > 0
                table[(os.path.basename(source), name)][arch] = registers + (f" (stack {stack}, spills {stores} + {loads})" if bad else "")
    names = demangled([name for _, name in table])
    print("| file | kernel | " + " | ".join(f"sm_{arch}" for arch in arguments.arch) + " |")
    print("|---|---|" + "---|" * len(arguments.arch))
    for (source, name), row in table.items():
        print(f"| {source} | `{names[name]}` | " + " | ".join(row.get(arch, "-") for arch in arguments.arch) + " |")
    sys.exit(1 if spilled else 0)


main()
