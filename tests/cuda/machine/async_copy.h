// cp.async and the bulk copies of TMA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

// r = {target, source, source size}; bytes: of the copy; has_also: there is a source size;
// list_a[0]: offsets of both addresses as {immediate, target's offset in list_a[0].at}
void CpAsyncIssue(Warp& warp, const Instruction& in, uint32_t mask);
void CpAsyncCommit(Warp& warp, const Instruction& in, uint32_t mask);
// immediate: groups that may stay in flight; mode 1: wait_all
void CpAsyncWait(Warp& warp, const Instruction& in, uint32_t mask);

// cp.async.bulk.tensor global -> shared: r = {target, map, mbarrier, cluster mask}, list:
// coordinates, has_also: multicast
void BulkTensorLoad(Warp& warp, const Instruction& in, uint32_t mask);
// cp.async.bulk global -> shared: r = {target, source, bytes, mbarrier}
void BulkLoadContiguous(Warp& warp, const Instruction& in, uint32_t mask);
// cp.async.bulk.tensor shared -> global: r = {map, source}, list: coordinates
void BulkTensorStore(Warp& warp, const Instruction& in, uint32_t mask);
// cp.async.bulk shared -> global: r = {target, source, bytes}
void BulkStoreContiguous(Warp& warp, const Instruction& in, uint32_t mask);
void BulkCommit(Warp& warp, const Instruction& in, uint32_t mask);
void BulkWait(Warp& warp, const Instruction& in, uint32_t mask);  // immediate: groups left

void LandBulkLoad(Machine& machine, size_t index);

}  // namespace fedumm::cuda_machine
