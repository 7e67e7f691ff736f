// The golden objects of tests/data/flower, and what they are made of.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fedumm/message.h"
#include "nlohmann/json.hpp"

namespace fedumm::wire {

struct GoldenEntry {
  std::string name;
  std::string kind;
  std::string object_id;
  std::string header;
  std::string body_sha256;
  std::string content;  // empty if the file leaves it out
  std::string npy;      // likewise
  size_t size = 0;
  std::vector<std::string> children;
  std::string metadata_proto;  // these of a Message only
  std::string wire_message;
  nlohmann::json object_tree;
};

const std::vector<GoldenEntry>& GoldenEntries();
const GoldenEntry& Golden(std::string_view name);

// The value that the entry's Python expression makes; chunks and arrays in foreign layouts are not
// values of ours and are left out.
using GoldenValue =
    std::variant<Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict, Message>;
const std::map<std::string, GoldenValue>& GoldenValues();

}  // namespace fedumm::wire
