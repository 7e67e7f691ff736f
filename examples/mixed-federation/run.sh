#!/usr/bin/env bash
# One federation: a SuperLink in C++, two nodes in C++ over gRPC and one of Flower's over HTTP, all on this machine. Takes some five minutes,
# and gives up after twenty.
#   run.sh [BUILD_FOLDER]    default: build/release, which `make build` makes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
programs=${1:-build/release}/programs
deps=$(scripts/setup.sh --print-dir)
data=$deps/easy_vqa/data
venv=${FEDUMM_MIXED_VENV:-$deps/venvs/mixed}
for needed in "$programs/fedumm-superlink" "$programs/fedumm-supernode" "$data" "$venv/bin/flower-supernode"; do
  [ -e "$needed" ] || { echo "mixed: $needed is missing: run 'make build' and examples/mixed-federation/setup.sh first" >&2; exit 1; }
done
run=$PWD/runs/mixed-$(date +%Y%m%d-%H%M%S)
mkdir -p "$run/logs" "$run/flower" "$run/app"
export FLWR_HOME=$run/flower FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 NO_COLOR=1 PATH="$venv/bin:$PATH"

# Every process is a group of its own, for Flower's nodes start more; none outlives this script.
pids=()
start() { # log command...
  local log=$run/logs/$1.log
  shift
  setsid timeout --kill-after=20 20m "$@" >"$log" 2>&1 &
  pids+=($!)
}
stop() {
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill -INT -- "-$pid" 2>/dev/null || true; done
  for _ in $(seq 100); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  wait
}
trap stop EXIT
trap 'exit 130' INT TERM

# 1. The Python node's app, as a bundle.
cp -r "$here/app/." "$run/app"
(cd "$run" && flwr build --app app >logs/build.log) || { cat "$run/logs/build.log" >&2; exit 1; }
fab=("$run"/*.fab)

# 2. The server: gRPC for the C++ nodes, HTTP for the Python node, the bundle for whoever asks.
start superlink "$programs/fedumm-superlink" --insecure --config "$here/federation.toml" --fab "${fab[0]}" --data "$data" --run-dir "$run" \
  --fleet-api-address 127.0.0.1:0 --host 127.0.0.1 --port 0 --port-file "$run/logs/ports"
superlink=${pids[0]}
for _ in $(seq 600); do
  [ -s "$run/logs/ports" ] && break
  kill -0 "$superlink" 2>/dev/null || break
  sleep 0.1
done
[ -s "$run/logs/ports" ] || { cat "$run/logs/superlink.log" >&2; exit 1; }
grpc=$(head -1 "$run/logs/ports")
http=$(sed -n 's/^http //p' "$run/logs/ports")

# 3. The nodes: each holds its own part of the questions.
for i in 0 1; do
  start "cpp-$i" "$programs/fedumm-supernode" --insecure --superlink "127.0.0.1:$grpc" --data "$data" \
    --node-config "partition-id=$i num-partitions=3"
done
# Flower's node wants a port of its own named.
own=$("$venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
start python flower-supernode --insecure --superlink "127.0.0.1:$http" --host 127.0.0.1 --port "$own" \
  --node-config "partition-id=2 num-partitions=3 model='$PWD/configs/tiny' data='$data'"

tail -n +1 -f --pid="$superlink" "$run/logs/superlink.log" &
# A node that dies must not leave the server waiting for it.
while kill -0 "$superlink" 2>/dev/null; do
  for i in 1 2 3; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    kill -0 "$superlink" 2>/dev/null || break
    echo "mixed: node $i of 3 ended early: $(tail -n 1 "$run"/logs/cpp-0.log "$run"/logs/cpp-1.log "$run"/logs/python.log)" >&2
    exit 1
  done
  sleep 0.2
done
wait "$superlink" || { echo "mixed: the server failed; its nodes' logs are in $run/logs" >&2; exit 1; }
"$venv/bin/python" "$here/report.py" "$run"
