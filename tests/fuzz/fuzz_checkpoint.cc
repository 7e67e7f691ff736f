#include <cstdint>
#include <cstdlib>

#include "strategy/checkpoint.h"

// What is accepted must survive another round through the file format.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)fedumm::DecodeCheckpoint(bytes);
  const auto checkpoint = fedumm::DecodeCheckpointBody(bytes);
  if (!checkpoint.ok()) return 0;
  const auto encoded = fedumm::EncodeCheckpoint(*checkpoint);
  if (!encoded.ok() || !fedumm::DecodeCheckpoint(*encoded).ok()) std::abort();
  return 0;
}
