#pragma once

#include <cstdint>

#include "fedumm/record.h"

namespace fedumm {

// What an app knows beside the message at hand. `state` persists over the messages of one run on
// one node; the rest is read-only in effect.
struct Context {
  uint64_t run_id = 0;
  uint64_t node_id = 0;
  ConfigRecord node_config;  // set where the node was started: partition-id, num-partitions, …
  RecordDict state;
  ConfigRecord run_config;  // set where the run was started
};

}  // namespace fedumm
