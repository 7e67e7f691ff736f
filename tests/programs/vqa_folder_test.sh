#!/usr/bin/env bash
# A small set in VQA v2's files is made from easy-VQA's pictures, and a short federation of both tasks runs on it.
# Usage: vqa_folder_test.sh FEDUMM TO_JPEG REPOSITORY DATA_FOLDER
set -euo pipefail
fedumm=$1
to_jpeg=$2
data=$4
cd "$3"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 scripts/make_vqa_folder.py "$folder/set" --data "$data" --to-jpeg "$to_jpeg" --train 40 --test 8
[ "$(find "$folder/set/train2014" -name 'COCO_train2014_000000000*.jpg' | wc -l)" = 40 ]

cat >"$folder/run.toml" <<T
name = "vqa-folder-test"
[world]
kind = "vqa-folder"
[federation]
clients = 2
rounds = 2
min-available-nodes = 2
[data]
folder = "$folder/set"
captions-file = "captions_{subset}.json"
min-size = 1
[train]
tasks = "vqa,draw"
local-steps = 2
vqa-batch-size = 4
draw-batch-size = 4
T
"$fedumm" simulate "$folder/run.toml" --run-dir "$folder/run" --no-evaluate >"$folder/output"
grep -q "memory of a training step: weights .* with train.gradient-checkpointing); .* in all of " "$folder/output"
python3 - "$folder" <<'P'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "run/adapter/adapter_config.json").read_text())
assert config["peft_type"] == "LORA", config
P

# The settings file of the repository names settings that exist; a data folder without the files is an error that names the first one.
if "$fedumm" simulate configs/vqa-folder.toml --data "$folder/run" --run-dir "$folder/other" 2>"$folder/error"; then exit 1; fi
grep -q "$folder/run/v2_OpenEnded_mscoco_train2014_questions.json" "$folder/error"
