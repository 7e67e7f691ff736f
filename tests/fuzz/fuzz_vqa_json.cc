// VQA v2's files in blocks of any size: how they are cut must not matter.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "model/data/json_entries.h"

namespace {

using fedumm::model::JsonEntry;

// What a reader sees, as text.
std::string Seen(std::string_view json, size_t block, const char* array, const char* items) {
  std::string seen;
  const auto show = [&](const JsonEntry& entry) {
    for (const char* const name : {"question_id", "answer_id", "x"}) {
      const auto number = entry.Integer(name);
      absl::StrAppend(&seen, number.ok() ? absl::StrCat(*number) : "-", ";");
    }
    for (const char* const name : {"question", "answer", "x"}) {
      absl::StrAppend(&seen, entry.Text(name).value_or("-"), ";");
    }
  };
  size_t done = 0;
  const auto source = [&](char* out, size_t size) -> absl::StatusOr<size_t> {
    const size_t count = std::min({size, block, json.size() - done});
    std::copy_n(json.data() + done, count, out);
    done += count;
    return count;
  };
  const absl::Status status =
      fedumm::model::ForEachJsonEntry(source, array, items, [&](const JsonEntry& entry) {
        show(entry);
        for (const JsonEntry& item : entry.items()) show(item);
        return absl::OkStatus();
      });
  absl::StrAppend(&seen, status.ToString());
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  for (const char* const array : {"", "questions", "annotations"}) {
    for (const char* const items : {"", "answers"}) {
      const std::string whole = Seen(json, size + 1, array, items);
      if (Seen(json, 1, array, items) != whole || Seen(json, 7, array, items) != whole) {
        std::abort();
      }
    }
  }
  return 0;
}
