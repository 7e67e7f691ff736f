#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::programs {

// CRC-32C (Castagnoli) of `bytes`, and the masked form in which TensorFlow's record files store it.
uint32_t Crc32c(std::string_view bytes);
uint32_t MaskedCrc32c(std::string_view bytes);

// Writes scalars that TensorBoard shows: a file events.out.tfevents.<seconds>.<host> of TFRecords,
// each one serialized tensorflow.Event. Flushed after every scalar. Not thread-safe.
class TensorBoardWriter {
 public:
  // `now_seconds` is the time of the file's first event, seconds since the Unix epoch.
  static absl::StatusOr<TensorBoardWriter> Create(const std::string& folder, double now_seconds);

  absl::Status AddScalar(std::string_view tag, int64_t step, float value, double now_seconds);

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit TensorBoardWriter(std::FILE* file) : file_(file) {}
  absl::Status WriteRecord(std::string_view event);

  std::unique_ptr<std::FILE, CloseFile> file_;
};

}  // namespace fedumm::programs
