#include "tests/cuda/machine/async_copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/cuda/machine/barriers.h"
#include "tests/cuda/machine/memory_instructions.h"
#include "tests/cuda/machine/tensor_map.h"

namespace fedumm::cuda_machine {
namespace {

void CountAccess(Warp& w, const Instruction& in, const uint64_t* addresses, int lanes, int bytes,
                 bool shared) {
  if (w.machine->options.statistics) CountAccesses(w, in, addresses, lanes, bytes, shared);
}

// --- cp.async ------------------------------------------------------------------------------------

void Land(Thread& t, const CpAsync& c, bool races) {
  uint8_t* to = t.block->shared.data() + c.offset;
  if (c.valid != 0) std::memcpy(to, c.source, c.valid);
  std::memset(to + c.valid, 0, c.bytes - c.valid);
  t.block->shared.Land(c.offset, c.bytes, t.agent, races ? t.clock.own : 0, false);
}

}  // namespace

void CpAsyncIssue(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  const uint32_t bytes = in.bytes;
  uint64_t to[32], from[32];
  int writes = 0, reads = 0;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    const auto target = static_cast<uint32_t>(w.Get(in.r[0], lane) + in.list_a[0].at);
    const uint64_t source = w.Get(in.r[1], lane) + static_cast<uint64_t>(in.immediate);
    uint32_t valid = bytes;
    if (in.has_also) valid = static_cast<uint32_t>(w.Get(in.r[2], lane));
    if (valid > bytes) {
      m.Fail(&t, Kind::kOutOfBounds, "cp.async source size is larger than the copy: %u of %u",
             valid, bytes);
      return;
    }
    if (target % bytes != 0 || source % bytes != 0) {
      m.Fail(&t, Kind::kMisaligned, "cp.async %s is not aligned to the copy: %u bytes",
             target % bytes != 0 ? "target" : "source", bytes);
      return;
    }
    to[writes++] = target;
    if (valid != 0) {
      from[reads++] = source;
      if (m.AccessGlobal(t, source, valid, /*write=*/false) == nullptr) return;
    }
    uint32_t offset;
    Block* b = m.ResolveShared(t, target, bytes, &offset);
    if (b == nullptr) return;
    Agent other = kNoAgent;
    const uint32_t faults =
        b->shared.Access(offset, bytes, AccessKind::kIssue, m.GenericAccessor(t), &other);
    if (faults != 0) m.ReportShared(&t, faults, other);
    std::memset(b->shared.data() + offset, 0xff, bytes);  // who looks too early sees NaN
    t.copies.push_back(
        {t.copies_committed, offset, bytes, valid, reinterpret_cast<const uint8_t*>(source)});
  });
  CountAccess(w, in, to, writes, static_cast<int>(bytes), true);
  CountAccess(w, in, from, reads, static_cast<int>(bytes), false);
}

void CpAsyncCommit(Warp& w, const Instruction&, uint32_t mask) {
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    ++t.copies_committed;
    if (!w.machine->options.land_early) return;
    for (const CpAsync& c : t.copies) Land(t, c, w.machine->races);
    t.copies.clear();
  });
}

void CpAsyncWait(Warp& w, const Instruction& in, uint32_t mask) {
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    if (in.mode != 0) ++t.copies_committed;  // wait_all closes the open group
    const auto pending = static_cast<uint32_t>(in.immediate);
    if (t.copies_committed <= pending) return;
    const uint32_t finished = t.copies_committed - pending;
    auto end = t.copies.begin();
    for (; end != t.copies.end() && end->group < finished; ++end) Land(t, *end, w.machine->races);
    t.copies.erase(t.copies.begin(), end);
  });
}

// --- Bulk copies ---------------------------------------------------------------------------------

namespace {

const TensorMap* FindMap(Machine& m, Thread& t, uint64_t address) {
  if (m.device.major < 9) {
    m.Fail(&t, Kind::kUnsupported, "TMA needs compute capability 9.0");
    return nullptr;
  }
  if (address % 64 != 0) {
    m.Fail(&t, Kind::kMisaligned, "tensor map is not aligned to 64 bytes");
    return nullptr;
  }
  const uint8_t* p = (address & kParamWindow) != 0 ? m.ParamAt(t, address, 128)
                                                   : m.AccessGlobal(t, address, 128, false);
  const auto* map = reinterpret_cast<const TensorMap*>(p);
  if (map != nullptr && map->magic != TensorMap::kMagic) {
    m.Fail(&t, Kind::kTensorMap, "no tensor map: cuTensorMapEncodeTiled did not write it");
    return nullptr;
  }
  return map;
}

bool CheckSharedAlignment(Machine& m, Thread& t, uint32_t address, uint32_t align) {
  if (address % align == 0) return true;
  m.Fail(&t, Kind::kMisaligned, "shared address of a bulk copy is not aligned: to %u bytes", align);
  return false;
}

uint32_t BoxAlignment(const TensorMap& map) { return map.swizzle == 0 ? 128 : 128u << map.swizzle; }

// A copy into the memory of `target`, which completes on an mbarrier.
void IssueLoad(Machine& m, Thread& t, BulkLoad load, uint32_t target, uint32_t barrier) {
  MBarrier* b = FindMBarrier(m, t, barrier, &load.barrier_block, &load.barrier);
  load.block = m.ResolveShared(t, target, load.bytes, &load.offset);
  if (b == nullptr || load.block == nullptr) return;
  if (!b->fenced_init) {
    m.Fail(&t, Kind::kProxyFence,
           "mbarrier used by a bulk copy without fence.mbarrier_init or fence.proxy.async");
  }
  load.agent = b->agent;
  load.time = b->phase + 1;
  load.thread = &t;
  Accessor by = m.GenericAccessor(t);
  by.async_proxy = true;
  by.fenced = t.fenced.seen;
  by.fenced_own = t.fenced.own;
  by.booked_on = load.agent;
  by.time = load.time;
  Agent other = kNoAgent;
  const uint32_t faults =
      load.block->shared.Access(load.offset, load.bytes, AccessKind::kIssue, by, &other);
  if (faults != 0) m.ReportShared(&t, faults, other);
  std::memset(load.block->shared.data() + load.offset, 0xff, load.bytes);
  m.loads.push_back(load);
}

// Calls fn(global address or null if outside, shared offset, bytes) for the pieces of a box, which
// are 16 bytes where they can be. The box lies densely in shared memory, swizzled by address.
template <typename Function>
void ForEachPiece(const TensorMap& map, const int32_t* at, uint32_t offset, Function fn) {
  const uint32_t size = map.element_bytes, row_bytes = map.box[0] * size;
  const uint32_t rows = map.BoxBytes() / row_bytes, step = 16 / size;
  uint32_t index[5] = {};
  for (uint32_t row = 0; row < rows; ++row) {
    bool inside = true;
    uint64_t position = 0;
    for (uint32_t d = 1; d < map.rank; ++d) {
      const int64_t c = int64_t{at[d]} + index[d];
      inside = inside && c >= 0 && c < static_cast<int64_t>(map.size[d]);
      position += static_cast<uint64_t>(c) * map.stride[d];
    }
    const auto columns = static_cast<int64_t>(map.size[0]);
    for (uint32_t x = 0; x < map.box[0]; x += step) {
      const uint32_t to =
          SwizzleAddress(kSharedBase + offset + row * row_bytes + x * size, map.swizzle) -
          kSharedBase;
      const int64_t c = int64_t{at[0]} + x;
      uint8_t* from = map.base + position + static_cast<uint64_t>(c) * size;
      if (inside && c >= 0 && c + step <= columns) {
        fn(from, to, uint32_t{16});
        continue;
      }
      for (uint32_t e = 0; e < step; ++e) {
        const bool element_inside = inside && c + e >= 0 && c + e < columns;
        fn(element_inside ? from + e * size : nullptr, to + e * size, size);
      }
    }
    for (uint32_t d = 1; d < map.rank && ++index[d] == map.box[d]; ++d) index[d] = 0;
  }
}

// Fills in what a load and a store of a box have in common. False, and reported, if the tensor map
// does not fit the instruction.
template <typename Copy>
bool Describe(Warp& w, const Instruction& in, int lane, Row map_row, Copy* copy) {
  Machine& m = *w.machine;
  Thread& t = w.threads[lane];
  copy->map = FindMap(m, t, w.Get(map_row, lane));
  if (copy->map == nullptr) return false;
  if (copy->map->rank != in.list.size()) {
    m.Fail(&t, Kind::kTensorMap, "TMA instruction and tensor map disagree on the rank: %zu and %u",
           in.list.size(), copy->map->rank);
    return false;
  }
  copy->bytes = copy->map->BoxBytes();
  copy->in = &in;
  for (size_t d = 0; d < in.list.size(); ++d) {
    copy->coordinates[d] = static_cast<int32_t>(w.Get(in.list[d], lane));
  }
  return true;
}

}  // namespace

void BulkTensorLoad(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    BulkLoad load = {};
    if (!Describe(w, in, lane, in.r[1], &load)) return;
    const auto target = static_cast<uint32_t>(w.Get(in.r[0], lane));
    const auto barrier = static_cast<uint32_t>(w.Get(in.r[2], lane));
    if (!CheckSharedAlignment(m, t, target, BoxAlignment(*load.map))) return;
    if (!in.has_also) {
      IssueLoad(m, t, load, target, barrier);
      return;
    }
    // Multicast: the same offsets in each block of the mask.
    const uint32_t within = (1u << kRankShift) - 1;
    ForEachLane(static_cast<uint32_t>(w.Get(in.r[3], lane)) & 0xffff, [&](int rank) {
      const uint32_t window = static_cast<uint32_t>(rank + 1) << kRankShift;
      IssueLoad(m, t, load, window | (target & within), window | (barrier & within));
    });
  });
}

void BulkLoadContiguous(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    BulkLoad load = {};
    load.in = &in;
    load.bytes = static_cast<uint32_t>(w.Get(in.r[2], lane));
    load.source = reinterpret_cast<const uint8_t*>(w.Get(in.r[1], lane));
    const auto target = static_cast<uint32_t>(w.Get(in.r[0], lane));
    if (!CheckSharedAlignment(m, t, target, 16)) return;
    if (load.bytes % 16 != 0 || reinterpret_cast<uintptr_t>(load.source) % 16 != 0) {
      m.Fail(&t, Kind::kMisaligned, "size or source of a bulk copy is no multiple of 16 bytes");
      return;
    }
    if (load.bytes == 0) return;
    if (m.AccessGlobal(t, w.Get(in.r[1], lane), load.bytes, false) == nullptr) return;
    IssueLoad(m, t, load, target, static_cast<uint32_t>(w.Get(in.r[3], lane)));
  });
}

void LandBulkLoad(Machine& m, size_t index) {
  const BulkLoad load = m.loads[index];
  m.loads.erase(m.loads.begin() + static_cast<std::ptrdiff_t>(index));
  m.current = load.in;
  uint8_t* shared = load.block->shared.data();
  if (load.map == nullptr) {
    std::memcpy(shared + load.offset, load.source, load.bytes);
  } else {
    const int fill = load.map->nan_fill != 0 ? 0xff : 0;
    const auto copy = [&](uint8_t* from, uint32_t to, uint32_t size) {
      const uint8_t* p =
          from == nullptr
              ? nullptr
              : m.AccessGlobal(*load.thread, reinterpret_cast<uint64_t>(from), size, false);
      if (p != nullptr)
        std::memcpy(shared + to, p, size);
      else
        std::memset(shared + to, fill, size);
    };
    ForEachPiece(*load.map, load.coordinates, load.offset, copy);
  }
  load.block->shared.Land(load.offset, load.bytes, load.agent, load.time, true);
  const auto barrier = load.barrier_block->mbarriers.find(load.barrier);
  if (barrier == load.barrier_block->mbarriers.end()) {
    m.Fail(load.thread, Kind::kBarrier, "bulk copy completes on an mbarrier that was invalidated");
    return;
  }
  barrier->second.tx -= load.bytes;
  CompleteMBarrier(m, barrier->second);
}

namespace {

void IssueStore(Machine& m, Thread& t, BulkStore store, uint32_t source) {
  Block* b = m.ResolveShared(t, source, store.bytes, &store.offset);
  if (b == nullptr) return;
  if (t.bulk_agent == kNoAgent) t.bulk_agent = m.NewAgent(t);
  store.group = t.stores_committed;
  Accessor by = m.GenericAccessor(t);
  by.async_proxy = true;
  by.fenced = t.fenced.seen;
  by.fenced_own = t.fenced.own;
  by.booked_on = t.bulk_agent;
  by.time = store.group + 1;
  Agent other = kNoAgent;
  const uint32_t faults =
      b->shared.Access(store.offset, store.bytes, AccessKind::kRead, by, &other);
  if (faults != 0) m.ReportShared(&t, faults, other);
  t.stores.push_back(store);
}

void LandStore(Machine& m, Thread& t, const BulkStore& store) {
  const Instruction* keep = std::exchange(m.current, store.in);
  const uint8_t* shared = t.block->shared.data();
  if (store.map == nullptr) {
    uint8_t* to = m.AccessGlobal(t, reinterpret_cast<uint64_t>(store.target), store.bytes, true);
    if (to != nullptr) std::memcpy(to, shared + store.offset, store.bytes);
  } else {
    const auto copy = [&](uint8_t* to, uint32_t from, uint32_t size) {
      if (to == nullptr) return;
      to = m.AccessGlobal(t, reinterpret_cast<uint64_t>(to), size, true);
      if (to != nullptr) std::memcpy(to, shared + from, size);
    };
    ForEachPiece(*store.map, store.coordinates, store.offset, copy);
  }
  m.current = keep;
}

}  // namespace

void BulkTensorStore(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    BulkStore store = {};
    if (!Describe(w, in, lane, in.r[0], &store)) return;
    const auto source = static_cast<uint32_t>(w.Get(in.r[1], lane));
    if (CheckSharedAlignment(m, t, source, BoxAlignment(*store.map)))
      IssueStore(m, t, store, source);
  });
}

void BulkStoreContiguous(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    BulkStore store = {};
    store.in = &in;
    store.target = reinterpret_cast<uint8_t*>(w.Get(in.r[0], lane));
    store.bytes = static_cast<uint32_t>(w.Get(in.r[2], lane));
    const auto source = static_cast<uint32_t>(w.Get(in.r[1], lane));
    if (store.bytes % 16 != 0 || reinterpret_cast<uintptr_t>(store.target) % 16 != 0) {
      m.Fail(&t, Kind::kMisaligned, "size or target of a bulk copy is no multiple of 16 bytes");
      return;
    }
    if (store.bytes != 0 && CheckSharedAlignment(m, t, source, 16)) IssueStore(m, t, store, source);
  });
}

void BulkCommit(Warp& w, const Instruction&, uint32_t mask) {
  ForEachLane(mask, [&](int lane) { ++w.threads[lane].stores_committed; });
}

void BulkWait(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    const auto pending = static_cast<uint32_t>(in.immediate);
    if (t.stores_committed <= pending) return;
    const uint32_t finished = t.stores_committed - pending;
    auto end = t.stores.begin();
    for (; end != t.stores.end() && end->group < finished; ++end) LandStore(m, t, *end);
    t.stores.erase(t.stores.begin(), end);
    if (m.races && t.bulk_agent != kNoAgent) {
      t.clock.seen = m.clocks->With(t.clock.seen, t.bulk_agent, finished);
    }
  });
}

}  // namespace fedumm::cuda_machine
