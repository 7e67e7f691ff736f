#include <cstdint>
#include <cstdlib>

#include "strategy/checkpoint.h"

// What is accepted must survive another round through the file format.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)fedumm::DecodeCheckpoint(bytes);
  const auto round = fedumm::DecodeRound(bytes);
  if (round.ok() && !fedumm::DecodeRound(*fedumm::EncodeRound(*round)).ok()) std::abort();
  const auto checkpoint = fedumm::DecodeCheckpointBody(bytes);
  if (!checkpoint.ok()) return 0;
  if (!fedumm::DecodeCheckpoint(fedumm::EncodeCheckpoint(*checkpoint)).ok()) std::abort();
  return 0;
}
