#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace fedumm {

// SHA-256 of the concatenation of all `Update`d bytes (OpenSSL). Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  Sha256& Update(std::string_view bytes);
  std::string Hex() &&;  // 64 lower-case digits; called at most once

 private:
  void* context_;
};

inline std::string Sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return std::move(hash).Hex();
}

}  // namespace fedumm
