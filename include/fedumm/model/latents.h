// Latents of pictures on disk: what the drawing task trains on, made once by the target encoder.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/safetensors.h"

namespace fedumm::model {

// A folder of safetensors shards with latents.safetensors.index.json, which maps each picture's
// name (its path relative to the folder of pictures) to its shard. The files stay mapped.
// Immutable, thread-safe, cheap to copy.
class LatentFolder {
 public:
  // NOT_FOUND without an index; INVALID_ARGUMENT, naming the file, unless index and shards fit and
  // all latents have one shape [channels, side, side] and a float type.
  static absl::StatusOr<LatentFolder> Open(const std::string& folder);

  size_t size() const { return by_name_.size(); }
  bool contains(std::string_view name) const { return by_name_.find(name) != by_name_.end(); }
  const std::vector<int64_t>& shape() const { return shape_; }  // of each; empty without latents
  const std::string& encoder() const { return encoder_; }       // what made them
  // NOT_FOUND, naming the picture.
  absl::StatusOr<const SafetensorsTensor*> Find(std::string_view name) const;

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const SafetensorsTensor*, std::less<>> by_name_;
  std::vector<int64_t> shape_;
  std::string encoder_;
};

// Writes such a folder, shard by shard: what was flushed survives a crash. Not thread-safe.
class LatentWriter {
 public:
  // Goes on with what the folder holds. `encoder` names what makes the latents (a hash of its
  // weights and its settings). FAILED_PRECONDITION if the folder holds latents of another one.
  static absl::StatusOr<LatentWriter> Open(const std::string& folder, const std::string& encoder);

  bool contains(const std::string& name) const { return shard_of_.contains(name); }
  size_t size() const { return shard_of_.size(); }
  // INVALID_ARGUMENT if the name is there already.
  absl::Status Add(const std::string& name, SafetensorsDType dtype, std::vector<int64_t> shape,
                   std::string bytes);
  int64_t pending_bytes() const { return pending_bytes_; }
  // Writes what was added since the last call as one shard, then the index; each file atomically.
  absl::Status Flush();

 private:
  struct Pending {
    std::string name;
    SafetensorsDType dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  LatentWriter(std::string folder, std::string encoder)
      : folder_(std::move(folder)), encoder_(std::move(encoder)) {}

  std::string folder_;
  std::string encoder_;
  std::map<std::string, std::string> shard_of_;
  int64_t num_shards_ = 0;
  std::vector<Pending> pending_;
  int64_t pending_bytes_ = 0;
};

}  // namespace fedumm::model
