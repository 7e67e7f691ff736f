#include "tests/cuda/machine/warp_instructions.h"

namespace fedumm::cuda_machine {
namespace {

uint64_t LowBits(uint64_t v, uint32_t bits) {
  return bits >= 64 ? v : v & ((uint64_t{1} << bits) - 1);
}

// Lanes of `members` that are alive and not here: the instruction would wait for them.
bool CheckMembers(Warp& w, const char* what, uint32_t members, int lane, uint32_t mask) {
  if ((members & ~mask) == 0 && (members >> lane & 1) != 0) return true;
  w.machine->Fail(&w.threads[lane], Kind::kDivergence,
                  "%s while lanes of its mask are elsewhere: mask %08x, here %08x", what, members,
                  mask);
  return false;
}

}  // namespace

void Exit(Warp& w, const Instruction&, uint32_t mask) { w.machine->Exit(w, mask); }

void Nothing(Warp&, const Instruction&, uint32_t) {}

void Unknown(Warp& w, const Instruction& in, uint32_t mask) {
  w.machine->Fail(&w.threads[std::countr_zero(mask)], Kind::kUnsupported, "unknown instruction %s",
                  w.program->opcodes[in.opcode].c_str());
}

void Pack(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t bits = in.bytes * 8u;
  ForEachLane(mask, [&](int lane) {
    uint64_t v = 0;
    for (size_t i = 0; i < in.list.size(); ++i) {
      v |= LowBits(w.Get(in.list[i], lane), bits) << (i * bits);
    }
    w.Set(in.r[0], lane, v);
  });
}

void Unpack(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t bits = in.bytes * 8u;
  ForEachLane(mask, [&](int lane) {
    const uint64_t v = w.Get(in.r[0], lane);
    for (size_t i = 0; i < in.list.size(); ++i) {
      w.Set(in.list[i], lane, LowBits(v >> (i * bits), bits));
    }
  });
}

void Select(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t p = in.is_signed ? ~w.predicates[in.r[3].at] : w.predicates[in.r[3].at];
  if (in.r[0].wide || in.r[1].wide || in.r[2].wide) {
    ForEachLane(mask,
                [&](int lane) { w.Set(in.r[0], lane, w.Get(in.r[p >> lane & 1 ? 1 : 2], lane)); });
    return;
  }
  uint32_t* d = w.Narrow(in.r[0]);
  const uint32_t* a = w.Narrow(in.r[1]);
  const uint32_t* b = w.Narrow(in.r[2]);
  ForEachLane(mask, [&](int lane) { d[lane] = (p >> lane & 1) != 0 ? a[lane] : b[lane]; });
}

void PredicateLogic(Warp& w, const Instruction& in, uint32_t mask) {
  const auto mode = static_cast<LogicMode>(in.mode);
  uint32_t a = 0, b = 0;
  if (mode != LogicMode::kConstant) {
    a = in.is_signed ? ~w.predicates[in.r[1].at] : w.predicates[in.r[1].at];
  }
  if (mode < LogicMode::kMove) {
    b = in.has_also ? ~w.predicates[in.r[2].at] : w.predicates[in.r[2].at];
  }
  uint32_t v = 0;
  switch (mode) {
    case LogicMode::kAnd:
      v = a & b;
      break;
    case LogicMode::kOr:
      v = a | b;
      break;
    case LogicMode::kXor:
      v = a ^ b;
      break;
    case LogicMode::kMove:
      v = a;
      break;
    case LogicMode::kConstant:
      v = in.immediate != 0 ? ~uint32_t{0} : 0;
      break;
  }
  uint32_t& d = w.predicates[in.r[0].at];
  d = (d & ~mask) | (v & mask);
}

// PTX ISA, shfl.sync: c holds the clamp and the segment mask.
void Shuffle(Warp& w, const Instruction& in, uint32_t mask) {
  uint64_t values[32];
  for (int lane = 0; lane < 32; ++lane) values[lane] = w.Get(in.r[1], lane);
  ForEachLane(mask, [&](int lane) {
    const auto b = static_cast<int>(w.Get(in.r[2], lane) & 31);
    const auto c = static_cast<int>(w.Get(in.r[3], lane));
    const auto members = static_cast<uint32_t>(w.Get(in.r[4], lane));
    const int clamp = c & 31, segment = c >> 8 & 31;
    const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int from = lane;
    bool inside = false;
    switch (static_cast<ShuffleMode>(in.mode)) {
      case ShuffleMode::kUp:
        from = lane - b, inside = from >= most;
        break;
      case ShuffleMode::kDown:
        from = lane + b, inside = from <= most;
        break;
      case ShuffleMode::kButterfly:
        from = lane ^ b, inside = from <= most;
        break;
      case ShuffleMode::kIndex:
        from = least | (b & ~segment), inside = from <= most;
        break;
    }
    if (!inside) from = lane;
    if (CheckMembers(w, "shfl.sync", members, lane, mask) && (members >> from & 1) == 0) {
      w.machine->Fail(&w.threads[lane], Kind::kDivergence,
                      "shfl.sync reads a lane outside of its mask: %d", from);
    }
    w.Set(in.r[0], lane, values[from]);
    if (in.has_also) w.SetPredicate(static_cast<uint32_t>(in.also), lane, inside);
  });
}

void Vote(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t p = in.is_signed ? ~w.predicates[in.r[1].at] : w.predicates[in.r[1].at];
  ForEachLane(mask, [&](int lane) {
    const auto members = static_cast<uint32_t>(w.Get(in.r[2], lane));
    CheckMembers(w, "vote.sync", members, lane, mask);
    const uint32_t ballot = p & members & mask, voters = members & mask;
    switch (static_cast<VoteMode>(in.mode)) {
      case VoteMode::kBallot:
        w.Set(in.r[0], lane, ballot);
        break;
      case VoteMode::kAny:
        w.SetPredicate(in.r[0].at, lane, ballot != 0);
        break;
      case VoteMode::kAll:
        w.SetPredicate(in.r[0].at, lane, ballot == voters);
        break;
      case VoteMode::kUniform:
        w.SetPredicate(in.r[0].at, lane, ballot == voters || ballot == 0);
        break;
    }
  });
}

void ActiveMask(Warp& w, const Instruction& in, uint32_t mask) {
  ForEachLane(mask, [&](int lane) { w.Set(in.r[0], lane, mask); });
}

void ElectOne(Warp& w, const Instruction& in, uint32_t mask) {
  ForEachLane(mask, [&](int lane) {
    const auto members = static_cast<uint32_t>(w.Get(in.r[1], lane));
    CheckMembers(w, "elect.sync", members, lane, mask);
    const int leader = std::countr_zero(members & mask);
    w.Set(in.r[0], lane, static_cast<uint64_t>(leader));
    if (in.has_also) w.SetPredicate(static_cast<uint32_t>(in.also), lane, lane == leader);
  });
}

void ConvertAddress(Warp& w, const Instruction& in, uint32_t mask) {
  const uint64_t window = in.space == Space::kShared  ? kSharedWindow
                          : in.space == Space::kLocal ? kLocalWindow
                          : in.space == Space::kParam ? kParamWindow
                                                      : 0;
  ForEachLane(mask, [&](int lane) {
    const uint64_t v = w.Get(in.r[1], lane);
    w.Set(in.r[0], lane, in.mode != 0 ? v & ~window : v | window);
  });
}

void MapShared(Warp& w, const Instruction& in, uint32_t mask) {
  ForEachLane(mask, [&](int lane) {
    const uint64_t v = w.Get(in.r[1], lane), rank = w.Get(in.r[2], lane);
    const uint64_t offset = v & ((uint64_t{1} << kRankShift) - 1);
    const uint64_t window = v & kSharedWindow;
    w.Set(in.r[0], lane, window | (rank + 1) << kRankShift | offset);
  });
}

}  // namespace fedumm::cuda_machine
