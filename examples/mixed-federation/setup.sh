#!/usr/bin/env bash
# Makes the Python node's environment: Flower 1.42, PyTorch, transformers and PEFT (3 GB if `scripts/setup.sh --peers` did not fetch them).
#   setup.sh [FOLDER]        default: venvs/mixed beside LibTorch and the data
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
deps=$("$here/../../scripts/setup.sh" --print-dir)
venv=${1:-$deps/venvs/mixed}
[ -e "$venv/.done" ] && exit 0
echo "setup: making the Python node's environment in $venv"
rm -rf "$venv"
python3 -m venv "$venv"
pip=("$venv/bin/pip" install -q --disable-pip-version-check --retries 5)
if [ -d "$deps/venvs/peft" ]; then # what the tests compare us with: its packages need not be there twice
  echo "$deps"/venvs/peft/lib/python3*/site-packages >"$venv/$(cd "$venv" && echo lib/python3*/site-packages)/peft.pth"
fi
"${pip[@]}" torch==2.11.0 peft==0.21.2 transformers==5.23.0 safetensors numpy pillow
# Flower pins a certifi that not every index has; any will do for plaintext on this machine.
"${pip[@]}" --no-deps flwr==1.42.0
"$venv/bin/python" - <<'P' >"$venv/flwr-requirements.txt"
import importlib.metadata
for requirement in importlib.metadata.requires("flwr"):
    if "extra ==" not in requirement and not requirement.startswith("certifi"):
        print(requirement)
P
"${pip[@]}" -r "$venv/flwr-requirements.txt" certifi
touch "$venv/.done"
