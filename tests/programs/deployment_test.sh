#!/usr/bin/env bash
# The same settings and seed, simulated in one process and deployed as a server and two nodes over gRPC, give the same adapter, bit for bit.
# Usage: deployment_test.sh PROGRAMS_FOLDER REPOSITORY DATA_FOLDER
set -euo pipefail
programs=$1
cd "$2"
data=$3

folder=$(mktemp -d)
pids=()
cleanup() {
  trap - EXIT
  kill -TERM "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT
cat >"$folder/run.toml" <<'T'
name = "deployment-test"
seed = 5
[federation]
clients = 2
rounds = 2
min-available-nodes = 2
[train]
local-steps = 3
vqa-batch-size = 4
draw-batch-size = 4
T
"$programs/fedumm" simulate "$folder/run.toml" --data "$data" --run-dir "$folder/simulated" --no-evaluate

"$programs/fedumm-superlink" --insecure --config "$folder/run.toml" --data "$data" --run-dir "$folder/deployed" --no-evaluate \
  --fleet-api-address 127.0.0.1:0 --port-file "$folder/port" >"$folder/superlink.out" &
superlink=$!
pids+=("$superlink")
for _ in $(seq 600); do
  [ -s "$folder/port" ] && break
  kill -0 "$superlink"
  sleep 0.1
done
for i in 1 0; do
  "$programs/fedumm-supernode" --insecure --superlink "127.0.0.1:$(cat "$folder/port")" --data "$data" \
    --node-config "partition-id=$i num-partitions=2" >"$folder/node-$i.log" 2>&1 &
  pids+=($!)
done
wait "$superlink"
cat "$folder/superlink.out"
# The terminal and the log show which nodes joined and how many were missing.
for output in superlink.out deployed/superlink.log; do
  grep -q '0 of 2 nodes online' "$folder/$output"
  test "$(grep -c 'node [0-9]* joined' "$folder/$output")" -eq 2
done
cmp "$folder/simulated/adapter/adapter_model.safetensors" "$folder/deployed/adapter/adapter_model.safetensors"
cmp "$folder/simulated/adapter/adapter_config.json" "$folder/deployed/adapter/adapter_config.json"
# And the adapter was trained at all: another seed gives another one.
sed 's/^seed = 5/seed = 6/' "$folder/run.toml" >"$folder/other.toml"
"$programs/fedumm" simulate "$folder/other.toml" --data "$data" --run-dir "$folder/other" --no-evaluate >/dev/null
! cmp -s "$folder/simulated/adapter/adapter_model.safetensors" "$folder/other/adapter/adapter_model.safetensors"
echo "simulated and deployed adapters are equal"
