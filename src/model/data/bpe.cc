#include "model/data/bpe.h"

#include <compare>
#include <functional>
#include <queue>

namespace fedumm::model {
namespace {

uint64_t Key(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

constexpr int64_t kNone = -1;

struct Symbol {
  int32_t id;
  int64_t previous;
  int64_t next;
  bool alive = true;
};

// A merge of the symbol at `position` with the next one, as seen when it was queued.
struct Candidate {
  int32_t rank;
  int64_t position;
  int32_t merged;

  auto operator<=>(const Candidate&) const = default;
};

}  // namespace

void BpeMerges::Add(int32_t left, int32_t right, int32_t merged) {
  merges_[Key(left, right)] = {next_rank_++, merged};
}

const BpeMerges::Merge* BpeMerges::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(Key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerges::Encode(std::string_view piece, std::vector<int64_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char byte : piece) {
    const int64_t i = std::ssize(symbols);
    symbols.push_back({byte_ids_[static_cast<uint8_t>(byte)], i - 1, i + 1});
  }
  if (!symbols.empty()) symbols.back().next = kNone;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](int64_t position) {
    if (position == kNone || symbols[position].next == kNone) return;
    const Merge* const merge = Find(symbols[position].id, symbols[symbols[position].next].id);
    if (merge != nullptr) queue.push({merge->rank, position, merge->merged});
  };
  for (int64_t i = 0; i < std::ssize(symbols); ++i) consider(i);

  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbols[candidate.position];
    if (!left.alive || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    const Merge* const merge = Find(left.id, right.id);
    if (merge == nullptr || merge->merged != candidate.merged) continue;  // a neighbour changed
    left.id = candidate.merged;
    left.next = right.next;
    right.alive = false;
    if (left.next != kNone) symbols[left.next].previous = candidate.position;
    consider(left.previous);
    consider(candidate.position);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.alive) ids.push_back(symbol.id);
  }
}

}  // namespace fedumm::model
