#include "tests/cuda/machine/tensor.h"

#include <cstring>

#include "tests/cuda/machine/memory_instructions.h"
#include "tests/cuda/machine/numbers.h"

namespace fedumm::cuda_machine {

bool RequireFullWarp(Warp& w, const char* what, uint32_t mask) {
  if (mask == ~uint32_t{0}) return true;
  w.machine->Fail(&w.threads[std::countr_zero(mask)], Kind::kDivergence,
                  "diverged warp at %s: lanes %08x", what, mask);
  return false;
}

namespace {

// Lanes 8 i .. 8 i + 7 hold the addresses of the rows of matrix i. Null data where refused.
void MatrixRows(Warp& w, const Instruction& in, bool write, uint8_t* (&rows)[32]) {
  Machine& m = *w.machine;
  const int count = static_cast<int>(in.list.size()) * 8;
  uint64_t addresses[32];
  for (int lane = 0; lane < count; ++lane) {
    const uint64_t a = (w.Get(in.r[0], lane) + static_cast<uint64_t>(in.immediate)) & 0xffffffff;
    addresses[lane] = a;
    if (a % 16 != 0) {
      m.Fail(&w.threads[lane], Kind::kMisaligned,
             "row of %s is not aligned to 16 bytes: address %llx", write ? "stmatrix" : "ldmatrix",
             static_cast<unsigned long long>(a));
      rows[lane] = nullptr;
      continue;
    }
    rows[lane] = m.AccessShared(w.threads[lane], static_cast<uint32_t>(a), 16, write);
  }
  if (m.options.statistics) CountAccesses(w, in, addresses, count, 16, true);
}

}  // namespace

void LoadMatrix(Warp& w, const Instruction& in, uint32_t mask) {
  if (!RequireFullWarp(w, "ldmatrix", mask)) return;
  uint8_t* rows[32];
  MatrixRows(w, in, false, rows);
  for (size_t i = 0; i < in.list.size(); ++i) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      const uint8_t* p = rows[i * 8 + static_cast<size_t>(row)];
      if (p != nullptr)
        std::memcpy(matrix[row], p, 16);
      else
        std::memset(matrix[row], 0xff, 16);
    }
    uint32_t* out = w.Narrow(in.list[i]);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      out[lane] = in.mode != 0 ? matrix[2 * t][g] | uint32_t{matrix[2 * t + 1][g]} << 16
                               : matrix[g][2 * t] | uint32_t{matrix[g][2 * t + 1]} << 16;
    }
  }
}

void StoreMatrix(Warp& w, const Instruction& in, uint32_t mask) {
  if (!RequireFullWarp(w, "stmatrix", mask)) return;
  uint8_t* rows[32];
  MatrixRows(w, in, true, rows);
  for (size_t i = 0; i < in.list.size(); ++i) {
    uint16_t matrix[8][8];
    const uint32_t* from = w.Narrow(in.list[i]);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      const auto low = static_cast<uint16_t>(from[lane]);
      const auto high = static_cast<uint16_t>(from[lane] >> 16);
      if (in.mode != 0)
        matrix[2 * t][g] = low, matrix[2 * t + 1][g] = high;
      else
        matrix[g][2 * t] = low, matrix[g][2 * t + 1] = high;
    }
    for (int row = 0; row < 8; ++row) {
      uint8_t* p = rows[i * 8 + static_cast<size_t>(row)];
      if (p != nullptr) std::memcpy(p, matrix[row], 16);
    }
  }
}

namespace {

typedef float Vector8 __attribute__((vector_size(32)));

template <MmaType kType>
void Unpack(uint32_t u, float* low, float* high) {
  if constexpr (kType == MmaType::kBf16) {
    *low = std::bit_cast<float>(u << 16);
    *high = std::bit_cast<float>(u & 0xffff0000);
  } else {
    *low = FromFp16(static_cast<uint16_t>(u));
    *high = FromFp16(static_cast<uint16_t>(u >> 16));
  }
}

// PTX ISA, "Matrix fragments for mma.m16n8k8 / mma.m16n8k16": lane = 4 g + t. A register of A
// holds row g (+ 8 for odd registers) and, of 16-bit types, columns 2 t and 2 t + 1 (+ 8 for
// registers 2 and 3); of tf32 column t (+ 4).
template <MmaType kType>
void MmaOf(Warp& w, const Instruction& in) {
  const int a_registers = static_cast<int>(in.list_a.size());
  const int b_registers = static_cast<int>(in.list_b.size());
  const int k_of_register = kType == MmaType::kTf32 ? 4 : 8;
  const int k = b_registers * k_of_register;
  float a[16][16];
  alignas(32) float b[16][8];
  for (int i = 0; i < a_registers; ++i) {
    const uint32_t* row = w.Narrow(in.list_a[i]);
    const int first_row = (i & 1) * 8, first_k = (i >> 1) * k_of_register;
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      if constexpr (kType == MmaType::kTf32) {
        a[first_row + g][first_k + t] = FromTf32(row[lane]);
      } else {
        float* to = &a[first_row + g][first_k + 2 * t];
        Unpack<kType>(row[lane], to, to + 1);
      }
    }
  }
  for (int i = 0; i < b_registers; ++i) {
    const uint32_t* row = w.Narrow(in.list_b[i]);
    const int first_k = i * k_of_register;
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      if constexpr (kType == MmaType::kTf32) {
        b[first_k + t][g] = FromTf32(row[lane]);
      } else {
        Unpack<kType>(row[lane], &b[first_k + 2 * t][g], &b[first_k + 2 * t + 1][g]);
      }
    }
  }
  alignas(32) float d[16][8];
  for (int i = 0; i < 4; ++i) {
    const uint32_t* row = w.Narrow(in.list_c[i]);
    for (int lane = 0; lane < 32; ++lane) {
      d[(lane >> 2) + (i >> 1) * 8][(lane & 3) * 2 + (i & 1)] = std::bit_cast<float>(row[lane]);
    }
  }
  for (int r = 0; r < 16; ++r) {
    Vector8 sum;
    std::memcpy(&sum, d[r], 32);
    for (int i = 0; i < k; ++i) {
      Vector8 y;
      std::memcpy(&y, b[i], 32);
      sum += a[r][i] * y;
    }
    std::memcpy(d[r], &sum, 32);
  }
  for (int i = 0; i < 4; ++i) {
    uint32_t* row = w.Narrow(in.list[i]);
    for (int lane = 0; lane < 32; ++lane) {
      row[lane] = std::bit_cast<uint32_t>(d[(lane >> 2) + (i >> 1) * 8][(lane & 3) * 2 + (i & 1)]);
    }
  }
}

}  // namespace

void Mma(Warp& w, const Instruction& in, uint32_t mask) {
  if (!RequireFullWarp(w, "mma", mask)) return;
  switch (static_cast<MmaType>(in.mode)) {
    case MmaType::kBf16:
      MmaOf<MmaType::kBf16>(w, in);
      break;
    case MmaType::kFp16:
      MmaOf<MmaType::kFp16>(w, in);
      break;
    case MmaType::kTf32:
      MmaOf<MmaType::kTf32>(w, in);
      break;
  }
}

}  // namespace fedumm::cuda_machine
