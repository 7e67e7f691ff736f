#include "tests/cuda/machine/emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "tests/cuda/machine/async_copy.h"
#include "tests/cuda/machine/barriers.h"
#include "tests/cuda/machine/wgmma.h"

namespace fedumm::cuda_machine {
namespace {

constexpr int kBurst = 200;                 // warp instructions until another warp may run
constexpr uint64_t kMostViolations = 2000;  // a launch stops after so many
constexpr uint32_t kSpareAgents = 96;       // a block: mbarriers, threads that store in bulk

uint32_t Axis(const Dim3& d, int axis) { return axis == 0 ? d.x : axis == 1 ? d.y : d.z; }

Dim3 At(uint64_t linear, const Dim3& d) {
  return {static_cast<uint32_t>(linear % d.x), static_cast<uint32_t>(linear / d.x % d.y),
          static_cast<uint32_t>(linear / d.x / d.y)};
}

uint64_t Linear(const Dim3& p, const Dim3& d) {
  return p.x + uint64_t{d.x} * (p.y + uint64_t{d.y} * p.z);
}

}  // namespace

Machine::Machine(Device& d, const Program& p, const LaunchShape& s, std::vector<uint8_t> values)
    : device(d),
      program(p),
      options(d.options),
      shape(s),
      params(std::move(values)),
      rng(d.options.seed + d.launches),
      launch(d.launches),
      threads_per_block(static_cast<uint32_t>(s.block.Count())),
      races(d.options.races),
      opcode_counts_(p.opcodes.size(), 0) {}

Machine::~Machine() = default;

void Machine::Run() {
  const Dim3& c = shape.cluster;
  const Dim3 clusters{shape.grid.x / c.x, shape.grid.y / c.y, shape.grid.z / c.z};
  std::vector<uint32_t> order(clusters.Count());
  std::iota(order.begin(), order.end(), 0);
  if (options.order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (options.order == Order::kRandom) std::shuffle(order.begin(), order.end(), rng);
  const uint64_t violations = device.reporter.count();
  for (const uint32_t number : order) {
    StartCluster(number);
    RunCluster();
    FinishCluster();
    if (stopped_ || device.reporter.count() > violations + kMostViolations) break;
  }
  if (options.statistics) {
    for (size_t i = 0; i < opcode_counts_.size(); ++i) {
      if (opcode_counts_[i] != 0) {
        device.statistics.CountInstruction(program.opcodes[i], opcode_counts_[i]);
      }
    }
  }
}

void Machine::StartCluster(uint64_t number) {
  const Dim3& c = shape.cluster;
  const auto cluster_blocks = static_cast<uint32_t>(c.Count());
  const Dim3 clusters{shape.grid.x / c.x, shape.grid.y / c.y, shape.grid.z / c.z};
  const Dim3 origin = At(number, clusters);
  const uint32_t warps_per_block = (threads_per_block + 31) / 32;
  const uint32_t lanes_per_block = warps_per_block * 32;
  const uint32_t all = lanes_per_block * cluster_blocks;
  const uint32_t group_count = all / 128;
  next_agent_ = static_cast<Agent>(all + group_count);
  clocks = std::make_unique<ClockArena>(next_agent_ + kSpareAgents * cluster_blocks);

  blocks.resize(cluster_blocks);
  threads.assign(all, {});
  warps.resize(all / 32);
  groups.assign(group_count, {});
  loads.clear();
  cluster_barrier = {};
  uses_proxy_fences = false;
  live_threads = threads_per_block * cluster_blocks;
  const uint32_t shared_bytes = shape.dynamic_shared == 0
                                    ? program.static_shared_bytes
                                    : program.dynamic_shared_offset + shape.dynamic_shared;
  for (uint32_t rank = 0; rank < cluster_blocks; ++rank) {
    Block& b = blocks[rank];
    const Dim3 in_cluster = At(rank, c);
    b.index = {origin.x * c.x + in_cluster.x, origin.y * c.y + in_cluster.y,
               origin.z * c.z + in_cluster.z};
    b.rank = rank;
    b.linear = Linear(b.index, shape.grid);
    b.live = threads_per_block;
    b.shared.Reset(shared_bytes, clocks->agents());
    for (NamedBarrier& n : b.named) n = {};
    b.mbarriers.clear();
    for (uint32_t i = 0; i < lanes_per_block; ++i) {
      const uint32_t agent = rank * lanes_per_block + i;
      Thread& t = threads[agent];
      t.tid = At(i, shape.block);
      t.linear = static_cast<int>(i);
      t.lane = static_cast<int>(i % 32);
      t.agent = static_cast<Agent>(agent);
      t.block = &b;
      t.warp = &warps[agent / 32];
      t.clock = {clocks->zero(), 1};
      t.fenced = {clocks->zero(), 0};
    }
  }
  for (size_t i = 0; i < warps.size(); ++i) {
    Warp& w = warps[i];
    w.machine = this;
    w.program = &program;
    w.threads = &threads[i * 32];
    const uint32_t left =
        threads_per_block -
        std::min<uint32_t>(threads_per_block, static_cast<uint32_t>(w.threads->linear));
    w.live = left >= 32 ? ~uint32_t{0} : (1u << left) - 1;
    w.blocked = 0;
    std::fill_n(w.pc, 32, 0);
    if (w.registers == nullptr) {
      const size_t words = program.register_bytes / 8;
      w.registers = std::make_unique<uint64_t[]>(words);
      std::fill_n(w.registers.get(), words, 0xdeadbeefdeadbeef);
      for (const Constant& k : program.constants) {
        for (int lane = 0; lane < 32; ++lane) w.Set(k.row, lane, k.value);
      }
    }
    w.predicates.assign(program.predicates + 1, 0);
    if (program.local_bytes != 0) {
      w.local.assign(size_t{32} * program.local_bytes, 0xff);
      w.local_has_value.assign(size_t{32} * program.local_bytes, 0);
    }
    FillSpecials(w);
  }
  for (uint32_t g = 0; g < group_count; ++g) {
    groups[g].agent = static_cast<Agent>(all + g);
    groups[g].warps = &warps[g * 4];
    groups[g].block = groups[g].warps->threads->block;
  }
}

void Machine::FillSpecials(Warp& w) {
  const Block& block = *w.threads->block;
  const Dim3& c = shape.cluster;
  const Dim3 clusters{shape.grid.x / c.x, shape.grid.y / c.y, shape.grid.z / c.z};
  const Dim3 cluster_at{block.index.x / c.x, block.index.y / c.y, block.index.z / c.z};
  for (const SpecialRow& s : program.specials) {
    for (int lane = 0; lane < 32; ++lane) {
      const Thread& t = w.threads[lane];
      uint64_t v = 0;
      switch (s.which) {
        case Special::kTid:
          v = Axis(t.tid, s.axis);
          break;
        case Special::kNtid:
          v = Axis(shape.block, s.axis);
          break;
        case Special::kCtaid:
          v = Axis(block.index, s.axis);
          break;
        case Special::kNctaid:
          v = Axis(shape.grid, s.axis);
          break;
        case Special::kLaneId:
          v = static_cast<uint64_t>(lane);
          break;
        case Special::kWarpId:
          v = static_cast<uint64_t>(t.linear / 32);
          break;
        case Special::kLaneMaskEq:
          v = 1u << lane;
          break;
        case Special::kLaneMaskLt:
          v = (1u << lane) - 1;
          break;
        case Special::kLaneMaskLe:
          v = (2ull << lane) - 1;
          break;
        case Special::kLaneMaskGt:
          v = ~((2ull << lane) - 1) & 0xffffffff;
          break;
        case Special::kLaneMaskGe:
          v = ~((1u << lane) - 1);
          break;
        case Special::kClusterCtaRank:
          v = block.rank;
          break;
        case Special::kClusterNctaRank:
          v = c.Count();
          break;
        case Special::kClusterCtaid:
          v = Axis(At(block.rank, c), s.axis);
          break;
        case Special::kClusterNctaid:
          v = Axis(c, s.axis);
          break;
        case Special::kClusterId:
          v = Axis(cluster_at, s.axis);
          break;
        case Special::kNclusterId:
          v = Axis(clusters, s.axis);
          break;
        case Special::kDynamicSharedBytes:
          v = shape.dynamic_shared;
          break;
        case Special::kTotalSharedBytes:
          v = block.shared.size();
          break;
      }
      w.Set(s.row, lane, v);
    }
  }
}

void Machine::RunCluster() {
  std::vector<Warp*> able;
  for (;;) {
    able.clear();
    for (Warp& w : warps) {
      if ((w.live & ~w.blocked) != 0) able.push_back(&w);
    }
    if (!loads.empty() && (able.empty() || options.land_early || rng() % 8 == 0)) {
      LandBulkLoad(*this, rng() % loads.size());
      continue;
    }
    if (able.empty()) return;
    const size_t pick = options.order == Order::kRandom      ? rng() % able.size()
                        : options.order == Order::kAscending ? 0
                                                             : able.size() - 1;
    RunWarp(*able[pick]);
    if (instructions_ > options.max_instructions) {
      Fail(nullptr, Kind::kEndless, "more than %llu warp instructions",
           static_cast<unsigned long long>(options.max_instructions));
      stopped_ = true;
    }
    if (stopped_ || device.reporter.count() > 4 * kMostViolations) {
      stopped_ = true;
      return;
    }
  }
}

// Steps the lanes with the lowest pc until they block or part; bounded, so that warps interleave.
void Machine::RunWarp(Warp& w) {
  const Instruction* const code = program.code.data();
  const auto size = static_cast<int>(program.code.size());
  const bool count = options.statistics;
  int steps = options.order == Order::kRandom ? static_cast<int>(rng() % kBurst) + 1 : kBurst;
  w.yields = false;
  while (steps > 0 && !w.yields) {
    const uint32_t able = w.live & ~w.blocked;
    if (able == 0) return;
    int pc = INT32_MAX, next_pc = INT32_MAX;
    uint32_t lanes = 0;
    ForEachLane(able, [&](int lane) {
      if (w.pc[lane] < pc) {
        next_pc = pc;
        pc = w.pc[lane];
        lanes = 0;
      } else if (w.pc[lane] > pc) {
        next_pc = std::min(next_pc, w.pc[lane]);
      }
      if (w.pc[lane] == pc) lanes |= 1u << lane;
    });
    w.executing = lanes;
    const auto leave = [&](uint32_t mask, int to) {
      ForEachLane(mask, [&](int lane) { w.pc[lane] = to; });
    };
    // Straight on, until the lanes part, block, or meet others.
    for (;;) {
      if (pc >= size) {
        Exit(w, lanes);
        break;
      }
      const Instruction& in = code[pc++];
      uint32_t mask = lanes;
      if (in.predicate >= 0) {
        const uint32_t p = w.predicates[in.predicate];
        mask &= in.negated ? ~p : p;
      }
      ++instructions_;
      if (count) ++opcode_counts_[in.opcode];
      --steps;
      if (in.is_branch) {
        if (mask == lanes) {
          pc = in.target;
        } else if (mask != 0) {
          leave(mask, in.target);
          leave(lanes & ~mask, pc);
          break;
        }
      } else if (mask != 0) {
        current = &in;
        in.run(w, in, mask);
        if (((w.blocked | ~w.live) & lanes) != 0) {
          leave(lanes, pc);
          break;
        }
      }
      if (pc >= next_pc || steps <= 0 || w.yields) {
        leave(lanes, pc);
        break;
      }
    }
  }
}

void Machine::Exit(Warp& warp, uint32_t mask) {
  mask &= warp.live;
  warp.live &= ~mask;
  const auto n = static_cast<uint32_t>(std::popcount(mask));
  Block& block = *warp.threads->block;
  block.live -= n;
  live_threads -= n;
  ForEachLane(mask, [&](int lane) {
    Thread& t = warp.threads[lane];
    if (!t.copies.empty()) {
      Fail(&t, Kind::kInFlight,
           "thread exits while its cp.async are in flight: %zu (missing wait%s)", t.copies.size(),
           t.copies.back().group >= t.copies_committed ? " or commit" : "");
    }
    if (!t.stores.empty()) {
      Fail(&t, Kind::kInFlight, "thread exits while its bulk stores are in flight: %zu",
           t.stores.size());
    }
    t.copies.clear();
    t.stores.clear();
  });
  // Barriers expect only the threads that are left.
  for (NamedBarrier& b : block.named) CompleteNamedBarrier(*this, block, b);
  CompleteClusterBarrier(*this);
}

void Machine::FinishCluster() {
  current = nullptr;
  if (live_threads != 0 && !stopped_) ReportDeadlock();
  if (live_threads == 0) {
    for (WarpGroup& g : groups) {
      if (!g.open.empty() || !g.groups.empty()) {
        current = g.open.empty() ? g.groups.front().front().in : g.open.front().in;
        Fail(nullptr, Kind::kInFlight, "the block ends while wgmma is in flight (missing %s)",
             g.open.empty() ? "wgmma.wait_group" : "wgmma.commit_group");
      }
    }
    current = nullptr;
    for (Block& b : blocks) {
      for (const auto& [offset, m] : b.mbarriers) {
        if (m.tx != 0) {
          Fail(nullptr, Kind::kInFlight,
               "the block ends while an mbarrier expects bytes: %lld (offset %u)",
               static_cast<long long>(m.tx), offset);
        }
      }
    }
  }
}

void Machine::ReportDeadlock() {
  std::map<std::pair<std::string, std::string>, int> waiting;
  for (const Warp& w : warps) {
    ForEachLane(w.live, [&](int lane) {
      const Thread& t = w.threads[lane];
      current = t.waits_at;
      std::string site;
      Where(nullptr, &site);
      ++waiting[{t.waits_for, site}];
    });
  }
  current = nullptr;
  std::string text = "deadlock:";
  for (const auto& [what, n] : waiting) {
    text.append(" ").append(std::to_string(n)).append(" threads wait for ");
    text.append(what.first).append(" at ").append(what.second).append(";");
  }
  Fail(nullptr, Kind::kDeadlock, "%s", text.c_str());
}

// --- Violations ----------------------------------------------------------------------------------

std::string Machine::Where(const Thread* thread, std::string* site) const {
  std::string out = program.name + ": ";
  if (current != nullptr) {
    const SourceLocation& l = program.locations[current->location];
    const auto name = [&](int file, int line) {
      const std::string& path = program.File(file);
      return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
    };
    *site = name(l.file, l.line);
    if (l.inlined_line != 0) *site += " (in " + name(l.inlined_file, l.inlined_line) + ")";
    out += *site + ": ";
  }
  if (thread != nullptr) {
    char text[96];
    const Dim3& b = thread->block->index;
    snprintf(text, sizeof text, "block (%u,%u,%u) thread %d: ", b.x, b.y, b.z, thread->linear);
    out += text;
  }
  return out;
}

void Machine::Fail(const Thread* thread, Kind kind, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  std::string site;
  const std::string where = Where(thread, &site);
  device.reporter.Add(kind, program.name + site, where, text);
}

std::string Machine::AgentName(Agent agent) const {
  if (agent < threads.size()) {
    const Thread& t = threads[agent];
    std::string name = "thread ";
    name.append(std::to_string(t.linear));
    if (blocks.size() > 1) name.append(" of rank ").append(std::to_string(t.block->rank));
    return name;
  }
  for (const WarpGroup& g : groups) {
    if (g.agent == agent) return "a wgmma";
  }
  return "a bulk copy";
}

// --- Memory --------------------------------------------------------------------------------------

uint8_t* Machine::AccessGlobal(const Thread& t, uint64_t address, uint32_t bytes, bool write) {
  Allocation* a = nullptr;
  auto* p = reinterpret_cast<uint8_t*>(address);
  const uint32_t faults = device.global.Access(
      p, bytes, write, GlobalMemory::Writer(launch, t.block->linear, t.linear), &a);
  if (__builtin_expect(faults == GlobalMemory::kNone, 1)) return p;
  const char* what = write ? "write" : "read";
  if (faults & GlobalMemory::kOutside) {
    const Allocation* near = a != nullptr ? a : device.global.Before(p);
    const int64_t distance = near == nullptr ? INT64_MAX : p - near->data;
    if (std::abs(distance) < static_cast<int64_t>(near == nullptr ? 0 : near->bytes + (1 << 20))) {
      Fail(&t, Kind::kOutOfBounds, "global %s out of bounds: byte %lld of '%s', which has %zu",
           what, static_cast<long long>(distance), near->name.c_str(), near->bytes);
    } else {
      Fail(&t, Kind::kOutOfBounds, "global %s out of bounds: address %p", what,
           static_cast<void*>(p));
    }
    return nullptr;
  }
  const auto at = static_cast<size_t>(p - a->data);
  const char* name = a->name.c_str();
  if (faults & GlobalMemory::kWriteReadOnly) {
    Fail(&t, Kind::kReadOnly, "write to a read-only buffer: '%s', byte %zu", name, at);
    return nullptr;
  }
  if (faults & GlobalMemory::kDoubleWrite) {
    Fail(&t, Kind::kDoubleWrite, "element written by two threads of a launch: '%s', byte %zu", name,
         at);
  }
  if (faults & GlobalMemory::kOtherThread) {
    Fail(&t, Kind::kCrossThreadRead,
         "read of what another thread wrote in this launch: '%s', byte %zu", name, at);
  }
  if (faults & GlobalMemory::kNoValue) {
    Fail(&t, Kind::kUninitialised, "uninitialised read of global memory: '%s', byte %zu", name, at);
  }
  return p;
}

Block* Machine::ResolveShared(Thread& t, uint32_t address, uint32_t bytes, uint32_t* offset) {
  const uint32_t rank = address >> kRankShift;
  *offset = (address & ((1u << kRankShift) - 1)) - kSharedBase;
  if (rank > blocks.size()) {
    Fail(&t, Kind::kOutOfBounds, "shared::cluster address of a block that is not in the cluster");
    return nullptr;
  }
  Block* b = rank == 0 ? t.block : &blocks[rank - 1];
  if (b != t.block && b->live == 0) {
    Fail(&t, Kind::kOutOfBounds, "access to the shared memory of a block that has exited");
    return nullptr;
  }
  if (*offset > b->shared.size() || bytes > b->shared.size() - *offset) {
    Fail(&t, Kind::kOutOfBounds, "shared access out of bounds: byte %d of %u",
         static_cast<int>(*offset), b->shared.size());
    return nullptr;
  }
  return b;
}

Accessor Machine::GenericAccessor(const Thread& t) const {
  Accessor by;
  by.seen = races ? t.clock.seen : nullptr;
  by.thread = t.agent;
  by.own = t.clock.own;
  by.booked_on = t.agent;
  by.time = t.clock.own;
  return by;
}

uint8_t* Machine::AccessShared(Thread& t, uint32_t address, uint32_t bytes, bool write) {
  uint32_t offset;
  Block* b = ResolveShared(t, address, bytes, &offset);
  if (b == nullptr) return nullptr;
  Agent other = kNoAgent;
  const uint32_t faults = b->shared.Access(
      offset, bytes, write ? AccessKind::kWrite : AccessKind::kRead, GenericAccessor(t), &other);
  if (__builtin_expect(faults != SharedMemory::kNone, 0)) ReportShared(&t, faults, other);
  return b->shared.data() + offset;
}

void Machine::ReportShared(const Thread* t, uint32_t faults, Agent other) {
  const std::string who = other == kNoAgent ? "" : AgentName(other);
  if (faults & (SharedMemory::kReadBarrier | SharedMemory::kWriteBarrier)) {
    Fail(t, Kind::kBarrier, "access to an mbarrier as data");
  }
  if (faults & SharedMemory::kReadPending) {
    Fail(t, Kind::kPending,
         "read of shared memory where an asynchronous copy is in flight (missing wait)");
  }
  if (faults & SharedMemory::kReadUninitialised) {
    Fail(t, Kind::kUninitialised, "uninitialised read of shared memory");
  }
  if (faults & SharedMemory::kReadRace) {
    Fail(t, Kind::kRace, "race, read after an unordered write: by %s", who.c_str());
  }
  if (faults & SharedMemory::kReadUnfenced) {
    Fail(t, Kind::kProxyFence,
         "async-proxy read of a generic write without fence.proxy.async: by %s", who.c_str());
  }
  if (faults & SharedMemory::kWritePending) {
    Fail(t, Kind::kPending, "write to shared memory where an asynchronous copy is in flight");
  }
  if (faults & SharedMemory::kWriteWriteRace) {
    Fail(t, Kind::kRace, "race, write after an unordered write: by %s", who.c_str());
  }
  if (faults & SharedMemory::kWriteReadRace) {
    Fail(t, Kind::kRace, "race, write after an unordered read: by %s", who.c_str());
  }
  if (faults & SharedMemory::kWriteUnfenced) {
    Fail(t, Kind::kProxyFence,
         "async-proxy write over a generic write without fence.proxy.async: by %s", who.c_str());
  }
}

const uint8_t* Machine::ParamAt(const Thread& t, uint64_t address, uint32_t bytes) {
  const uint64_t offset = address & ~kParamWindow;
  if (offset > params.size() || bytes > params.size() - offset) {
    Fail(&t, Kind::kOutOfBounds, "kernel parameter out of bounds: byte %llu of %zu",
         static_cast<unsigned long long>(offset), params.size());
    return nullptr;
  }
  return params.data() + offset;
}

// --- Clocks --------------------------------------------------------------------------------------

void Machine::Release(Thread& t, ClockSum& sum, ClockSum& fenced) {
  if (!races) return;
  sum.Add(t.clock, t.agent, clocks->agents());
  if (uses_proxy_fences) fenced.Add(t.fenced, t.agent, clocks->agents());
  ++t.clock.own;
}

void Machine::Acquire(Thread& t, const uint32_t* seen, const uint32_t* fenced) {
  if (!races || seen == nullptr) return;
  t.clock.seen = clocks->Join(t.clock.seen, seen);
  if (uses_proxy_fences && fenced != nullptr) t.fenced.seen = clocks->Join(t.fenced.seen, fenced);
}

Agent Machine::NewAgent(const Thread& t) {
  if (next_agent_ >= clocks->agents()) {
    Fail(&t, Kind::kUnsupported, "more mbarriers than the emulator has agents for");
    return static_cast<Agent>(clocks->agents() - 1);
  }
  return next_agent_++;
}

}  // namespace fedumm::cuda_machine
