#!/usr/bin/env bash
# A SuperNode that is killed in the middle of a round costs its reply: the round ends with the others, and so does the run.
# Usage: killed_node_test.sh PROGRAMS_FOLDER REPOSITORY DATA_FOLDER
set -euo pipefail
programs=$1
cd "$2"
data=$3

folder=$(mktemp -d)
pids=()
cleanup() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT
cat >"$folder/run.toml" <<'T'
name = "killed-node-test"
[federation]
clients = 3
rounds = 2
min-available-nodes = 3
round-timeout = 30
quorum = 2
[train]
tasks = "vqa"
local-steps = 200
vqa-batch-size = 4
T
"$programs/fedumm-superlink" --insecure --config "$folder/run.toml" --data "$data" --run-dir "$folder/run" --no-evaluate \
  --fleet-api-address 127.0.0.1:0 --port-file "$folder/port" >"$folder/superlink.out" &
superlink=$!
pids+=("$superlink")
for _ in $(seq 600); do
  [ -s "$folder/port" ] && break
  kill -0 "$superlink"
  sleep 0.1
done
for i in 0 1 2; do
  "$programs/fedumm-supernode" --insecure --superlink "127.0.0.1:$(cat "$folder/port")" --data "$data" \
    --node-config "partition-id=$i num-partitions=3" >"$folder/node-$i.log" 2>&1 &
  pids+=($!)
done
# The last node has its instruction of the first round: it trains now.
for _ in $(seq 1200); do
  grep -q "train" "$folder/node-2.log" && break
  kill -0 "$superlink"
  sleep 0.05
done
kill -9 "${pids[3]}"
wait "$superlink"
cat "$folder/superlink.out"
grep -Eq '^ +1 +2/3 ' "$folder/superlink.out"
grep -Eq '^ +2 +2/' "$folder/superlink.out"
test -s "$folder/run/adapter/adapter_model.safetensors"
echo "the run ended without the killed node"
