#include "fedumm/model/device.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr char kRemedy[] =
    "`scripts/setup.sh --cuda` installs LibTorch's CUDA libraries; `--device cpu` does without";

// Libraries register their device as they are loaded, and stay.
absl::Status LoadCudaHalf() {
  Dl_info torch;
  if (dladdr(reinterpret_cast<const void*>(&at::show_config), &torch) == 0) {
    return absl::InternalError("LibTorch's own place cannot be found");
  }
  std::string path = torch.dli_fname;
  path = absl::StrCat(path.substr(0, path.rfind('/') + 1), "libtorch_cuda.so");
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("no CUDA: ", dlerror(), "; ", kRemedy));
}

absl::StatusOr<at::Device> OpenCuda(int index) {
  static const absl::Status loaded = LoadCudaHalf();
  FEDUMM_RETURN_IF_ERROR(loaded);
  return Guarded([&]() -> absl::StatusOr<at::Device> {
    const int count = at::globalContext().hasCUDA()
                          ? c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).deviceCount()
                          : 0;
    if (count == 0) {
      return absl::UnavailableError(
          "no CUDA: no device, or no NVIDIA driver for it; `--device cpu` does without");
    }
    if (index >= count) {
      return absl::UnavailableError(absl::StrCat("cuda:", index, " does not exist: there are ",
                                                 count, " CUDA devices, counted from 0"));
    }
    return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
  });
}

}  // namespace

absl::StatusOr<at::Device> OpenDevice(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  if (name == "auto") {
    absl::StatusOr<at::Device> device = OpenCuda(0);
    return device.ok() ? device : at::Device(at::kCPU);
  }
  absl::string_view index = name;
  if (absl::ConsumePrefix(&index, "cuda")) {
    int number = 0;
    constexpr int kMost = 127;  // that LibTorch's index can hold
    if (index.empty() ||
        (absl::ConsumePrefix(&index, ":") && index.find_first_not_of("0123456789") == index.npos &&
         absl::SimpleAtoi(index, &number) && number <= kMost)) {
      return OpenCuda(number);
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("a device is cpu, cuda, cuda:1 or auto: ", name));
}

absl::StatusOr<std::optional<at::ScalarType>> WeightType(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  return absl::InvalidArgumentError(
      absl::StrCat("a dtype is auto, float32, bfloat16 or float16: ", name));
}

}  // namespace fedumm::model
