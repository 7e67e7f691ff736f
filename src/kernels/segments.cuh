// What the thin kernels share: tables of work by value, copies to shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fedumm/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/problem.h"
#include "kernels/ptx.cuh"
#include "kernels/tile.cuh"

namespace fedumm::kernels {

// --- Host

// Work of one launch, by value in the kernel's parameters: no table in device memory has to be
// written before the launch, so that a graph can capture it. Item i owns the blocks from first[i]
// to first[i + 1].
template <typename Item, int kMax>
struct Table {
  static constexpr int kCapacity = kMax;
  int count = 0;
  unsigned blocks = 0;
  unsigned first[kMax];
  Item items[kMax];

  __device__ int Find(unsigned block) const {
    return LastAtOrBefore(count, block, [this](int item) { return first[item]; });
  }
};

// Calls launch(table) for as many tables as `items` need; blocks(item) tells an item's share.
template <typename T, typename Items, typename Blocks, typename Launch>
absl::Status ForTables(const Items& items, Blocks blocks, Launch launch) {
  constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();  // of a grid
  T table;
  for (const auto& item : items) {
    const int64_t share = blocks(item);
    if (share == 0) continue;
    if (table.count == T::kCapacity || share > kMaxBlocks - table.blocks) {
      if (absl::Status status = launch(table); !status.ok()) return status;
      table.count = 0;
      table.blocks = 0;
    }
    table.first[table.count] = table.blocks;
    table.items[table.count++] = item;
    table.blocks += static_cast<unsigned>(share);
  }
  return table.count > 0 ? launch(table) : absl::OkStatus();
}

// --- Device

// Copies a kRows x kColumns tile, of which `rows` x `columns` exist, and writes zeros to the rest.
// to(row, byte) is the address in shared memory. kVector: by 16 bytes, for rows that start at
// multiples of 16 bytes; otherwise by elements. The copies of 2-byte elements are ordinary stores,
// all others belong to the thread's cp.async group.
template <typename T, int kRows, int kColumns, int kThreads, bool kVector, typename To>
__device__ __forceinline__ void CopyTile(const T* from, int64_t stride, int rows, int columns,
                                         To to) {
  constexpr int kBytes = kVector ? 16 : static_cast<int>(sizeof(T));
  constexpr int kElements = kBytes / static_cast<int>(sizeof(T));
  constexpr int kPerRow = kColumns / kElements;
  constexpr int kCopies = kRows * kPerRow;
  constexpr int kUnroll = kVector ? 8 : 4;  // all copies of elements at once would spill registers
#pragma unroll kUnroll
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kThreads != 0 && at >= kCopies) break;
    const int row = at / kPerRow;
    const int column = at % kPerRow * kElements;
    const int left = row < rows ? columns - column : 0;
    const int valid = left >= kElements ? kBytes
                      : left > 0        ? left * static_cast<int>(sizeof(T))
                                        : 0;
    const T* source = valid > 0 ? from + row * stride + column : from;
    const uint32_t target = to(row, column * static_cast<int>(sizeof(T)));
    Copy<kBytes>(target, source, valid);
  }
}

template <typename T>
__device__ __forceinline__ void StoreRounded(T* to, float value) {
  if constexpr (std::is_same_v<T, float>) {
    *to = value;
  } else {
    *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(ptx::Pack<T>(value, 0.0F));
  }
}

// Stores the first `valid` of two neighbouring sums, or adds them to what is there.
__device__ __forceinline__ void StorePair(float* to, float2 sums, int valid, bool add) {
  if (valid >= 2 && reinterpret_cast<uintptr_t>(to) % 8 == 0) {
    auto* const pair = reinterpret_cast<float2*>(to);
    if (add) {
      const float2 old = *pair;
      sums.x += old.x;
      sums.y += old.y;
    }
    ptx::StoreGlobal(pair, sums);
    return;
  }
  if (valid >= 1) to[0] = add ? to[0] + sums.x : sums.x;
  if (valid >= 2) to[1] = add ? to[1] + sums.y : sums.y;
}

}  // namespace fedumm::kernels
