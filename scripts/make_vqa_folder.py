#!/usr/bin/env python3
"""Writes a small set in VQA v2's files from easy-VQA's pictures: JPEG pictures under COCO's names, questions, ten annotations for each question,
and captions in COCO's form. configs/vqa-folder.toml trains on it.

    scripts/make_vqa_folder.py build/vqa-folder
    build/release/programs/fedumm simulate configs/vqa-folder.toml

Needs what scripts/setup.sh installs, and the program examples/to_jpeg of a build, which writes the JPEG files.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
OTHER = {**dict.fromkeys(COLORS, COLORS), **dict.fromkeys(SHAPES, SHAPES), "yes": ("yes", "no"), "no": ("yes", "no")}


def words(question):
    return question.rstrip("?").split()


def is_negated(question):
    return "not" in words(question) or "no" in words(question)


def concepts(questions):
    """Colour and shape of each picture: what the questions about it tell."""
    known = {}
    for text, answer, picture in questions:
        told = [answer]
        if answer in ("yes", "no") and (answer == "yes") != is_negated(text) or text.startswith("what"):
            told += words(text)
        entry = known.setdefault(picture, {})
        for word in told:
            if word in COLORS:
                entry["color"] = word
            if word in SHAPES:
                entry["shape"] = word
    return {picture: (c["color"], c["shape"]) for picture, c in known.items() if len(c) == 2}


def question_type(text):
    if text.startswith("what color"):
        return "what color is the"
    if text.startswith("what"):
        return "what"
    return " ".join(words(text)[:2])


def chosen(questions):
    """The questions of one picture that are kept: those with "what", one with "yes" and one with "no"."""
    kept = [q for q in questions if q[0].startswith("what")]
    for answer in ("yes", "no"):
        kept += [q for q in questions if q[1] == answer][:1]
    return kept


def annotators(answer, question_id):
    """Ten answers, of which up to two are another one."""
    rng = random.Random(question_id)
    answers = [answer] * 10
    for i in rng.sample(range(10), rng.randrange(3)):
        answers[i] = rng.choice(OTHER[answer])
    return answers


def write_subset(source, out, subset, count, program):
    questions = json.loads((source / "questions.json").read_text())
    shown = concepts(questions)
    by_picture = {}
    for question in questions:
        if not is_negated(question[0]):
            by_picture.setdefault(question[2], []).append(question)
    pictures = [p for p in sorted(by_picture) if p in shown][:count]
    (out / subset).mkdir(parents=True, exist_ok=True)
    asked, annotations, captions, files = [], [], [], []
    for picture in pictures:
        files.append(f"{source}/images/{picture}.png\t{out}/{subset}/COCO_{subset}_{picture:012}.jpg\n")
        captions.append(dict(image_id=picture, id=picture, caption="a %s %s" % shown[picture]))
        for number, (text, answer, _) in enumerate(chosen(by_picture[picture])):
            question_id = picture * 1000 + number
            asked.append(dict(question_id=question_id, image_id=picture, question=text))
            annotations.append(dict(
                question_id=question_id, image_id=picture, question_type=question_type(text),
                answer_type="yes/no" if answer in ("yes", "no") else "other", multiple_choice_answer=answer,
                answers=[dict(answer_id=i + 1, answer=a, answer_confidence="yes")
                         for i, a in enumerate(annotators(answer, question_id))]))
    subprocess.run([program, "95"], input="".join(files), text=True, check=True)
    head = dict(info=dict(description="easy-VQA in the files of VQA v2", version="1"), data_type="mscoco", data_subtype=subset)
    for name, content in ((f"v2_OpenEnded_mscoco_{subset}_questions.json", dict(head, task_type="Open-Ended", questions=asked)),
                          (f"v2_mscoco_{subset}_annotations.json", dict(head, annotations=annotations)),
                          (f"captions_{subset}.json", dict(head, annotations=captions))):
        (out / name).write_text(json.dumps(content))
    print(f"{out}/{subset}: {len(pictures)} pictures, {len(asked)} questions")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder to write")
    parser.add_argument("--data", type=pathlib.Path, help="easy-VQA's data folder; default: where scripts/setup.sh put it")
    parser.add_argument("--to-jpeg", default=ROOT / "build/release/examples/example_to_jpeg", help="the program (default: %(default)s)")
    parser.add_argument("--train", type=int, default=600, help="training pictures (default: %(default)s)")
    parser.add_argument("--test", type=int, default=150, help="held-out pictures (default: %(default)s)")
    args = parser.parse_args()
    if args.data is None:
        deps = subprocess.run([ROOT / "scripts/setup.sh", "--print-dir"], capture_output=True, text=True, check=True).stdout.strip()
        args.data = pathlib.Path(deps) / "easy_vqa/data"
    for needed in (args.data, pathlib.Path(args.to_jpeg)):
        if not needed.exists():
            sys.exit(f"make_vqa_folder.py: {needed} is missing; run scripts/setup.sh and make build first")
    write_subset(args.data / "train", args.out, "train2014", args.train, args.to_jpeg)
    write_subset(args.data / "test", args.out, "val2014", args.test, args.to_jpeg)


main()
