// bar, barrier.cluster, __syncwarp and mbarrier.
#pragma once

#include <cstdint>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

// bar.sync, bar.arrive, bar.red: r = {id, count}; `mode` is a BarMode.
enum class BarMode : uint8_t { kSync, kArrive, kPopc, kAnd, kOr };
void Bar(Warp& warp, const Instruction& in, uint32_t mask);
void BarWarpSync(Warp& warp, const Instruction& in, uint32_t mask);  // r = {mask}
void ClusterArrive(Warp& warp, const Instruction& in, uint32_t mask);
void ClusterWait(Warp& warp, const Instruction& in, uint32_t mask);
void CompleteNamedBarrier(Machine& machine, Block& block, NamedBarrier& barrier);
void CompleteClusterBarrier(Machine& machine);

// r = {address, count}
void MBarrierInit(Warp& warp, const Instruction& in, uint32_t mask);
void MBarrierInvalidate(Warp& warp, const Instruction& in, uint32_t mask);
// r = {state, address, count or bytes}; `mode` is an ArriveMode, has_also: a state is wanted
enum class ArriveMode : uint8_t { kArrive, kArriveExpectTx, kExpectTx };
void MBarrierArrive(Warp& warp, const Instruction& in, uint32_t mask);
// list[0] = predicate, r = {-, address, parity or state}; mode 1: test_wait, which never blocks
void MBarrierWait(Warp& warp, const Instruction& in, uint32_t mask);
void FenceMBarrierInit(Warp& warp, const Instruction& in, uint32_t mask);
void FenceProxyAsync(Warp& warp, const Instruction& in, uint32_t mask);

// The mbarrier at a shared address; reports what is none.
MBarrier* FindMBarrier(Machine& machine, Thread& thread, uint32_t address, Block** owner,
                       uint32_t* offset);
void CompleteMBarrier(Machine& machine, MBarrier& barrier);

}  // namespace fedumm::cuda_machine
