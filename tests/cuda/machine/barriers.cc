#include "tests/cuda/machine/barriers.h"

#include <algorithm>

namespace fedumm::cuda_machine {

// --- bar -----------------------------------------------------------------------------------------

void CompleteNamedBarrier(Machine& m, Block& block, NamedBarrier& b) {
  const uint32_t expected = b.expected == 0 ? block.live : b.expected;
  if (b.arrived == 0 || b.arrived < expected) return;
  if (b.arrived > expected) {
    m.Fail(nullptr, Kind::kBarrier, "more threads at a barrier than it expects: %u of %u",
           b.arrived, expected);
  }
  const uint32_t* seen = b.sum.Take(*m.clocks);
  const uint32_t* fenced = b.fenced.Take(*m.clocks);
  for (const NamedBarrier::Waiter& w : b.waiters) {
    // A waiter's own clock is part of the sum.
    if (m.races) w.thread->clock.seen = seen;
    if (m.races && m.uses_proxy_fences) w.thread->fenced.seen = fenced;
    m.Wake(*w.thread);
    const int lane = w.thread->lane;
    switch (static_cast<BarMode>(w.in->mode)) {
      case BarMode::kPopc:
        w.thread->warp->Set(w.in->list[0], lane, b.votes);
        break;
      case BarMode::kAnd:
        w.thread->warp->SetPredicate(w.in->list[0].at, lane, b.votes == b.voters);
        break;
      case BarMode::kOr:
        w.thread->warp->SetPredicate(w.in->list[0].at, lane, b.votes != 0);
        break;
      default:
        break;
    }
  }
  b.waiters.clear();
  b.arrived = b.expected = b.votes = b.voters = 0;
}

void Bar(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  Thread& first = w.threads[std::countr_zero(mask)];
  Block& block = *first.block;
  const auto mode = static_cast<BarMode>(in.mode);
  const bool aligned = in.is_signed;
  if (aligned && mask != w.live) {
    m.Fail(&first, Kind::kDivergence, "diverged warp at an aligned barrier: lanes %08x of %08x",
           mask, w.live);
  }
  const uint64_t id = w.Get(in.r[0], first.lane);
  if (id >= 16) {
    m.Fail(&first, Kind::kBarrier, "barrier id out of range: %llu",
           static_cast<unsigned long long>(id));
    return;
  }
  // Without a count the barrier is for all threads that are left.
  const bool counted = in.immediate != 0;
  const auto count = static_cast<uint32_t>(counted ? w.Get(in.r[1], first.lane) : 0);
  if (counted && (count == 0 || count % 32 != 0)) {
    m.Fail(&first, Kind::kBarrier, "barrier count is no multiple of the warp size: %u", count);
    return;
  }
  NamedBarrier& b = block.named[id];
  if (b.arrived == 0) {
    b.expected = count;
  } else if (b.expected != count) {
    m.Fail(&first, Kind::kBarrier, "barrier used with different thread counts: %u and %u",
           b.expected, count);
  }
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    m.Release(t, b.sum, b.fenced);
    if (mode == BarMode::kArrive) return;
    if (mode != BarMode::kSync) {
      ++b.voters;
      const bool vote = (w.predicates[in.also] >> lane & 1) != 0;
      if (vote != in.has_also) ++b.votes;  // has_also: the source is negated
    }
    b.waiters.push_back({&t, &in});
    m.Wait(t, "bar.sync", &in);
  });
  // A barrier with a count counts whole warps.
  b.arrived += counted && aligned ? 32 : static_cast<uint32_t>(std::popcount(mask));
  CompleteNamedBarrier(m, block, b);
}

void BarWarpSync(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  const int first = std::countr_zero(mask);
  const auto members = static_cast<uint32_t>(w.Get(in.r[0], first));
  if ((members & w.live & ~mask) != 0) {
    m.Fail(&w.threads[first], Kind::kDivergence,
           "__syncwarp while lanes of its mask are elsewhere: %08x", members & ~mask);
  }
  if (!m.races) return;
  ClockSum sum, fenced;
  ForEachLane(mask, [&](int lane) { m.Release(w.threads[lane], sum, fenced); });
  const uint32_t* seen = sum.Take(*m.clocks);
  const uint32_t* published = m.uses_proxy_fences ? fenced.Take(*m.clocks) : nullptr;
  ForEachLane(mask, [&](int lane) {
    w.threads[lane].clock.seen = seen;
    if (published != nullptr) w.threads[lane].fenced.seen = published;
  });
}

// --- barrier.cluster -----------------------------------------------------------------------------

void CompleteClusterBarrier(Machine& m) {
  ClusterBarrier& b = m.cluster_barrier;
  if (b.arrived == 0 || b.arrived < m.live_threads) return;
  b.done = b.sum.Take(*m.clocks);
  b.done_fenced = b.fenced.Take(*m.clocks);
  b.arrived = 0;
  ++b.phase;
  for (Thread* t : b.waiters) {
    m.Acquire(*t, b.done, b.done_fenced);
    t->cluster_arrived = false;
    m.Wake(*t);
  }
  b.waiters.clear();
}

void ClusterArrive(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ClusterBarrier& b = m.cluster_barrier;
  const bool relaxed = in.mode != 0;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    if (t.cluster_arrived) {
      m.Fail(&t, Kind::kBarrier, "barrier.cluster.arrive twice without a wait");
    }
    t.cluster_arrived = true;
    t.cluster_phase = b.phase;
    if (!relaxed) m.Release(t, b.sum, b.fenced);
  });
  b.arrived += static_cast<uint32_t>(std::popcount(mask));
  CompleteClusterBarrier(m);
}

void ClusterWait(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ClusterBarrier& b = m.cluster_barrier;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    if (!t.cluster_arrived) {
      m.Fail(&t, Kind::kBarrier, "barrier.cluster.wait without an arrive");
    } else if (t.cluster_phase != b.phase) {
      m.Acquire(t, b.done, b.done_fenced);
      t.cluster_arrived = false;
    } else {
      b.waiters.push_back(&t);
      m.Wait(t, "barrier.cluster.wait", &in);
    }
  });
}

// --- mbarrier ------------------------------------------------------------------------------------

MBarrier* FindMBarrier(Machine& m, Thread& t, uint32_t address, Block** owner, uint32_t* offset) {
  if (address % 8 != 0) {
    m.Fail(&t, Kind::kMisaligned, "mbarrier is not aligned to 8 bytes: address %x", address);
    return nullptr;
  }
  Block* b = m.ResolveShared(t, address, 8, offset);
  if (b == nullptr) return nullptr;
  if (owner != nullptr) *owner = b;
  const auto it = b->mbarriers.find(*offset);
  if (it == b->mbarriers.end()) {
    m.Fail(&t, Kind::kBarrier, "mbarrier operation on memory that is no mbarrier: offset %u",
           *offset);
    return nullptr;
  }
  if (!b->shared.WriteIsSeen(*offset, m.GenericAccessor(t))) {
    m.Fail(&t, Kind::kRace, "race, mbarrier used before its init is visible");
  }
  if (b != t.block && !it->second.fenced_init) {
    m.Fail(&t, Kind::kProxyFence, "mbarrier of another block used without fence.mbarrier_init");
  }
  return &it->second;
}

void MBarrierInit(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    const auto address = static_cast<uint32_t>(w.Get(in.r[0], lane) + in.immediate);
    const auto count = static_cast<uint32_t>(w.Get(in.r[1], lane));
    uint32_t offset;
    if (address % 8 != 0) {
      m.Fail(&t, Kind::kMisaligned, "mbarrier is not aligned to 8 bytes: address %x", address);
      return;
    }
    if (count == 0 || count >= 1u << 20) {
      m.Fail(&t, Kind::kBarrier, "mbarrier count out of range: %u", count);
      return;
    }
    Block* b = m.ResolveShared(t, address, 8, &offset);
    if (b == nullptr) return;
    const auto old = b->mbarriers.find(offset);
    if (old != b->mbarriers.end()) {
      m.Fail(&t, Kind::kBarrier, "mbarrier.init over an mbarrier that was not invalidated");
    }
    m.AccessShared(t, address, 8, /*write=*/true);
    b->shared.SetBarrier(offset, true);
    MBarrier& barrier = b->mbarriers[offset] = {};
    barrier.count = barrier.pending = count;
    barrier.agent = m.NewAgent(t);
    barrier.initialiser = &t;
  });
}

void MBarrierInvalidate(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    Block* b = nullptr;
    uint32_t offset;
    const auto address = static_cast<uint32_t>(w.Get(in.r[0], lane) + in.immediate);
    const MBarrier* barrier = FindMBarrier(m, t, address, &b, &offset);
    if (barrier == nullptr) return;
    if (barrier->tx != 0 || !barrier->waiters.empty()) {
      m.Fail(&t, Kind::kBarrier, "mbarrier.inval while the mbarrier is in use");
    }
    b->mbarriers.erase(offset);
    b->shared.SetBarrier(offset, false);
  });
}

void CompleteMBarrier(Machine& m, MBarrier& b) {
  if (b.pending != 0 || b.tx != 0) return;
  if (m.races) {
    // The copies of this phase are visible to who waits for it.
    b.sum.Advance(b.agent, b.phase + 1, m.clocks->agents());
    b.done = b.sum.Take(*m.clocks);
    b.done_fenced = b.fenced.Take(*m.clocks);
  }
  const uint32_t finished = b.phase & 1;
  ++b.phase;
  b.pending = b.count;
  std::vector<MBarrier::Waiter> waiters;
  waiters.swap(b.waiters);
  for (const MBarrier::Waiter& w : waiters) {
    if (w.parity != finished) {
      b.waiters.push_back(w);
      continue;
    }
    m.Acquire(*w.thread, b.done, b.done_fenced);
    m.Wake(*w.thread);
  }
}

void MBarrierArrive(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  const auto mode = static_cast<ArriveMode>(in.mode);
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    uint32_t offset;
    const auto address = static_cast<uint32_t>(w.Get(in.r[1], lane) + in.immediate);
    MBarrier* b = FindMBarrier(m, t, address, nullptr, &offset);
    if (b == nullptr) return;
    if (mode != ArriveMode::kArrive) b->tx += static_cast<uint32_t>(w.Get(in.r[2], lane));
    if (mode == ArriveMode::kExpectTx) return;
    const uint32_t count = mode == ArriveMode::kArrive && in.bytes != 0
                               ? static_cast<uint32_t>(w.Get(in.r[2], lane))
                               : 1;
    if (b->pending < count) {
      m.Fail(&t, Kind::kBarrier, "more arrivals at an mbarrier than it expects: %u of %u", count,
             b->pending);
      return;
    }
    if (in.has_also) w.Set(in.r[0], lane, b->phase);
    m.Release(t, b->sum, b->fenced);
    b->pending -= count;
    CompleteMBarrier(m, *b);
  });
}

void MBarrierWait(Warp& w, const Instruction& in, uint32_t mask) {
  Machine& m = *w.machine;
  const bool test = in.mode != 0;
  const uint32_t predicate = in.list[0].at;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    uint32_t offset;
    const auto address = static_cast<uint32_t>(w.Get(in.r[1], lane) + in.immediate);
    MBarrier* b = FindMBarrier(m, t, address, nullptr, &offset);
    w.SetPredicate(predicate, lane, true);
    if (b == nullptr) return;
    const uint32_t parity = w.Get(in.r[2], lane) & 1;
    if ((b->phase & 1) != parity) {
      m.Acquire(t, b->done, b->done_fenced);
      return;
    }
    // try_wait may give up before the phase completes, and test_wait always does.
    if (test || (m.options.order == Order::kRandom && m.rng() % 8 == 0)) {
      w.SetPredicate(predicate, lane, false);
      w.yields = true;
      t.waits_for = "mbarrier";
      t.waits_at = &in;
      return;
    }
    b->waiters.push_back({&t, parity});
    m.Wait(t, "mbarrier", &in);
  });
}

void FenceMBarrierInit(Warp& w, const Instruction&, uint32_t mask) {
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    for (auto& [offset, b] : t.block->mbarriers) {
      if (b.initialiser == &t) b.fenced_init = true;
    }
  });
}

void FenceProxyAsync(Warp& w, const Instruction& in, uint32_t mask) {
  FenceMBarrierInit(w, in, mask);
  Machine& m = *w.machine;
  if (!m.races) return;
  m.uses_proxy_fences = true;
  ForEachLane(mask, [&](int lane) {
    Thread& t = w.threads[lane];
    t.fenced = t.clock;
    ++t.clock.own;
  });
}

}  // namespace fedumm::cuda_machine
