// The results of a run's rounds, in a file that only grows.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/strategy.h"

namespace fedumm {

// A frame for each round, with round 0 first: the length of what follows the hash (8 bytes, little
// endian), the SHA-256 of the hash before it and of what follows, and the result as a
// flwr.proto.RecordDict. The checkpoint has the length of the log and the last hash: what follows
// was written by a process that was killed before it wrote its checkpoint, and is cut off. Not
// thread-safe.
class RoundLog {
 public:
  struct Mark {
    int64_t num_bytes = 0;
    std::string hash;  // of the last frame
    friend bool operator==(const Mark&, const Mark&) = default;
  };
  using OnRound = std::function<void(RoundResult round)>;

  // An empty log, in the place of what is there.
  static absl::StatusOr<RoundLog> Create(const std::string& path);
  // The log as it was at `mark`, whose rounds go to `on_round`. DATA_LOSS if it is missing, shorter
  // or damaged.
  static absl::StatusOr<RoundLog> Open(const std::string& path, const Mark& mark,
                                       const OnRound& on_round);
  // The same, without a change to the file.
  static absl::Status Read(const std::string& path, const Mark& mark, const OnRound& on_round);

  RoundLog(RoundLog&& other) noexcept;
  RoundLog& operator=(RoundLog&&) = delete;
  ~RoundLog();

  // The round is on the disk when this returns OK.
  absl::Status Append(const RoundResult& round);
  const Mark& mark() const { return mark_; }

 private:
  RoundLog(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
  Mark mark_;
};

// The part of a frame after its hash.
absl::StatusOr<std::string> EncodeRound(const RoundResult& round);
// DATA_LOSS for anything but what EncodeRound writes.
absl::StatusOr<RoundResult> DecodeRound(std::string_view bytes);

}  // namespace fedumm
