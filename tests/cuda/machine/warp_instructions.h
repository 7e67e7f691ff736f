// Moves, predicates, shuffles, votes, address conversions: what is no plain arithmetic.
#pragma once

#include <cstdint>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

void Exit(Warp& warp, const Instruction& in, uint32_t mask);
void Nothing(Warp& warp, const Instruction& in, uint32_t mask);
void Unknown(Warp& warp, const Instruction& in, uint32_t mask);
void Pack(Warp& warp, const Instruction& in, uint32_t mask);    // r[0] = {list}
void Unpack(Warp& warp, const Instruction& in, uint32_t mask);  // {list} = r[0]
void Select(Warp& warp, const Instruction& in, uint32_t mask);  // r[0] = r[3] ? r[1] : r[2]
// Predicates: r[0] = r[1] mode r[2]; is_signed, has_also: the sources are negated
enum class LogicMode : uint8_t { kAnd, kOr, kXor, kMove, kConstant };
void PredicateLogic(Warp& warp, const Instruction& in, uint32_t mask);
// r = {value, source, b, c, members}; mode: a ShuffleMode
enum class ShuffleMode : uint8_t { kIndex, kUp, kDown, kButterfly };
void Shuffle(Warp& warp, const Instruction& in, uint32_t mask);
// r = {result, predicate, members}; is_signed: the source is negated
enum class VoteMode : uint8_t { kBallot, kAny, kAll, kUniform };
void Vote(Warp& warp, const Instruction& in, uint32_t mask);
void ActiveMask(Warp& warp, const Instruction& in, uint32_t mask);
void ElectOne(Warp& warp, const Instruction& in, uint32_t mask);        // r[0]|also, r[1] members
void ConvertAddress(Warp& warp, const Instruction& in, uint32_t mask);  // cvta: mode 1 is .to
void MapShared(Warp& warp, const Instruction& in, uint32_t mask);       // mapa

}  // namespace fedumm::cuda_machine
