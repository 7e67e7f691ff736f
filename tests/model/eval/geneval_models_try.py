"""scripts/export_geneval_models.py and `fedumm evaluate geneval --detector` with tiny random models.

The verdicts of random models mean nothing, but what C++ sees must be what Python sees: the objects
that this script's Python finds in a picture give, by `--detections`, the same results as
`--detector` and `--colors`.

Runs with the Python of $FEDUMM_VENVS/peft, which scripts/setup.sh --peers makes, or with its own if
that has the packages. Without them it exits with 77, which CTest counts as skipped.

usage: geneval_models_try.py FEDUMM EXPORT_SCRIPT WORK_FOLDER
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

VENV_PYTHON = pathlib.Path(os.environ.get("FEDUMM_VENVS", "/nonexistent")) / "peft/bin/python"

try:
    import torch
    import transformers  # noqa: F401
except ImportError as error:
    if VENV_PYTHON.exists() and pathlib.Path(sys.executable) != VENV_PYTHON:
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    print(f"skipped, no transformers here: {error}")
    sys.exit(77)

SIDE = 96


def png_of(picture):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in picture)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) +
            chunk(b"IEND", b""))


def results(fedumm, folder, out, *options):
    subprocess.run([fedumm, "evaluate", "geneval", folder, "-o", out, *options], check=True)
    lines = [json.loads(line) for line in pathlib.Path(f"{out}.jsonl").read_text().splitlines()]
    return lines, json.loads(pathlib.Path(f"{out}-summary.json").read_text())


def add_picture(folder, name, picture, metadata):
    sample = folder / name / "samples" / "00000.png"
    sample.parent.mkdir(parents=True)
    sample.write_bytes(png_of(picture))
    (folder / name / "metadata.jsonl").write_text(json.dumps(metadata))


def prompt(tag, **wanted):
    return {"tag": tag, "prompt": tag, "include": [{"count": 1, **wanted}]}


def main(fedumm, script, work):
    work = pathlib.Path(work)
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run([sys.executable, script, "--tiny", str(work)], check=True)
    about = {"fedumm.json": ""}
    detector = torch.jit.load(str(work / "detector.ts"), _extra_files=about)
    classes = json.loads(about["fedumm.json"])["classes"]
    torch.jit.load(str(work / "colors.ts"), _extra_files=about)
    colors = json.loads(about["fedumm.json"])["colors"]
    models = ["--detector", str(work / "detector.ts"), "--colors", str(work / "colors.ts")]

    torch.manual_seed(1)
    detections = {}
    for i in range(4):
        picture = (torch.rand(SIDE // 8, SIDE // 8, 3) * 255).byte()
        picture = picture.repeat_interleave(8, 0).repeat_interleave(8, 1)
        with torch.no_grad():
            boxes, scores, indices, _ = detector(picture)
        found = [{"class": classes[c], "box": b, "score": s}
                 for b, s, c in zip(boxes.tolist(), scores.tolist(), indices.tolist())]
        best = max(found, key=lambda item: item["score"])["class"]
        name = f"{i:05}"
        detections[f"{name}/samples/00000.png"] = found
        add_picture(work / "plain", name, picture, prompt("single_object", **{"class": best if i else "zebra"}))
    for i, color in enumerate(colors):
        add_picture(work / "colored", f"{i:05}", picture, prompt("colors", color=color, **{"class": best}))

    (work / "detections.json").write_text(json.dumps(detections))
    lines, _ = results(fedumm, work / "plain", work / "from_file", "--detections", str(work / "detections.json"))
    same, summary = results(fedumm, work / "plain", work / "from_models", *models)
    assert same == lines, (same, lines)
    assert any(line["correct"] for line in lines), lines
    assert summary["detector"] == "tiny random Mask2Former", summary
    assert summary["colors"] == "tiny random CLIP", summary
    # The best object of one picture has one colour: one of ten prompts is right. (More objects of
    # that class could have other colours; count 1 asks for the first only.)
    lines, _ = results(fedumm, work / "colored", work / "of_colors", *models)
    assert sum(line["correct"] for line in lines) == 1, lines
    # No classifier, no verdict on colours.
    run = subprocess.run([fedumm, "evaluate", "geneval", work / "colored", "-o", work / "none", *models[:2]],
                         capture_output=True, text=True)
    assert run.returncode != 0 and "--colors" in run.stderr, run
    # What is no TorchScript is named.
    run = subprocess.run([fedumm, "evaluate", "geneval", work / "plain", "--detector", work / "detections.json"],
                         capture_output=True, text=True)
    assert run.returncode != 0 and "TorchScript" in run.stderr, run


main(*sys.argv[1:])
