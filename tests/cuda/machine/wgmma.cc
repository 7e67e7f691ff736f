#include "tests/cuda/machine/wgmma.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/cuda/machine/numbers.h"
#include "tests/cuda/machine/tensor.h"
#include "tests/cuda/machine/tensor_map.h"

namespace fedumm::cuda_machine {
namespace {

// Instruction fields: list = d, list_a = registers of A (empty: a descriptor), r = {descriptor of
// A, of B}, predicate of scale-d in r[2].at; list_b[0].at, list_b[1].at: A, B are MN-major;
// list_c[0].at: bit 0 negates A, bit 1 negates B; bytes: n / 8; mode: an MmaType.
constexpr uint32_t kRows = 64, kDepth = 16;

uint32_t Bits(uint64_t v, int first, int n) {
  return static_cast<uint32_t>((v >> first) & ((uint64_t{1} << n) - 1));
}

WarpGroup* Group(Warp& w) {
  Machine& m = *w.machine;
  const auto index = static_cast<size_t>(w.threads->agent) / 128;
  // Groups of one block only: 4 warps from a multiple of 4 on.
  if (w.threads->linear % 128 + 32 > 128 || index >= m.groups.size() ||
      (m.threads_per_block % 128) != 0) {
    m.Fail(w.threads, Kind::kWgmma, "wgmma in a block that is not made of whole warp groups");
    return nullptr;
  }
  return &m.groups[index];
}

uint32_t Columns(const Wgmma& op) { return op.in->bytes * 8u; }

// Calls fn(row in mn, k, shared offset) for each 16 bytes of an operand with `extent` rows.
template <typename Function>
void ForEachPiece(uint64_t descriptor, bool mn_major, uint32_t extent, Function fn) {
  const uint32_t mn_step = mn_major ? 8 : 1, k_step = mn_major ? 1 : 8;
  for (uint32_t mn = 0; mn < extent; mn += mn_step) {
    for (uint32_t k = 0; k < kDepth; k += k_step) {
      fn(mn, k, WgmmaAddress(descriptor, mn_major, mn, k) - kSharedBase);
    }
  }
}

bool CheckDescriptor(Machine& m, const Thread& t, uint64_t descriptor) {
  if (Bits(descriptor, 49, 3) != 0) {
    m.Fail(&t, Kind::kUnsupported, "wgmma descriptor with a base offset");
    return false;
  }
  return true;
}

// What all 128 threads of the group have seen; threads that met at a barrier share a clock.
const uint32_t* LeastClock(Machine& m, const WarpGroup& g, bool fenced) {
  std::vector<const uint32_t*> distinct;
  for (int i = 0; i < 128; ++i) {
    const Thread& t = g.warps->threads[i];
    const uint32_t* seen = fenced ? t.fenced.seen : t.clock.seen;
    if (std::find(distinct.begin(), distinct.end(), seen) == distinct.end()) {
      distinct.push_back(seen);
    }
  }
  if (distinct.size() == 1) return distinct[0];
  std::vector<uint32_t> least(distinct[0], distinct[0] + m.clocks->agents());
  for (const uint32_t* seen : distinct) {
    for (size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], seen[i]);
  }
  return m.clocks->Copy(least);
}

void BookOperand(Machine& m, WarpGroup& g, uint64_t descriptor, bool mn_major, uint32_t extent,
                 const Accessor& by) {
  Thread& t = *g.warps->threads;
  uint32_t faults = 0;
  Agent other = kNoAgent;
  bool outside = false;
  ForEachPiece(descriptor, mn_major, extent, [&](uint32_t, uint32_t, uint32_t offset) {
    if (offset > g.block->shared.size() || g.block->shared.size() - offset < 16) {
      outside = true;
      return;
    }
    faults |= g.block->shared.Access(offset, 16, AccessKind::kRead, by, &other);
  });
  if (outside) m.Fail(&t, Kind::kOutOfBounds, "wgmma operand out of shared memory");
  if (faults != 0) m.ReportShared(&t, faults, other);
}

// Where element (row, column) of d is: lane and warp by row, register by column.
template <typename Function>
void ForEachAccumulator(WarpGroup& g, const Wgmma& op, Function fn) {
  const uint32_t n = Columns(op);
  for (uint32_t j = 0; j < n / 8; ++j) {
    for (uint32_t i = 0; i < 4; ++i) {
      const Row row = op.in->list[j * 4 + i];
      for (uint32_t warp = 0; warp < 4; ++warp) {
        uint32_t* values = g.warps[warp].Narrow(row);
        for (uint32_t lane = 0; lane < 32; ++lane) {
          const uint32_t r = warp * 16 + lane / 4 + (i >> 1) * 8;
          fn(r * n + j * 8 + lane % 4 * 2 + (i & 1), values[lane]);
        }
      }
    }
  }
}

void Run(Machine& m, WarpGroup& g, const Wgmma& op) {
  const bool bf16 = static_cast<MmaType>(op.in->mode) == MmaType::kBf16;
  const auto value = [&](uint16_t h) { return bf16 ? FromBf16(h) : FromFp16(h); };
  const uint32_t n = Columns(op);
  std::vector<float> a(kRows * kDepth), b(size_t{kDepth} * n);
  const auto load = [&](uint64_t descriptor, bool mn_major, uint32_t extent, auto put) {
    ForEachPiece(descriptor, mn_major, extent, [&](uint32_t mn, uint32_t k, uint32_t offset) {
      uint16_t h[8];
      std::memset(h, 0xff, sizeof h);
      const uint32_t size = g.block->shared.size();
      if (offset <= size && size - offset >= 16) {
        std::memcpy(h, g.block->shared.data() + offset, sizeof h);
      }
      for (uint32_t e = 0; e < 8; ++e) {
        put(mn + (mn_major ? e : 0), k + (mn_major ? 0 : e), value(h[e]));
      }
    });
  };
  if (op.in->list_a.empty()) {
    load(op.descriptor_a, op.in->list_b[0].at != 0, kRows,
         [&](uint32_t row, uint32_t k, float v) { a[row * kDepth + k] = v; });
  } else {
    // Read only now: the program may not touch these registers before its wait.
    for (uint32_t warp = 0; warp < 4; ++warp) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t* registers = g.warps[warp].Narrow(op.in->list_a[i]);
        for (uint32_t lane = 0; lane < 32; ++lane) {
          const uint32_t row = warp * 16 + lane / 4 + (i & 1) * 8;
          const uint32_t k = lane % 4 * 2 + (i >> 1) * 8;
          a[row * kDepth + k] = value(static_cast<uint16_t>(registers[lane]));
          a[row * kDepth + k + 1] = value(static_cast<uint16_t>(registers[lane] >> 16));
        }
      }
    }
  }
  load(op.descriptor_b, op.in->list_b[1].at != 0, n,
       [&](uint32_t column, uint32_t k, float v) { b[k * n + column] = v; });
  const uint32_t negate = op.in->list_c[0].at;
  if (negate == 1 || negate == 2) {
    for (float& v : a) v = -v;
  }
  const uint32_t key = op.in->list[0].at;
  WarpGroup::Accumulator& accumulator = g.accumulators[key];
  std::vector<float>& d = accumulator.values;
  if (!op.accumulate) std::fill(d.begin(), d.end(), 0.0f);
  for (uint32_t row = 0; row < kRows; ++row) {
    float* sums = d.data() + size_t{row} * n;
    for (uint32_t k = 0; k < kDepth; ++k) {
      const float x = a[row * kDepth + k];
      const float* y = b.data() + size_t{k} * n;
      for (uint32_t j = 0; j < n; ++j) sums[j] += x * y[j];
    }
  }
  if (--accumulator.users > 0) return;
  ForEachAccumulator(g, op, [&](uint32_t at, uint32_t& reg) {
    if (reg != 0x7fffffff) {
      m.current = op.in;
      m.Fail(g.warps->threads, Kind::kWgmma,
             "accumulator register written while wgmma is in flight");
    }
    reg = std::bit_cast<uint32_t>(d[at]);
  });
  g.accumulators.erase(key);
}

}  // namespace

// The canonical layouts of the PTX ISA, "Shared memory matrix layout" and "Strides": LBO and SBO
// are in bytes here. Swizzled layouts exchange 16-byte pieces by the address bits.
uint32_t WgmmaAddress(uint64_t descriptor, bool mn_major, uint32_t mn, uint32_t k) {
  const uint32_t start = Bits(descriptor, 0, 14) << 4;
  const uint32_t lbo = Bits(descriptor, 16, 14) << 4, sbo = Bits(descriptor, 32, 14) << 4;
  const uint32_t layout = Bits(descriptor, 62, 2);  // 0 none, 1: 128 bytes, 2: 64, 3: 32
  if (layout == 0) {
    const uint32_t in_core = mn_major ? k % 8 * 16 + mn % 8 * 2 : mn % 8 * 16 + k % 8 * 2;
    return start + mn / 8 * sbo + k / 8 * lbo + in_core;
  }
  const uint32_t swizzle = 4 - layout, width = 8u << swizzle;  // 16-bit elements of a row
  if (mn_major) {
    return SwizzleAddress(
        start + mn / width * lbo + k / 8 * sbo + k % 8 * width * 2 + mn % width * 2, swizzle);
  }
  return SwizzleAddress(start + mn / 8 * sbo + mn % 8 * width * 2 + k * 2, swizzle);
}

void WgmmaFence(Warp& w, const Instruction&, uint32_t mask) {
  if (!RequireFullWarp(w, "wgmma.fence", mask)) return;
  for (int lane = 0; lane < 32; ++lane) w.threads[lane].wgmma_fenced = true;
}

void WgmmaCommit(Warp& w, const Instruction&, uint32_t mask) {
  if (!RequireFullWarp(w, "wgmma.commit_group", mask)) return;
  WarpGroup* g = Group(w);
  if (g == nullptr) return;
  for (int lane = 0; lane < 32; ++lane) {
    // The first thread closes the group for all.
    if (g->committed == w.threads[lane].wgmma_committed++) {
      g->groups.push_back(std::move(g->open));
      g->open.clear();
      ++g->committed;
    }
  }
}

// One thread of the group waits until at most `immediate` of the groups it committed are open.
void WgmmaWait(Warp& w, const Instruction& in, uint32_t mask) {
  if (!RequireFullWarp(w, "wgmma.wait_group", mask)) return;
  WarpGroup* g = Group(w);
  if (g == nullptr) return;
  Machine& m = *w.machine;
  const auto pending = static_cast<uint32_t>(in.immediate);
  for (int lane = 0; lane < 32; ++lane) {
    Thread& t = w.threads[lane];
    t.wgmma_fenced = false;
    if (t.wgmma_committed <= pending) continue;
    const uint32_t finished = t.wgmma_committed - pending;
    while (g->committed - g->groups.size() < finished) {
      for (const Wgmma& op : g->groups.front()) Run(m, *g, op);
      g->groups.erase(g->groups.begin());
    }
    if (m.races) t.clock.seen = m.clocks->With(t.clock.seen, g->agent, finished);
  }
  m.current = &in;
}

void WgmmaIssue(Warp& w, const Instruction& in, uint32_t mask) {
  if (!RequireFullWarp(w, "wgmma", mask)) return;
  WarpGroup* group = Group(w);
  if (group == nullptr) return;
  WarpGroup& g = *group;
  Machine& m = *w.machine;
  Thread* t = w.threads;
  if (!t->wgmma_fenced) m.Fail(t, Kind::kWgmma, "wgmma without wgmma.fence");
  Wgmma op;
  op.in = &in;
  op.descriptor_a = in.list_a.empty() ? w.Get(in.r[0], 0) : 0;
  op.descriptor_b = w.Get(in.r[1], 0);
  op.accumulate = (w.predicates[in.r[2].at] & 1) != 0;
  for (int lane = 1; lane < 32; ++lane) {
    if ((in.list_a.empty() && w.Get(in.r[0], lane) != op.descriptor_a) ||
        w.Get(in.r[1], lane) != op.descriptor_b) {
      m.Fail(t, Kind::kWgmma, "the lanes of a warp disagree on a wgmma descriptor");
      break;
    }
  }
  if (g.gathered == 0) {
    g.next = op;
  } else if (g.next.in != op.in || g.next.descriptor_a != op.descriptor_a ||
             g.next.descriptor_b != op.descriptor_b || g.next.accumulate != op.accumulate) {
    m.Fail(t, Kind::kWgmma, "the warps of a group disagree on a wgmma");
  }
  if (++g.gathered < 4) {
    for (int lane = 0; lane < 32; ++lane) m.Wait(t[lane], "the warp group's wgmma", &in);
    return;
  }
  g.gathered = 0;
  for (int warp = 0; warp < 4; ++warp) g.warps[warp].blocked = 0;

  op = g.next;
  if (!CheckDescriptor(m, *t, op.descriptor_a) || !CheckDescriptor(m, *t, op.descriptor_b)) return;
  op.time = g.committed + 1;
  Accessor by;
  by.async_proxy = true;
  by.booked_on = g.agent;
  by.time = op.time;
  if (m.races) {
    by.seen = LeastClock(m, g, false);
    by.fenced = LeastClock(m, g, true);
  }
  if (in.list_a.empty()) BookOperand(m, g, op.descriptor_a, in.list_b[0].at != 0, kRows, by);
  BookOperand(m, g, op.descriptor_b, in.list_b[1].at != 0, Columns(op), by);
  WarpGroup::Accumulator& accumulator = g.accumulators[in.list[0].at];
  if (accumulator.users++ == 0) {
    accumulator.values.assign(size_t{kRows} * Columns(op), 0);
    ForEachAccumulator(g, op, [&](uint32_t at, uint32_t& reg) {
      accumulator.values[at] = std::bit_cast<float>(reg);
      reg = 0x7fffffff;  // NaN until the wait
    });
  }
  g.open.push_back(op);
}

}  // namespace fedumm::cuda_machine
