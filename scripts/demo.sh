#!/usr/bin/env bash
# The main job on one machine: a SuperLink and several SuperNodes as separate processes, talking gRPC over loopback.
#   scripts/demo.sh [BUILD_FOLDER] [DEPS_FOLDER] [CONFIG]
# Everything it makes lies in runs/<name>-<time>/; open report.html there.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build/release}
deps=${2:-$(scripts/setup.sh --print-dir)}
config=${3:-configs/demo.toml}
programs=$build/programs
data=$deps/easy_vqa/data
for program in fedumm-superlink fedumm-supernode fedumm; do
  [ -x "$programs/$program" ] || { echo "demo: $programs/$program is missing: run 'make build' first" >&2; exit 1; }
done
[ -d "$data" ] || { echo "demo: no easy-VQA data in $data: run scripts/setup.sh first" >&2; exit 1; }

name=$(sed -n 's/^name *= *"\(.*\)".*/\1/p' "$config" | head -1)
clients=$(sed -n 's/^clients *= *\([0-9]*\).*/\1/p' "$config" | head -1)
run=runs/${name:-run}-$(date +%Y%m%d-%H%M%S)
mkdir -p "$run/logs"

# Ctrl-C, an error, the end: no process of ours outlives this script.
pids=()
stop() {
  trap - EXIT INT TERM
  [ ${#pids[@]} -gt 0 ] && kill -TERM "${pids[@]}" 2>/dev/null
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap stop EXIT
trap 'stop; echo; echo "demo: stopped; what was done so far is in $run" >&2; exit 130' INT TERM

start=$(date +%s)
"$programs/fedumm-superlink" --insecure --config "$config" --data "$data" --run-dir "$run" \
  --fleet-api-address 127.0.0.1:0 --port-file "$run/logs/port" &
superlink=$!
pids+=("$superlink")
for _ in $(seq 300); do
  [ -s "$run/logs/port" ] && break
  kill -0 "$superlink" 2>/dev/null || { wait "$superlink"; exit 1; }
  sleep 0.1
done
port=$(cat "$run/logs/port")
for ((i = 0; i < clients; ++i)); do
  "$programs/fedumm-supernode" --insecure --superlink "127.0.0.1:$port" --data "$data" \
    --node-config "partition-id=$i num-partitions=$clients" >"$run/logs/supernode-$i.log" 2>&1 &
  pids+=($!)
done
wait "$superlink"
kill -TERM "${pids[@]:1}" 2>/dev/null || true # nodes would wait for the next run
"$programs/fedumm" compare "$config" --data "$data" --run-dir "$run" --started "$start"
echo
echo "Open $run/report.html"
