// Stands in for the CUDA runtime: objects that nvcc compiled, host code and <<<>>> included, are
// linked with this, and their launches run on the emulated machine. Everything is synchronous.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda/machine/device.h"
#include "tests/cuda/machine/emulator.h"
#include "tests/cuda/machine/tensor_map.h"

namespace {

namespace machine = fedumm::cuda_machine;
using machine::Device;
using machine::Kind;

struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};

struct Function {
  std::string mangled;
  int dynamic_shared_limit = 48 * 1024;  // cudaFuncAttributeMaxDynamicSharedMemorySize
};

struct Runtime {
  std::vector<Configuration> configurations;
  std::map<const void*, Function> functions;  // by host stub
  std::map<void*, std::unique_ptr<machine::DeviceMemory>> allocations;
  cudaError_t last_error = cudaSuccess;

  static Runtime& Get() {
    static auto* runtime = new Runtime();  // registered by static initialisers
    return *runtime;
  }
};

cudaError_t Record(cudaError_t error) {
  if (error != cudaSuccess) Runtime::Get().last_error = error;
  return error;
}

// A launch that a device would refuse is an error of the host code, and reported too.
cudaError_t Refuse(cudaError_t error, const std::string& kernel, const std::string& why) {
  Device::Get().reporter.Add(Kind::kLaunch, kernel, kernel + ": ", why);
  return Record(error);
}

machine::Dim3 From(const dim3& d) { return {d.x, d.y, d.z}; }

cudaError_t Launch(const void* stub, const dim3& grid, const dim3& block, dim3 cluster,
                   void** arguments, size_t shared) {
  Device& device = Device::Get();
  const auto function = Runtime::Get().functions.find(stub);
  if (function == Runtime::Get().functions.end()) {
    return Refuse(cudaErrorInvalidDeviceFunction, "?", "launch of an unregistered kernel");
  }
  const std::string name = machine::PlainName(function->second.mangled);
  const machine::Program* program = device.FindProgram(function->second.mangled);
  if (program == nullptr) {
    return Refuse(cudaErrorNoKernelImageForDevice, name,
                  "no PTX for compute capability " + std::to_string(device.major) + ".x");
  }
  if (program->cluster[0] != 0) {
    const dim3 required(program->cluster[0], program->cluster[1], program->cluster[2]);
    if (cluster.x * cluster.y * cluster.z > 1 &&
        (cluster.x != required.x || cluster.y != required.y || cluster.z != required.z)) {
      return Refuse(cudaErrorInvalidClusterSize, name, "cluster differs from __cluster_dims__");
    }
    cluster = required;
  }
  const uint64_t threads = From(block).Count();
  if (threads == 0 || threads > 1024 || block.z > 64) {
    return Refuse(cudaErrorInvalidConfiguration, name,
                  "block of a size that no device has: " + std::to_string(threads));
  }
  if (program->max_threads != 0 && threads > program->max_threads) {
    return Refuse(cudaErrorInvalidValue, name,
                  "more threads than __launch_bounds__: " + std::to_string(threads));
  }
  if (From(grid).Count() == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return Refuse(cudaErrorInvalidConfiguration, name, "grid of a size that no device has");
  }
  const uint64_t blocks = From(cluster).Count();
  if (blocks > 1 && device.major < 9) {
    return Refuse(cudaErrorNotSupported, name, "cluster on a device without clusters");
  }
  if (blocks > 8 || blocks == 0 || grid.x % cluster.x != 0 || grid.y % cluster.y != 0 ||
      grid.z % cluster.z != 0) {
    return Refuse(cudaErrorInvalidClusterSize, name,
                  "cluster is larger than 8 or does not divide the grid");
  }
  const size_t all_shared = shared + program->static_shared_bytes;
  const auto limit = static_cast<size_t>(function->second.dynamic_shared_limit);
  if (all_shared > 48 * 1024 &&
      shared > limit - (limit == 48 * 1024 ? program->static_shared_bytes : 0)) {
    return Refuse(cudaErrorInvalidValue, name,
                  "more dynamic shared memory than cudaFuncSetAttribute allowed: " +
                      std::to_string(shared) + " of " + std::to_string(limit));
  }
  if (all_shared > static_cast<size_t>(device.SharedBytesOptin())) {
    return Refuse(cudaErrorInvalidValue, name,
                  "more shared memory than the device has: " + std::to_string(all_shared));
  }
  if (program->param_bytes > 32764) {
    return Refuse(cudaErrorInvalidValue, name,
                  "more than 32764 bytes of parameters: " + std::to_string(program->param_bytes));
  }
  std::vector<uint8_t> params(program->param_bytes);
  for (size_t i = 0; i < program->params.size(); ++i) {
    std::memcpy(params.data() + program->params[i].offset, arguments[i], program->params[i].bytes);
  }
  ++device.launches;
  machine::LaunchShape shape;
  shape.grid = From(grid);
  shape.block = From(block);
  shape.cluster = From(cluster);
  shape.dynamic_shared = static_cast<uint32_t>(shared);
  machine::Machine(device, *program, shape, std::move(params)).Run();
  return cudaSuccess;
}

// --- Tensor maps ---------------------------------------------------------------------------------

CUresult RefuseMap(const std::string& why) {
  Device::Get().reporter.Add(Kind::kTensorMap, why, "cuTensorMapEncodeTiled: ", why);
  return CUDA_ERROR_INVALID_VALUE;
}

int ElementBytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
      return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      return 0;
  }
}

// The rules are those of the driver API's text on cuTensorMapEncodeTiled.
CUresult EncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                     const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                     const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                     CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                     CUtensorMapFloatOOBfill fill) {
  if (Device::Get().major < 9) return CUDA_ERROR_NOT_SUPPORTED;
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) {
    return RefuseMap("the map is not aligned to 64 bytes");
  }
  const int element = ElementBytes(type);
  if (element == 0) return RefuseMap("element type that the machine does not know");
  if (rank < 1 || rank > 5) return RefuseMap("rank out of range: " + std::to_string(rank));
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return RefuseMap("interleave is not supported");
  if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B) return RefuseMap("swizzle is not supported");
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    return RefuseMap("the address is not aligned to 16 bytes");
  }
  machine::TensorMap out = {};
  out.magic = machine::TensorMap::kMagic;
  out.rank = rank;
  out.base = static_cast<uint8_t*>(address);
  out.element_bytes = static_cast<uint8_t>(element);
  out.swizzle = static_cast<uint8_t>(swizzle);
  out.nan_fill = fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  out.stride[0] = static_cast<uint64_t>(element);
  for (cuuint32_t d = 0; d < rank; ++d) {
    if (sizes[d] == 0 || sizes[d] > uint64_t{1} << 32) {
      return RefuseMap("size out of range: " + std::to_string(sizes[d]));
    }
    if (box[d] == 0 || box[d] > 256) {
      return RefuseMap("box out of range: " + std::to_string(box[d]));
    }
    if (element_strides[d] == 0 || element_strides[d] > 8) {
      return RefuseMap("element stride out of range: " + std::to_string(element_strides[d]));
    }
    if (element_strides[d] != 1) return RefuseMap("element strides are not supported");
    out.size[d] = sizes[d];
    out.box[d] = static_cast<uint16_t>(box[d]);
    if (d == 0) continue;
    const uint64_t stride = strides[d - 1];
    if (stride % 16 != 0 || stride >= uint64_t{1} << 40) {
      return RefuseMap("stride is no multiple of 16 bytes below 2^40: " + std::to_string(stride));
    }
    // One row may be given any stride; more rows must not overlap.
    if (d == 1 && sizes[1] > 1 && stride < sizes[0] * static_cast<uint64_t>(element)) {
      return RefuseMap("stride is shorter than a row: " + std::to_string(stride));
    }
    out.stride[d] = stride;
  }
  const uint32_t inner = box[0] * static_cast<uint32_t>(element);
  if (inner % 16 != 0) {
    return RefuseMap("row of the box is no multiple of 16 bytes: " + std::to_string(inner));
  }
  if (out.swizzle != 0 && inner > 16u << out.swizzle) {
    return RefuseMap("row of the box is longer than the swizzle: " + std::to_string(inner));
  }
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &out, sizeof out);
  return CUDA_SUCCESS;
}

}  // namespace

// The names and signatures are those of the CUDA runtime.
// NOLINTBEGIN
extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, void*, void*,
                            void*, void*, int*) {
  Runtime::Get().functions[host].mangled = device;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 0; }

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  Runtime::Get().configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration c = Runtime::Get().configurations.back();
  Runtime::Get().configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<void**>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t) {
  return Launch(f, grid, block, dim3(1, 1, 1), arguments, shared);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t) {
  return Launch(f, grid, block, dim3(1, 1, 1), arguments, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* f, void** arguments) {
  dim3 cluster(1, 1, 1);
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& a = config->attrs[i];
    if (a.id == cudaLaunchAttributeClusterDimension) {
      cluster = dim3(a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z);
    } else if (a.id != cudaLaunchAttributeProgrammaticStreamSerialization &&
               a.id != cudaLaunchAttributePriority && a.id != cudaLaunchAttributeIgnore) {
      return Refuse(cudaErrorNotSupported, "cudaLaunchKernelExC",
                    "launch attribute that the machine does not know: " + std::to_string(a.id));
    }
  }
  return Launch(f, config->gridDim, config->blockDim, cluster, arguments, config->dynamicSmemBytes);
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* f) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(f));
  return cudaSuccess;
}
cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* f) {
  return __cudaGetKernel(kernel, f);
}

cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute attribute, int value) {
  const auto it = Runtime::Get().functions.find(f);
  if (it == Runtime::Get().functions.end()) return Record(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    const machine::Program* program = Device::Get().FindProgram(it->second.mangled);
    const int fixed = program == nullptr ? 0 : static_cast<int>(program->static_shared_bytes);
    if (value < 0 || value + fixed > Device::Get().SharedBytesOptin()) {
      return Record(cudaErrorInvalidValue);
    }
    it->second.dynamic_shared_limit = value;
  }
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = Runtime::Get().last_error;
  Runtime::Get().last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return Runtime::Get().last_error; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for the device";
    case cudaErrorInvalidClusterSize:
      return "invalid cluster size";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "error of the emulated CUDA runtime";
  }
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return Record(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const Device& d = Device::Get();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = d.MultiprocessorCount();
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = d.SharedBytesOptin();
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = d.SharedBytesPerMultiprocessor();
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = 32;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = 65536;
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = 0x7fffffff;
      break;
    case cudaDevAttrMaxGridDimY:
      *value = 65535;
      break;
    case cudaDevAttrMaxGridDimZ:
      *value = 65535;
      break;
    case cudaDevAttrL2CacheSize:
      *value = d.major >= 9 ? 50 << 20 : 40 << 20;
      break;
    case cudaDevAttrClusterLaunch:
      *value = d.major >= 9 ? 1 : 0;
      break;
    default:
      return Record(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  auto memory = std::make_unique<machine::DeviceMemory>(bytes, "cudaMalloc");
  *p = memory->data();
  Runtime::Get().allocations[*p] = std::move(memory);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  return Record(p == nullptr || Runtime::Get().allocations.erase(p) == 1 ? cudaSuccess
                                                                         : cudaErrorInvalidValue);
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }

// Copies move values only: a copy of memory without a value leaves it without one.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (bytes == 0) return cudaSuccess;
  machine::GlobalMemory& global = Device::Get().global;
  auto* target_bytes = static_cast<uint8_t*>(to);
  const auto* source_bytes = static_cast<const uint8_t*>(from);
  machine::Allocation* target = global.Find(target_bytes);
  machine::Allocation* source = global.Find(source_bytes);
  const auto fits = [&](const machine::Allocation* a, const uint8_t* p) {
    return a == nullptr || p + bytes <= a->data + a->bytes;
  };
  if (!fits(target, target_bytes) || !fits(source, source_bytes)) {
    Device::Get().reporter.Add(Kind::kOutOfBounds, "cudaMemcpy",
                               "cudaMemcpyAsync: ", "copy leaves a buffer");
    return Record(cudaErrorInvalidValue);
  }
  std::memmove(to, from, bytes);
  if (target == nullptr) return cudaSuccess;
  if (target->read_only) {
    Device::Get().reporter.Add(Kind::kReadOnly, "cudaMemcpy", "cudaMemcpyAsync: ",
                               "write to a read-only buffer: '" + target->name + "'");
  }
  ++Device::Get().launches;
  const uint64_t writer = machine::GlobalMemory::Writer(Device::Get().launches, 0, 0);
  const auto at = static_cast<size_t>(target_bytes - target->data);
  for (size_t i = 0; i < bytes; i += 2) {
    const bool has_value =
        source == nullptr ||
        source->cells[(static_cast<size_t>(source_bytes - source->data) + i) / 2] != 0;
    target->cells[(at + i) / 2] = has_value ? writer : 0;
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  const std::vector<uint8_t> values(bytes, static_cast<uint8_t>(value));
  return cudaMemcpyAsync(p, values.data(), bytes, cudaMemcpyHostToDevice, stream);
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  return cudaMemsetAsync(p, value, bytes, nullptr);
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool found = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = found ? reinterpret_cast<void*>(&EncodeTiled) : nullptr;
  if (result != nullptr) {
    *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  }
  return found ? cudaSuccess : Record(cudaErrorInvalidValue);
}

}  // extern "C"
// NOLINTEND
