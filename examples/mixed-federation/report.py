"""Prints what a mixed run came to:   report.py RUN_FOLDER"""
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
run = json.loads((folder / "run.json").read_text())
rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
partitions = {client["node_id"]: client["partition_id"] for client in run["clients"]}

print("\nRight on held-out examples, percent:  frozen  federated")
for task, verdict in run["verdicts"].items():
    print(f"  {task:35s} {100 * verdict['frozen']['all']:6.1f} {100 * verdict['federated']['all']:10.1f}")
print("Replies accepted, examples behind each:")
for node, partition in sorted(partitions.items(), key=lambda item: item[1]):
    said = [n for r in rounds for n in r["nodes"] if n["node_id"] == node]
    accepted = [n for n in said if n["accepted"]]
    examples = accepted[-1]["num-examples"] if accepted else 0
    kind = "Python" if partition == 2 else "C++"
    print(f"  partition {partition} ({kind:6s})  {len(accepted):2d} of {len(said)}  {examples:6.0f} examples")
    if len(accepted) < len(said):
        print("    first refusal:", next(n["reason"] for n in said if not n["accepted"]))
print(f"Results: {folder}")
