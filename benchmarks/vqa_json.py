#!/usr/bin/env python3
"""How long `fedumm evaluate vqa` takes to read the questions and annotations of VQA v2's validation split, and how much memory: files of the same
shape and size (214,354 questions with ten answers each) are made first, then read by the program benchmarks/vqa_json of a build.

    benchmarks/vqa_json.py build/release/benchmarks/vqa_json [--questions 214354] [--keep FOLDER]
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

WORDS = "the a man woman dog cat street table red blue green white number of people standing in front holding playing sitting near large small".split()
ANSWERS = ["yes", "no", "2", "1", "white", "blue", "brown and white", "on the table", "unknown", "because it is raining", "10:35", "don't know"]


def write(folder, count):
    rng = random.Random(0)
    questions, annotations = folder / "questions.json", folder / "annotations.json"
    head = '{"info":{"description":"benchmark","version":"2.0"},"license":{"url":"","name":""},"data_type":"mscoco","data_subtype":"val2014",'
    with questions.open("w") as q, annotations.open("w") as a:
        q.write(head + '"task_type":"Open-Ended","questions":[')
        a.write(head + '"annotations":[')
        for number in range(count):
            image_id = number // 5 + 42
            question_id = image_id * 1000 + number % 5
            text = " ".join(rng.choices(WORDS, k=rng.randrange(4, 10))).capitalize() + "?"
            picked = rng.choices(ANSWERS, k=2)
            answers = [dict(answer=rng.choice(picked), answer_confidence=rng.choice(("yes", "maybe")), answer_id=i + 1) for i in range(10)]
            comma = ", " if number else ""
            q.write(comma + json.dumps(dict(image_id=image_id, question=text, question_id=question_id)))
            a.write(comma + json.dumps(dict(question_type="what is the", multiple_choice_answer=picked[0], answers=answers, image_id=image_id,
                                            answer_type="other", question_id=question_id)))
        q.write("]}")
        a.write("]}")
    return questions, annotations


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--questions", type=int, default=214354)
    parser.add_argument("--keep", type=pathlib.Path, help="write the files there and leave them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = write(folder, args.questions)
        print("wrote", ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.0f} MB)" for path in files))
        sys.exit(subprocess.run([args.program, *files]).returncode)


main()
