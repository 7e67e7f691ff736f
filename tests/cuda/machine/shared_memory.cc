#include "tests/cuda/machine/shared_memory.h"

#include <algorithm>

namespace fedumm::cuda_machine {

void SharedMemory::Reset(uint32_t bytes, size_t agents) {
  agents_ = agents;
  data_.assign(bytes, 0xff);
  rows_.assign(bytes / 16 + 1, {});
  parts_.assign(1, {});
  many_.clear();
  free_many_.clear();
}

uint32_t SharedMemory::NewMany() {
  if (free_many_.empty()) {
    many_.emplace_back(agents_, 0);
    return static_cast<uint32_t>(many_.size() - 1);
  }
  const uint32_t slot = free_many_.back();
  free_many_.pop_back();
  std::fill(many_[slot].begin(), many_[slot].end(), 0);
  return slot;
}

std::array<SharedMemory::Cell, 8>& SharedMemory::Split(Row& row) {
  if (row.slot == 0) {
    row.slot = static_cast<uint32_t>(parts_.size());
    parts_.emplace_back();
  }
  std::array<Cell, 8>& parts = parts_[row.slot];
  if (!row.split) {
    row.split = true;
    parts.fill(row.whole);
    if (row.whole.readers == kMany) {
      for (size_t i = 1; i < parts.size(); ++i) {
        const uint32_t slot = NewMany();
        many_[slot] = many_[row.whole.r_time[0]];
        parts[i].r_time[0] = slot;
      }
    }
  }
  return parts;
}

uint32_t SharedMemory::CheckRead(const Cell& cell, const Accessor& by, Agent* other) const {
  if (cell.state & kBarrierCell) return kReadBarrier;
  if (cell.state & kPendingWrite) return kReadPending;
  if (!(cell.state & kValue)) return kReadUninitialised;
  if (by.seen == nullptr) return kNone;
  if (!by.Sees(cell.w_agent, cell.w_time)) {
    *other = cell.w_agent;
    return kReadRace;
  }
  if (by.async_proxy && !(cell.state & kAsync) && !by.SeesFenced(cell.w_agent, cell.w_time)) {
    *other = cell.w_agent;
    return kReadUnfenced;
  }
  return kNone;
}

uint32_t SharedMemory::CheckWrite(Cell& cell, const Accessor& by, Agent* other) {
  uint32_t faults = kNone;
  if (cell.state & kBarrierCell) faults |= kWriteBarrier;
  if (cell.state & kPendingWrite) faults |= kWritePending;
  if (by.seen != nullptr) {
    if ((cell.state & kValue) && !by.Sees(cell.w_agent, cell.w_time)) {
      *other = cell.w_agent;
      faults |= kWriteWriteRace;
    } else if ((cell.state & kValue) && by.async_proxy && !(cell.state & kAsync) &&
               !by.SeesFenced(cell.w_agent, cell.w_time)) {
      *other = cell.w_agent;
      faults |= kWriteUnfenced;
    }
    if (cell.readers == kMany) {
      const std::vector<uint32_t>& times = many_[cell.r_time[0]];
      for (size_t a = 0; a < times.size(); ++a) {
        if (!by.Sees(static_cast<Agent>(a), times[a])) {
          *other = static_cast<Agent>(a);
          faults |= kWriteReadRace;
        }
      }
    } else {
      for (int i = 0; i < cell.readers; ++i) {
        if (!by.Sees(cell.r_agent[i], cell.r_time[i])) {
          *other = cell.r_agent[i];
          faults |= kWriteReadRace;
        }
      }
    }
  }
  if (cell.readers == kMany) free_many_.push_back(cell.r_time[0]);
  cell.readers = 0;
  return faults;
}

void SharedMemory::BookRead(Cell& cell, const Accessor& by) {
  if (cell.readers == kMany) {
    many_[cell.r_time[0]][by.booked_on] = by.time;
    return;
  }
  // A reader that is ordered before this one needs no entry: who comes after this one comes after
  // it too.
  int kept = 0;
  for (int i = 0; i < cell.readers; ++i) {
    if (cell.r_agent[i] == by.booked_on || by.Sees(cell.r_agent[i], cell.r_time[i])) continue;
    cell.r_agent[kept] = cell.r_agent[i];
    cell.r_time[kept++] = cell.r_time[i];
  }
  if (kept < 4) {
    cell.r_agent[kept] = by.booked_on;
    cell.r_time[kept] = by.time;
    cell.readers = static_cast<uint8_t>(kept + 1);
    return;
  }
  const uint32_t slot = NewMany();
  for (int i = 0; i < 4; ++i) many_[slot][cell.r_agent[i]] = cell.r_time[i];
  many_[slot][by.booked_on] = by.time;
  cell.readers = kMany;
  cell.r_time[0] = slot;
}

uint32_t SharedMemory::AccessCell(Cell& cell, AccessKind kind, const Accessor& by, Agent* other) {
  if (kind == AccessKind::kRead) {
    const uint32_t faults = CheckRead(cell, by, other);
    if (by.seen != nullptr) BookRead(cell, by);
    return faults;
  }
  const uint32_t faults = CheckWrite(cell, by, other);
  cell.w_agent = by.booked_on;
  cell.w_time = by.time;
  cell.state =
      kind == AccessKind::kIssue ? kPendingWrite : kValue | (by.async_proxy ? kAsync : uint8_t{0});
  return faults;
}

uint32_t SharedMemory::Access(uint32_t offset, uint32_t bytes, AccessKind kind, const Accessor& by,
                              Agent* other) {
  uint32_t faults = kNone;
  for (uint32_t at = offset, end = offset + bytes; at < end;) {
    Row& row = rows_[at / 16];
    const uint32_t row_end = std::min(end, (at / 16 + 1) * 16);
    if (row_end - at == 16) {
      if (row.split) {
        std::array<Cell, 8>& parts = parts_[row.slot];
        for (Cell& cell : parts) faults |= AccessCell(cell, kind, by, other);
        if (kind != AccessKind::kRead) {  // now they are alike again
          row.whole = parts[0];
          row.split = false;
        }
      } else {
        faults |= AccessCell(row.whole, kind, by, other);
      }
    } else {
      std::array<Cell, 8>& parts = Split(row);
      for (uint32_t i = at % 16 / 2; i <= (row_end - 1) % 16 / 2; ++i) {
        faults |= AccessCell(parts[i], kind, by, other);
      }
    }
    at = row_end;
  }
  return faults;
}

void SharedMemory::Land(uint32_t offset, uint32_t bytes, Agent agent, uint32_t time,
                        bool async_proxy) {
  const auto land = [&](Cell& cell) {
    cell.state = kValue | (async_proxy ? kAsync : uint8_t{0});
    cell.w_agent = agent;
    cell.w_time = time;
  };
  for (uint32_t at = offset, end = offset + bytes; at < end;) {
    Row& row = rows_[at / 16];
    const uint32_t row_end = std::min(end, (at / 16 + 1) * 16);
    if (row_end - at == 16 && !row.split) {
      land(row.whole);
    } else {
      std::array<Cell, 8>& parts = Split(row);
      for (uint32_t i = at % 16 / 2; i <= (row_end - 1) % 16 / 2; ++i) land(parts[i]);
    }
    at = row_end;
  }
}

void SharedMemory::SetBarrier(uint32_t offset, bool is_barrier) {
  std::array<Cell, 8>& parts = Split(rows_[offset / 16]);
  for (uint32_t i = offset % 16 / 2; i < offset % 16 / 2 + 4; ++i) {
    parts[i].state = is_barrier ? kValue | kBarrierCell : 0;
  }
}

bool SharedMemory::WriteIsSeen(uint32_t offset, const Accessor& by) {
  if (by.seen == nullptr) return true;
  const Cell& cell = Split(rows_[offset / 16])[offset % 16 / 2];
  return by.Sees(cell.w_agent, cell.w_time);
}

}  // namespace fedumm::cuda_machine
