#!/bin/sh
# Runs the benchmarks one after the other: benchmarks/run.sh [ROW...], all rows if none is named.
#   rows: idle null_round python_round adapter_round object_cost wire_bytes server_memory polling
# FEDUMM_BUILD is the build folder (default build/release, configured with -DFEDUMM_BUILD_BENCHMARKS=ON). Rows beside Flower need its virtual
# environments (scripts/setup.sh peers); without them the peer's lines are left out.
set -u
cd "$(dirname "$0")"
build=${FEDUMM_BUILD:-../build/release}
build=$(cd "$build" && pwd) || exit 2
[ $# -gt 0 ] || set -- idle null_round python_round adapter_round object_cost wire_bytes server_memory polling
failed=0
for row in "$@"; do
  python3 "$row.py" "$build" || { echo "$row failed" >&2; failed=1; }
done
exit $failed
