// An .npy stream, read; what is read is written and read again.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "record/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto stream =
      std::make_shared<const std::string>(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<fedumm::Array> array = fedumm::ReadNpy(stream, 0, fedumm::Limits());
  if (!array.ok()) return 0;
  array->ToDoubles();
  const auto written = std::make_shared<const std::string>(fedumm::WriteNpy(*array));
  if (fedumm::ReadNpy(written, 0, fedumm::Limits()).value() != *array) std::abort();
  return 0;
}
