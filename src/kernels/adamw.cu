// AdamW for many clients in two launches: each client's gradient norm in parts, then the update,
// whose blocks add up their client's parts in a fixed order. No atomics: equal inputs give equal
// bits, and a client's result does not depend on the others.
#include <algorithm>
#include <cmath>

#include "kernels/segments.cuh"
#include "kernels/workspace.h"

namespace fedumm::kernels {
// Not anonymous: a kernel's mangled name must be the same in every compilation of this file.
namespace adamw {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kQuad = 4;                               // elements that a thread takes together
constexpr int64_t kUpdateElements = 4 * kThreads * kQuad;  // of a block of the update
constexpr int64_t kMinPart = 16 * kThreads * kQuad;        // elements of a part of the norm
constexpr int64_t kMaxParts = kThreads;                    // a block of the update adds them up

struct ClientItem {
  float* parameters = nullptr;
  const float* gradients = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  void* shadow = nullptr;
  float* norm = nullptr;
  float* squares = nullptr;  // [parts]
  int64_t count = 0;
  int64_t part_elements = 0;  // a multiple of kQuad
  int32_t parts = 0;
  float decay = 0;      // 1 - learning_rate * weight_decay
  float step_size = 0;  // learning_rate / (1 - beta1^step)
  float root = 0;       // sqrt(1 - beta2^step)
  bool aligned = false;
};

struct AdamWArguments {
  float one_minus_beta1 = 0;
  float beta2 = 0;
  float one_minus_beta2 = 0;
  float epsilon = 0;
  float max_norm = 0;
  bool is_fp16 = false;  // the shadow's type: fp16, otherwise bf16
  bool is_float = false;
  Table<ClientItem, 256> table;
};
static_assert(sizeof(AdamWArguments) <= 32764, "the limit of kernel parameters");

// Four elements from data[at]; zeros beyond `count`.
__device__ __forceinline__ float4 Load4(const float* data, int64_t at, int64_t count,
                                        bool aligned) {
  if (aligned && at + 4 <= count) return *reinterpret_cast<const float4*>(data + at);
  float4 value = {0, 0, 0, 0};
  if (at < count) value.x = data[at];
  if (at + 1 < count) value.y = data[at + 1];
  if (at + 2 < count) value.z = data[at + 2];
  if (at + 3 < count) value.w = data[at + 3];
  return value;
}
__device__ __forceinline__ void Store4(float* data, int64_t at, int64_t count, bool aligned,
                                       float4 value) {
  if (aligned && at + 4 <= count) {
    ptx::StoreGlobal(data + at, value);
    return;
  }
  if (at < count) data[at] = value.x;
  if (at + 1 < count) data[at + 1] = value.y;
  if (at + 2 < count) data[at + 2] = value.z;
  if (at + 3 < count) data[at + 3] = value.w;
}

// The shadow's four elements from `at`: two registers of two 16-bit numbers.
__device__ __forceinline__ void StoreShadow(void* shadow, int64_t at, int64_t count, bool aligned,
                                            uint2 bits) {
  auto* const to = static_cast<uint16_t*>(shadow) + at;
  if (aligned && at + 4 <= count) {
    ptx::StoreGlobal(to, bits);
    return;
  }
  if (at < count) to[0] = static_cast<uint16_t>(bits.x);
  if (at + 1 < count) to[1] = static_cast<uint16_t>(bits.x >> 16);
  if (at + 2 < count) to[2] = static_cast<uint16_t>(bits.y);
  if (at + 3 < count) to[3] = static_cast<uint16_t>(bits.y >> 16);
}

// The sum over the block, the same in all threads, added up as a tree.
__device__ __forceinline__ float BlockSum(float value) {
  __shared__ float sums[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffff, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) value += sums[warp];
  return value;
}

// squares[part] = the sum of the squares of the part's gradients.
__global__ void __launch_bounds__(kThreads)
    SquaresKernel(const __grid_constant__ AdamWArguments arguments) {
  const int which = arguments.table.Find(blockIdx.x);
  const ClientItem& item = arguments.table.items[which];
  const int part = static_cast<int>(blockIdx.x - arguments.table.first[which]);
  const float* const gradients = item.gradients;
  const bool aligned = item.aligned;
  const int64_t first = part * item.part_elements;
  const int64_t end = min(first + item.part_elements, item.count);
  float4 sums = {0, 0, 0, 0};
#pragma unroll 4
  for (int64_t at = first + threadIdx.x * kQuad; at < end; at += kThreads * kQuad) {
    const float4 g = Load4(gradients, at, end, aligned);
    sums.x += g.x * g.x;
    sums.y += g.y * g.y;
    sums.z += g.z * g.z;
    sums.w += g.w * g.w;
  }
  const float sum = BlockSum((sums.x + sums.y) + (sums.z + sums.w));
  if (threadIdx.x == 0) item.squares[part] = sum;
}

__device__ __forceinline__ void Update(float& p, float g, float& m, float& v, float clip,
                                       const ClientItem& item, const AdamWArguments& arguments) {
  g *= clip;
  p *= item.decay;
  m += (g - m) * arguments.one_minus_beta1;
  v = v * arguments.beta2 + arguments.one_minus_beta2 * g * g;
  p -= item.step_size * (m / (sqrtf(v) / item.root + arguments.epsilon));
}

__global__ void __launch_bounds__(kThreads)
    UpdateKernel(const __grid_constant__ AdamWArguments arguments) {
  const int which = arguments.table.Find(blockIdx.x);
  const ClientItem& item = arguments.table.items[which];
  const int64_t block = blockIdx.x - arguments.table.first[which];
  const int part = threadIdx.x;
  const float norm = sqrtf(BlockSum(part < item.parts ? item.squares[part] : 0));
  if (block == 0 && threadIdx.x == 0) *item.norm = norm;
  float clip = 1;
  if (arguments.max_norm > 0) {
    clip = arguments.max_norm / (norm + 1e-6F);
    if (clip > 1) clip = 1;  // NaN stays NaN, as in clip_grad_norm_
  }
  const int64_t count = item.count;
  const bool aligned = item.aligned;
#pragma unroll 1
  for (int64_t i = 0; i < kUpdateElements; i += kThreads * kQuad) {
    const int64_t at = block * kUpdateElements + i + threadIdx.x * kQuad;
    if (at >= count) return;
    float4 p = Load4(item.parameters, at, count, aligned);
    const float4 g = Load4(item.gradients, at, count, aligned);
    float4 m = Load4(item.first_moment, at, count, aligned);
    float4 v = Load4(item.second_moment, at, count, aligned);
    Update(p.x, g.x, m.x, v.x, clip, item, arguments);
    Update(p.y, g.y, m.y, v.y, clip, item, arguments);
    Update(p.z, g.z, m.z, v.z, clip, item, arguments);
    Update(p.w, g.w, m.w, v.w, clip, item, arguments);
    Store4(item.parameters, at, count, aligned, p);
    Store4(item.first_moment, at, count, aligned, m);
    Store4(item.second_moment, at, count, aligned, v);
    if (item.shadow == nullptr) continue;
    if (arguments.is_float) {
      Store4(static_cast<float*>(item.shadow), at, count, aligned, p);
    } else if (arguments.is_fp16) {
      StoreShadow(item.shadow, at, count, aligned,
                  {ptx::Pack<__half>(p.x, p.y), ptx::Pack<__half>(p.z, p.w)});
    } else {
      StoreShadow(item.shadow, at, count, aligned,
                  {ptx::Pack<__nv_bfloat16>(p.x, p.y), ptx::Pack<__nv_bfloat16>(p.z, p.w)});
    }
  }
}

// --- Host

constexpr const char* kName = "AdamWCuda";

int64_t PartElements(int64_t count) {
  return std::max(kMinPart, RoundUp(CeilDiv(count, kMaxParts), kThreads * kQuad));
}
int64_t Parts(int64_t count) { return std::max<int64_t>(1, CeilDiv(count, PartElements(count))); }

int64_t WorkspaceFloats(absl::Span<const AdamWClient> clients) {
  int64_t floats = 0;
  for (const AdamWClient& client : clients) floats += Parts(client.count);
  return floats;
}

bool IsMisaligned(const void* data, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes != 0;
}

absl::Status CheckClient(const AdamWClient& client, size_t index, DType shadow) {
  const auto invalid = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": client ", index, " ", what));
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max() / 8;
  if (client.count < 0 || client.count > kMax)
    return invalid(absl::StrCat("has ", client.count, " elements"));
  if (client.step < 1) return invalid(absl::StrCat("has step ", client.step, ", less than 1"));
  if (!std::isfinite(client.learning_rate)) return invalid("has no finite learning rate");
  if (client.count == 0) return absl::OkStatus();
  for (const float* array : {static_cast<const float*>(client.parameters), client.gradients,
                             static_cast<const float*>(client.first_moment),
                             static_cast<const float*>(client.second_moment)}) {
    if (array == nullptr || IsMisaligned(array, sizeof(float)))
      return invalid("has a null or misaligned array");
  }
  if (IsMisaligned(client.shadow, BytesOf(shadow))) return invalid("has a misaligned shadow");
  return absl::OkStatus();
}

absl::Status Check(const AdamWOptions& options, absl::Span<const AdamWClient> clients,
                   const float* norms, const void* workspace) {
  const auto is_beta = [](double beta) { return beta >= 0 && beta < 1; };
  if (!is_beta(options.beta1) || !is_beta(options.beta2)) {
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": beta1 = ", options.beta1, " or beta2 = ", options.beta2, " is outside [0, 1)"));
  }
  if (!(options.epsilon >= 0) || !(options.max_norm >= 0) || !std::isfinite(options.weight_decay)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": epsilon = ", options.epsilon, ", max_norm = ", options.max_norm,
                     " or weight_decay = ", options.weight_decay, " is out of range"));
  }
  for (size_t i = 0; i < clients.size(); ++i) {
    if (absl::Status status = CheckClient(clients[i], i, options.shadow_dtype); !status.ok())
      return status;
  }
  if (!clients.empty() && (norms == nullptr || IsMisaligned(norms, sizeof(float))))
    return absl::InvalidArgumentError(absl::StrCat(kName, ": norms is null or misaligned"));
  return CheckWorkspace(kName, workspace, WorkspaceFloats(clients));
}

}  // namespace adamw

using namespace adamw;  // NOLINT(google-build-using-namespace)

int64_t AdamWWorkspaceBytes(absl::Span<const AdamWClient> clients) {
  return WorkspaceFloats(clients) * static_cast<int64_t>(sizeof(float));
}

absl::Status AdamWCuda(const AdamWOptions& options, absl::Span<const AdamWClient> clients,
                       float* norms, void* workspace, CUstream_st* stream) {
  if (absl::Status status = Check(options, clients, norms, workspace); !status.ok()) return status;
  AdamWArguments arguments;
  arguments.one_minus_beta1 = static_cast<float>(1 - options.beta1);
  arguments.beta2 = static_cast<float>(options.beta2);
  arguments.one_minus_beta2 = static_cast<float>(1 - options.beta2);
  arguments.epsilon = options.epsilon;
  arguments.max_norm = options.max_norm;
  arguments.is_fp16 = options.shadow_dtype == DType::kFloat16;
  arguments.is_float = options.shadow_dtype == DType::kFloat32;

  std::vector<ClientItem> items;
  float* squares = static_cast<float*>(workspace);
  for (const AdamWClient& client : clients) {
    const double rate = client.learning_rate;
    const auto step = static_cast<double>(client.step);
    ClientItem item;
    item.parameters = client.parameters;
    item.gradients = client.gradients;
    item.first_moment = client.first_moment;
    item.second_moment = client.second_moment;
    item.shadow = client.shadow;
    item.norm = norms + items.size();
    item.squares = squares;
    item.count = client.count;
    item.part_elements = PartElements(client.count);
    item.parts = static_cast<int32_t>(Parts(client.count));
    item.decay = static_cast<float>(1 - rate * options.weight_decay);
    item.step_size = static_cast<float>(rate / (1 - std::pow(options.beta1, step)));
    item.root = static_cast<float>(std::sqrt(1 - std::pow(options.beta2, step)));
    item.aligned = !IsMisaligned(client.parameters, 16) && !IsMisaligned(client.gradients, 16) &&
                   !IsMisaligned(client.first_moment, 16) &&
                   !IsMisaligned(client.second_moment, 16) && !IsMisaligned(client.shadow, 16);
    squares += item.parts;
    items.push_back(item);
  }
  const auto parts = [](const ClientItem& item) { return int64_t{item.parts}; };
  if (absl::Status status = ForTables<decltype(arguments.table)>(
          items, parts,
          [&](const auto& table) {
            arguments.table = table;
            return CudaStatus(Launch(SquaresKernel, dim3(table.blocks), kThreads, /*shared=*/0,
                                     stream, arguments),
                              kName);
          });
      !status.ok())
    return status;
  const auto blocks = [](const ClientItem& item) {  // one writes the norm of an empty client
    return std::max<int64_t>(1, CeilDiv(item.count, kUpdateElements));
  };
  return ForTables<decltype(arguments.table)>(items, blocks, [&](const auto& table) {
    arguments.table = table;
    return CudaStatus(
        Launch(UpdateKernel, dim3(table.blocks), kThreads, /*shared=*/0, stream, arguments), kName);
  });
}

}  // namespace fedumm::kernels
