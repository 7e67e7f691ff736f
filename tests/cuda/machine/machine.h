// An emulated CUDA machine: runs the PTX that nvcc made of the shipped kernels, launched by the
// shipped host code, on a machine without a GPU, and reports every access that is not ordered,
// initialised, aligned and in bounds. tests/cuda/README.md says how to read a violation.
//
//   #include "tests/cuda/machine/fixture.h"
//   using fedumm::cuda_machine::Buffer;
//   using AxpyTest = fedumm::cuda_machine::MachineTest;  // loads the PTX, selects device 8.0
//
//   TEST_F(AxpyTest, SumsAreExactAtOddSizes) {
//     for (const int major : {8, 9}) {
//       fedumm::cuda_machine::SetDevice(major);
//       Buffer<float> x(1001, "x"), y(1001, "y");
//       x.Fill([](size_t i) { return static_cast<float>(i % 7); });
//       x.ReadOnly();
//       ASSERT_EQ(fedumm::Axpy(2, x.data(), y.data(), x.size(), /*stream=*/nullptr), 0);
//       ExpectClean();  // prints the violations, if there are any
//       for (size_t i = 0; i < y.size(); ++i) {
//         ASSERT_TRUE(y.WasWritten(i));
//         ASSERT_EQ(y[i], 2 * x[i]);
//       }
//     }
//   }
//
// In CMake: fedumm_cuda_test(axpy_cuda_test SOURCES axpy_test.cc KERNELS axpy_kernels).
//
// Everything here is for one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fedumm::cuda_machine {

// --- Violations ----------------------------------------------------------------------------------

enum class Kind {
  kRace,             // two accesses, at least one a write, that no barrier orders
  kPending,          // access to memory that an asynchronous copy or wgmma still writes or reads
  kUninitialised,    // read of memory without a value
  kOutOfBounds,      // access outside of every buffer, or outside of the block's shared memory
  kMisaligned,       // address is no multiple of the access size, or of what the instruction asks
  kDoubleWrite,      // two threads of a launch write one element of global memory
  kCrossThreadRead,  // read of global memory that another thread of this launch wrote
  kReadOnly,         // write to a buffer that is marked read-only
  kDeadlock,         // no thread can run
  kInFlight,         // a thread or block ends while its asynchronous work is not waited for
  kBarrier,          // wrong use of a barrier or mbarrier: counts, ids, memory that is none
  kProxyFence,       // generic write, then async-proxy access without fence.proxy.async
  kWgmma,            // wgmma protocol: missing fence, disagreeing warps, early accumulator access
  kDivergence,       // .aligned or mask of a warp-wide instruction disagrees with the live lanes
  kLaunch,           // launch refused: sizes, attributes, unknown kernel
  kTensorMap,        // cuTensorMapEncodeTiled refused its arguments
  kUnsupported,      // instruction or operand that the machine does not know
  kEndless,          // more instructions than Options::max_instructions
};
std::string_view Name(Kind kind);

struct Violation {
  Kind kind;
  std::string where;  // kernel, file, line, block, thread
  std::string text;
};

// What went wrong since the last TakeReport, once for each kind and source line.
struct Report {
  std::vector<Violation> violations;
  uint64_t count = 0;  // with repetitions
  bool ok() const { return count == 0; }
  bool Has(Kind kind) const;
  std::string ToString() const;
};
Report TakeReport();

// --- The machine that kernels run on -------------------------------------------------------------

enum class Order { kRandom, kAscending, kDescending };  // of blocks, and of warps in a block

struct Options {
  Order order = Order::kRandom;
  uint64_t seed = 1;
  bool races = true;  // vector clocks; off: only values, bounds and pending copies are checked
  // Asynchronous copies land at once. By default they land as late as the program allows (TMA: at
  // a random time), and memory holds NaN until then.
  bool land_early = false;
  bool statistics = false;
  uint64_t max_instructions = uint64_t{1} << 28;  // of one launch, counted by warps
};
void SetOptions(const Options& options);
const Options& GetOptions();

// Selects the compute capability, 8.0 or 9.0, and with it the PTX that launches run.
void SetDevice(int major, int minor = 0);

// Multiprocessors that the device reports until the next SetDevice, for host code that chooses
// tiles by their number. The default is that of A100 or H100.
void SetMultiprocessors(int count);

// Adds the kernels of PTX files for compute capability `major` (8 or 9); `paths` is separated by
// colons. A kernel that is already known is replaced. False if a file cannot be read.
bool LoadPtx(int major, std::string_view paths);

// --- Statistics (Options::statistics) ------------------------------------------------------------

// All accesses of one instruction. Shared memory: `cost` counts wavefronts, global memory: 32-byte
// sectors; `ideal` is the least cost of the same bytes.
struct AccessStatistics {
  std::string kernel, file, instruction;  // instruction: opcode and bytes of a lane
  int line = 0;                           // of the kernel's file where the access was inlined
  bool shared = false;
  uint64_t requests = 0, cost = 0, ideal = 0;
};

struct Statistics {
  std::vector<AccessStatistics> accesses;
  std::map<std::string, uint64_t> instructions;  // opcode -> warp instructions
  // cost / ideal of all accesses to shared (or global) memory whose instruction starts with
  // `prefix`; 1 if there are none.
  double Ratio(bool shared, std::string_view prefix = "") const;
  std::string ToString() const;
};
Statistics TakeStatistics();

// --- Device memory -------------------------------------------------------------------------------

// Exactly `bytes` bytes of global memory, `offset` bytes after a 256-byte boundary, all NaN (0xff)
// and without a value at first.
class DeviceMemory {
 public:
  DeviceMemory(size_t bytes, std::string name, size_t offset = 0);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  uint8_t* data() const;
  size_t bytes() const;
  void SetReadOnly(bool read_only);
  // Gives `bytes` from `first` on a value, whatever they hold.
  void MarkInitialised(size_t first, size_t bytes);
  void Poison();  // as at first
  bool IsInitialised(size_t first, size_t bytes) const;
  bool WasWritten(size_t first, size_t bytes) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// An array in global memory. A kernel that reads an element without a value, writes a read-only
// element or leaves the array is reported by name.
template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t size, std::string name, size_t offset_bytes = 0)
      : size_(size), memory_(size * sizeof(T), std::move(name), offset_bytes) {}

  // value(i) for each index.
  template <typename Function>
  void Fill(Function value) {
    for (size_t i = 0; i < size_; ++i) data()[i] = value(i);
    MarkInitialised();
  }
  void ReadOnly() { memory_.SetReadOnly(true); }
  // Padding that a kernel may read, but whose value must not matter, keeps NaN and is marked.
  void MarkInitialised() { memory_.MarkInitialised(0, size_ * sizeof(T)); }
  void MarkInitialised(size_t first, size_t count) {
    memory_.MarkInitialised(first * sizeof(T), count * sizeof(T));
  }
  void Poison() { memory_.Poison(); }
  // True if a launch wrote the whole element since the last Fill or Poison.
  bool WasWritten(size_t i) const { return memory_.WasWritten(i * sizeof(T), sizeof(T)); }

  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.data()); }
  T operator[](size_t i) const { return data()[i]; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  DeviceMemory memory_;
};

}  // namespace fedumm::cuda_machine
