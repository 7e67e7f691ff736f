#include <ATen/core/Tensor.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"
#include "fedumm/model/parameters.h"
#include "model/guarded.h"

namespace fedumm::model {

absl::StatusOr<std::string> HashParameters(const std::map<std::string, at::Tensor*>& parameters) {
  return Guarded([&]() -> absl::StatusOr<std::string> {
    Sha256 hash;
    for (const auto& [name, tensor] : parameters) {
      const at::Tensor host = tensor->detach().cpu().contiguous();
      // Lengths and a terminator keep "ab" + "c" apart from "a" + "bc".
      hash.Update(absl::StrCat(name.size(), ":", name, " ", c10::toString(host.scalar_type()), "[",
                               absl::StrJoin(host.sizes(), ","), "]"));
      hash.Update({static_cast<const char*>(host.const_data_ptr()), host.nbytes()});
    }
    return std::move(hash).Hex();
  });
}

}  // namespace fedumm::model
