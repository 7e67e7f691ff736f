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
export FEDUMM_DEPS=$deps # where the programs find the pictures
for program in fedumm-superlink fedumm-supernode fedumm; do
  [ -x "$programs/$program" ] || { echo "demo: $programs/$program is missing: run 'make build' first" >&2; exit 1; }
done

setting() { "$programs/fedumm" settings --config "$config" --get "$1"; }
name=$(setting name)
clients=$(setting federation.clients)
run=runs/$name-$(date +%Y%m%d-%H%M%S)
mkdir -p "$run/logs"

# Ctrl-C, an error, the end: no process of ours outlives this script.
pids=()
stop() {
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap stop EXIT
trap 'stop; echo; echo "demo: stopped; what was done so far is in $run" >&2; exit 130' INT TERM

start=$(date +%s)
"$programs/fedumm-superlink" --insecure --config "$config" --run-dir "$run" \
  --fleet-api-address 127.0.0.1:0 --port-file "$run/logs/port" &
superlink=$!
pids+=("$superlink")
for _ in $(seq 300); do
  [ -s "$run/logs/port" ] && break
  kill -0 "$superlink" 2>/dev/null || { wait "$superlink"; exit 1; }
  sleep 0.1
done
[ -s "$run/logs/port" ] || { echo "demo: the SuperLink did not start within 30 s; see $run/superlink.log" >&2; exit 1; }
port=$(cat "$run/logs/port")
# A server names no files on a node: --config says where the nodes' own lie.
for ((i = 0; i < clients; ++i)); do
  "$programs/fedumm-supernode" --insecure --superlink "127.0.0.1:$port" --config "$config" \
    --node-config "partition-id=$i num-partitions=$clients" >"$run/logs/supernode-$i.log" 2>&1 &
  pids+=($!)
done
# A node that dies must not leave the server waiting for it.
while kill -0 "$superlink" 2>/dev/null; do
  for ((i = 0; i < clients; ++i)); do
    kill -0 "${pids[i + 1]}" 2>/dev/null && continue
    kill -0 "$superlink" 2>/dev/null || break
    echo "demo: SuperNode $i ended early: $(tail -n 1 "$run/logs/supernode-$i.log")" >&2
    exit 1
  done
  sleep 0.2
done
wait "$superlink"
for pid in "${pids[@]:1}"; do kill -TERM "$pid" 2>/dev/null || true; done # they would wait for the next run
"$programs/fedumm" compare "$config" --run-dir "$run" --started "$start"
echo
echo "Open $run/report.html"
