"""A small synthetic dataset in the schema of VQA v2: questions.json, annotations.json, results.json."""
import json
import random

rng = random.Random(3)
TYPES = [("what color is the", "other", ["red", "blue", "dark red", "red, white", "the blue one"]),
         ("how many", "number", ["1", "two", "none", "1,000", "3.5"]),
         ("is the", "yes/no", ["yes", "no", "Yes.", "dont know", "a"])]
questions, annotations, results = [], [], []
for i in range(60):
    kind, answer_type, words = TYPES[i % 3]
    image = 100 + i // 2
    qid = image * 1000 + i % 2
    matches = i % 11
    answers = [words[0]] * matches + [rng.choice(words[1:]) for _ in range(10 - matches)]
    rng.shuffle(answers)
    questions.append(dict(image_id=image, question="%s thing %d?" % (kind.capitalize(), i), question_id=qid))
    annotations.append(dict(question_id=qid, image_id=image, question_type=kind, answer_type=answer_type,
                            multiple_choice_answer=max(sorted(set(answers)), key=answers.count),
                            answers=[dict(answer_id=n + 1, answer=a, answer_confidence="yes") for n, a in enumerate(answers)]))
    results.append(dict(question_id=qid, answer="" if i == 7 else words[0]))
head = dict(info=dict(description="synthetic", version="1"), data_type="mscoco", data_subtype="val2014", license=dict(name="none"))
json.dump(dict(head, task_type="Open-Ended", questions=questions), open("questions.json", "w"), separators=(",", ":"))
json.dump(dict(head, annotations=annotations), open("annotations.json", "w"), separators=(",", ":"))
json.dump(results, open("results.json", "w"), separators=(",", ":"))
