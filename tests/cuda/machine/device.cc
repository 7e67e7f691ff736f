#include "tests/cuda/machine/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace fedumm::cuda_machine {

Device& Device::Get() {
  static auto* device = new Device();  // kernels of static objects may still use it at exit
  return *device;
}

const Program* Device::FindProgram(const std::string& mangled) const {
  const auto of_device = programs.find(major);
  if (of_device == programs.end()) return nullptr;
  const auto it = of_device->second.find(mangled);
  return it == of_device->second.end() ? nullptr : it->second.get();
}

// --- machine.h -----------------------------------------------------------------------------------

std::string_view Name(Kind kind) {
  switch (kind) {
    case Kind::kRace:
      return "race";
    case Kind::kPending:
      return "pending";
    case Kind::kUninitialised:
      return "uninitialised";
    case Kind::kOutOfBounds:
      return "out of bounds";
    case Kind::kMisaligned:
      return "misaligned";
    case Kind::kDoubleWrite:
      return "double write";
    case Kind::kCrossThreadRead:
      return "cross-thread read";
    case Kind::kReadOnly:
      return "read-only";
    case Kind::kDeadlock:
      return "deadlock";
    case Kind::kInFlight:
      return "in flight";
    case Kind::kBarrier:
      return "barrier";
    case Kind::kProxyFence:
      return "proxy fence";
    case Kind::kWgmma:
      return "wgmma";
    case Kind::kDivergence:
      return "divergence";
    case Kind::kLaunch:
      return "launch";
    case Kind::kTensorMap:
      return "tensor map";
    case Kind::kUnsupported:
      return "unsupported";
    case Kind::kEndless:
      return "endless";
  }
  return "unknown";
}

bool Report::Has(Kind kind) const {
  return std::any_of(violations.begin(), violations.end(),
                     [&](const Violation& v) { return v.kind == kind; });
}

std::string Report::ToString() const {
  std::string out = std::to_string(count) + " violations\n";
  for (const Violation& v : violations) {
    out += "  [" + std::string(Name(v.kind)) + "] " + v.where + v.text + "\n";
  }
  return out;
}

Report TakeReport() { return Device::Get().reporter.Take(); }
Statistics TakeStatistics() { return Device::Get().statistics.Take(); }
void SetOptions(const Options& options) { Device::Get().options = options; }
const Options& GetOptions() { return Device::Get().options; }

void SetDevice(int major, int minor) {
  Device::Get().major = major;
  Device::Get().minor = minor;
  Device::Get().multiprocessors = 0;
}

void SetMultiprocessors(int count) { Device::Get().multiprocessors = count; }

bool LoadPtx(int major, std::string_view paths) {
  while (!paths.empty()) {
    const size_t end = std::min(paths.find(':'), paths.size());
    std::ifstream in{std::string(paths.substr(0, end))};
    if (!in) return false;
    std::stringstream text;
    text << in.rdbuf();
    for (auto& program : ParsePtx(text.str())) {
      const std::string name = program->mangled;
      Device::Get().programs[major][name] = std::move(program);
    }
    paths.remove_prefix(std::min(end + 1, paths.size()));
  }
  return true;
}

struct DeviceMemory::Impl {
  Allocation allocation;
  uint8_t* raw = nullptr;
};

namespace {
// Room on both sides of a buffer, so that an access out of bounds does not land in another one. The
// pages are never touched.
constexpr size_t kGuardBytes = size_t{1} << 20;
}  // namespace

DeviceMemory::DeviceMemory(size_t bytes, std::string name, size_t offset)
    : impl_(std::make_unique<Impl>()) {
  void* raw = nullptr;
  if (posix_memalign(&raw, 256, offset + bytes + 2 * kGuardBytes) != 0) std::abort();
  impl_->raw = static_cast<uint8_t*>(raw);
  Allocation& a = impl_->allocation;
  a.name = std::move(name);
  a.data = impl_->raw + kGuardBytes + offset;
  a.bytes = bytes;
  a.cells.resize((bytes + 1) / 2);
  Poison();
  Device::Get().global.Register(&a);
}

DeviceMemory::~DeviceMemory() {
  Device::Get().global.Unregister(&impl_->allocation);
  std::free(impl_->raw);
}

uint8_t* DeviceMemory::data() const { return impl_->allocation.data; }
size_t DeviceMemory::bytes() const { return impl_->allocation.bytes; }
void DeviceMemory::SetReadOnly(bool read_only) { impl_->allocation.read_only = read_only; }

void DeviceMemory::MarkInitialised(size_t first, size_t bytes) {
  if (bytes == 0) return;
  std::vector<uint64_t>& cells = impl_->allocation.cells;
  const size_t end = std::min((first + bytes - 1) / 2 + 1, cells.size());
  for (size_t i = first / 2; i < end; ++i) cells[i] = GlobalMemory::Writer(0, 0, 0);
}

void DeviceMemory::Poison() {
  std::memset(impl_->allocation.data, 0xff, impl_->allocation.bytes);
  std::fill(impl_->allocation.cells.begin(), impl_->allocation.cells.end(), 0);
}

bool DeviceMemory::IsInitialised(size_t first, size_t bytes) const {
  for (size_t i = first / 2; i <= (first + bytes - 1) / 2; ++i) {
    if (impl_->allocation.cells[i] == 0) return false;
  }
  return true;
}

bool DeviceMemory::WasWritten(size_t first, size_t bytes) const {
  for (size_t i = first / 2; i <= (first + bytes - 1) / 2; ++i) {
    if (!GlobalMemory::WrittenByLaunch(impl_->allocation.cells[i])) return false;
  }
  return true;
}

}  // namespace fedumm::cuda_machine
