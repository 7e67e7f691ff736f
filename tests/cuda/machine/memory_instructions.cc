#include "tests/cuda/machine/memory_instructions.h"

#include <cstring>

namespace fedumm::cuda_machine {
namespace {

struct Target {
  uint8_t* data = nullptr;
  Space space = Space::kGlobal;
};

uint8_t* AccessLocal(Warp& w, Thread& t, uint64_t address, uint32_t bytes, bool write) {
  const uint64_t offset = address & ~kLocalWindow, size = w.program->local_bytes;
  if (offset > size || bytes > size - offset) {
    w.machine->Fail(&t, Kind::kOutOfBounds, "local access out of bounds: byte %llu of %llu",
                    static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size));
    return nullptr;
  }
  const size_t at = static_cast<size_t>(t.lane) * size + offset;
  uint8_t* has_value = &w.local_has_value[at];
  if (write) {
    std::memset(has_value, 1, bytes);
  } else if (std::memchr(has_value, 0, bytes) != nullptr) {
    w.machine->Fail(&t, Kind::kUninitialised, "uninitialised read of local memory: byte %llu",
                    static_cast<unsigned long long>(offset));
  }
  return &w.local[at];
}

// Null data if the access was refused.
Target Access(Warp& w, Thread& t, Space space, uint64_t address, uint32_t bytes, bool write) {
  Machine& m = *w.machine;
  if (space == Space::kGeneric) {
    space = (address & kSharedWindow) != 0  ? Space::kShared
            : (address & kLocalWindow) != 0 ? Space::kLocal
            : (address & kParamWindow) != 0 ? Space::kParam
                                            : Space::kGlobal;
  }
  if (address % bytes != 0) {
    const char* name = space == Space::kShared  ? "shared"
                       : space == Space::kLocal ? "local"
                       : space == Space::kParam ? "parameter"
                                                : "global";
    m.Fail(&t, Kind::kMisaligned, "misaligned %s %s: of %u bytes", name, write ? "write" : "read",
           bytes);
    return {nullptr, space};
  }
  switch (space) {
    case Space::kShared:
      return {m.AccessShared(t, static_cast<uint32_t>(address), bytes, write), space};
    case Space::kLocal:
      return {AccessLocal(w, t, address, bytes, write), space};
    case Space::kParam: {
      if (write) {
        m.Fail(&t, Kind::kReadOnly, "write to a kernel parameter");
        return {nullptr, space};
      }
      return {const_cast<uint8_t*>(m.ParamAt(t, address, bytes)), space};
    }
    default:
      return {m.AccessGlobal(t, address, bytes, write), space};
  }
}

uint64_t LoadElement(const uint8_t* p, uint32_t bytes, bool is_signed) {
  switch (bytes) {
    case 1:
      return is_signed ? static_cast<uint64_t>(static_cast<int8_t>(*p)) : *p;
    case 2: {
      uint16_t v;
      std::memcpy(&v, p, 2);
      return is_signed ? static_cast<uint64_t>(static_cast<int16_t>(v)) : v;
    }
    case 4: {
      uint32_t v;
      std::memcpy(&v, p, 4);
      return is_signed ? static_cast<uint64_t>(static_cast<int32_t>(v)) : v;
    }
    default: {
      uint64_t v;
      std::memcpy(&v, p, 8);
      return v;
    }
  }
}

// Addresses of one request, for the statistics.
struct Request {
  uint64_t shared[32], global[32];
  int shared_lanes = 0, global_lanes = 0;
  void Add(Space space, uint64_t address) {
    if (space == Space::kShared) shared[shared_lanes++] = static_cast<uint32_t>(address);
    if (space == Space::kGlobal) global[global_lanes++] = address;
  }
  void Count(Warp& w, const Instruction& in, int bytes) const {
    CountAccesses(w, in, shared, shared_lanes, bytes, true);
    CountAccesses(w, in, global, global_lanes, bytes, false);
  }
};

// Calls move(lane, data) for each lane; null data if the access was refused.
template <typename Move>
void Transfer(Warp& w, const Instruction& in, uint32_t mask, bool write, Move move) {
  const uint32_t bytes = in.bytes * static_cast<uint32_t>(in.list.size());
  const bool statistics = w.machine->options.statistics;
  Request request;
  ForEachLane(mask, [&](int lane) {
    const uint64_t address = w.Get(in.r[0], lane) + static_cast<uint64_t>(in.immediate);
    const Target target = Access(w, w.threads[lane], in.space, address, bytes, write);
    if (statistics) request.Add(target.space, address);
    move(lane, target.data);
  });
  if (statistics) request.Count(w, in, static_cast<int>(bytes));
}

}  // namespace

void CountAccesses(Warp& w, const Instruction& in, const uint64_t* addresses, int lanes, int bytes,
                   bool shared) {
  if (lanes == 0) return;
  const Program& program = *w.program;
  const SourceLocation& l = program.locations[in.location];
  const bool inlined = l.inlined_line != 0;
  const std::string& file = program.File(inlined ? l.inlined_file : l.file);
  StatisticsCollector::Site site;
  site.kernel = program.name;
  site.file = file.substr(file.rfind('/') + 1);
  site.line = inlined ? l.inlined_line : l.line;
  site.shared = shared;
  const std::string& opcode = program.opcodes[in.opcode];
  site.instruction = opcode.substr(0, opcode.find('.')) + " " + std::to_string(bytes);
  if (opcode.compare(0, 8, "cp.async") == 0) site.instruction = "cp.async " + std::to_string(bytes);
  w.machine->device.statistics.Count(site, addresses, lanes, bytes);
}

void Load(Warp& w, const Instruction& in, uint32_t mask) {
  Transfer(w, in, mask, /*write=*/false, [&](int lane, const uint8_t* data) {
    for (size_t i = 0; i < in.list.size(); ++i) {
      const uint64_t value =
          data == nullptr ? ~uint64_t{0} : LoadElement(data + i * in.bytes, in.bytes, in.is_signed);
      w.Set(in.list[i], lane, value);
    }
  });
}

void Store(Warp& w, const Instruction& in, uint32_t mask) {
  Transfer(w, in, mask, /*write=*/true, [&](int lane, uint8_t* data) {
    if (data == nullptr) return;
    for (size_t i = 0; i < in.list.size(); ++i) {
      const uint64_t value = w.Get(in.list[i], lane);
      std::memcpy(data + i * in.bytes, &value, in.bytes);
    }
  });
}

void LoadParam(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t size = in.bytes;
  for (size_t i = 0; i < in.list.size(); ++i) {
    const uint8_t* p =
        w.machine->ParamAt(*w.threads, static_cast<uint64_t>(in.immediate) + i * size, size);
    const uint64_t value = p == nullptr ? ~uint64_t{0} : LoadElement(p, size, in.is_signed);
    ForEachLane(mask, [&](int lane) { w.Set(in.list[i], lane, value); });
  }
}

}  // namespace fedumm::cuda_machine
