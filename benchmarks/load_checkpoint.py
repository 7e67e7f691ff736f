#!/usr/bin/env python3
"""How fast a checkpoint of Qwen2.5-VL-3B's shape (bf16, random, 7.5 GB) loads on the CPU, and what memory it takes: once, in a second process while the
first one holds it, and cast to float16.

    benchmarks/load_checkpoint.py build/release/benchmarks/load_checkpoint [--folder FOLDER] [--layers 36]

Targets: 2 s and 300 MB of private memory where the dtype is kept, for each process; with a cast the weights and one tensor more.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "tests/data/blip3o/config/4b/config.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, help="write the checkpoint there and leave it")
    parser.add_argument("--layers", type=int, help="of the decoder, fewer for a smaller file")
    args = parser.parse_args()
    config = json.loads(CONFIG.read_text())
    for key in list(config):
        if key.startswith("gen_") or key == "n_query":
            del config[key]  # no DiT
    config["model_type"], config["architectures"] = "qwen2_5_vl", ["Qwen2_5_VLForConditionalGeneration"]
    config["num_hidden_layers"] = args.layers or config["num_hidden_layers"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or pathlib.Path(scratch) / "checkpoint"
        if not (folder / "config.json").exists():
            source = pathlib.Path(scratch) / "config.json"
            source.write_text(json.dumps(config))
            subprocess.run([args.program, "make", folder, source], check=True)
        for path in folder.glob("*.safetensors"):  # warm: the files lie in the page cache
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass

        def load(*dtype):
            process = subprocess.Popen([args.program, "load", folder, *dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            return process, json.loads(process.stdout.readline())

        first, alone = load()
        second, beside = load()
        for process in (first, second):
            process.communicate()
        cast, half = load("float16")
        cast.communicate()

    print(f"weights {alone['weights'] / 1e9:.2f} GB")
    for name, result in ("first process", alone), ("second process", beside):
        verdict = "ok" if result["seconds"] < 2 and result["private"] < 300e6 else "MISSED"
        print(f"{name}: {result['seconds']:.3f} s, {result['private'] / 1e6:.0f} MB private ({verdict})")
    limit = half["weights"] + half["largest"]
    print(f"as float16: {half['seconds']:.1f} s, peak {half['peak_anonymous'] / 1e9:.2f} GB private of {limit / 1e9:.2f} GB "
          f"({'ok' if half['peak_anonymous'] <= limit + 300e6 else 'MISSED'})")


main()
