#!/usr/bin/env python3
"""Writes a set of 12 pictures in the official layout of VQA v2: every kind of JPEG that COCO and users' folders hold (from the test data), and two PNG
pictures, with two questions about each and ten answers to each question.

    scripts/make_vqa_v2_sample.py build/vqa-v2-sample
    build/release/programs/fedumm evaluate vqa --model MODEL --images build/vqa-v2-sample/val2014 -o build/results.json \\
        --questions build/vqa-v2-sample/v2_OpenEnded_mscoco_val2014_questions.json \\
        --annotations build/vqa-v2-sample/v2_mscoco_val2014_annotations.json

train2014 and val2014 hold the same pictures under their own names. Needs nothing but Python.
"""
import argparse
import json
import pathlib
import random
import shutil
import struct
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
JPEGS = ("baseline_420", "baseline_422", "baseline_444", "cmyk", "exif_rotated", "grey", "low_quality", "one_pixel", "progressive", "restart_markers")
ASKED = (("What color is the spot?", "what color is the", "other", ["dark red", "red", "the blue one", "red, white", "none of them"]),
         ("How many spots are there?", "how many", "number", ["1", "two", "none", "1,000", "3.5"]),
         ("Is the picture bright?", "is the", "yes/no", ["yes", "no", "Yes.", "dont know", "a"]))


def png(width, height, rng):
    """A PNG with stripes of random colours."""
    rows = b"".join(b"\0" + bytes(rng.choices(range(256), k=3)) * width for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def annotators(words, rng):
    """Ten answers: some agree, in some questions all of them."""
    first = rng.choice(words)
    agree = rng.choice((10, 9, 7, 5, 3, 2, 1))
    answers = [first] * agree + [rng.choice(words) for _ in range(10 - agree)]
    rng.shuffle(answers)
    return answers


def write_subset(out, subset, jpegs):
    rng = random.Random(subset)
    (out / subset).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        path = out / subset / f"COCO_{subset}_{number + 1:012}.jpg"
        if number < len(JPEGS):
            shutil.copyfile(jpegs / f"{JPEGS[number]}.jpg", path)
        else:  # the content says what it is, not the name
            path.write_bytes(png(40 + number, 30, rng))
    questions, annotations = [], []
    for number in range(24):
        image_id = number // 2 + 1
        text, question_type, answer_type, words = ASKED[number % 3]
        question_id = image_id * 1000 + number % 2
        answers = annotators(words, rng)
        questions.append(dict(image_id=image_id, question=text, question_id=question_id))
        annotations.append(dict(
            question_type=question_type, multiple_choice_answer=max(sorted(set(answers)), key=answers.count),
            answers=[dict(answer=a, answer_confidence=rng.choice(("yes", "maybe", "no")), answer_id=i + 1) for i, a in enumerate(answers)],
            image_id=image_id, answer_type=answer_type, question_id=question_id))
    head = dict(info=dict(description="a sample in the layout of VQA v2", url="", version="2.0", year=2026, contributor="", date_created=""),
                license=dict(url="", name=""), data_type="mscoco", data_subtype=subset)
    (out / f"v2_OpenEnded_mscoco_{subset}_questions.json").write_text(json.dumps(dict(head, task_type="Open-Ended", questions=questions)))
    (out / f"v2_mscoco_{subset}_annotations.json").write_text(json.dumps(dict(head, annotations=annotations)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder to write")
    parser.add_argument("--jpegs", type=pathlib.Path, default=ROOT / "tests/data/blip3o/jpeg", help="the JPEG files (default: %(default)s)")
    args = parser.parse_args()
    for subset in ("train2014", "val2014"):
        write_subset(args.out, subset, args.jpegs)
    print(f"{args.out}: 12 pictures and 24 questions in each of train2014 and val2014")


main()
