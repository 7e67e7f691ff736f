// The emulated machine against tables worked out from the PTX ISA, and each kind of violation
// against a kernel that commits it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/cuda/machine/fixture.h"
#include "tests/cuda/machine_kernels.h"

namespace fedumm::cuda_machine {
namespace {

namespace kernels = cuda_machine_test;
using testing::HasSubstr;

class CudaMachineTest : public MachineTest {
 protected:
  void OnHopper() { SetDevice(9); }
};

float IntegerAt(size_t i) { return static_cast<float>(static_cast<int>(i * 7 % 11) - 5); }

// bf16 bits of a small integer, by its definition: the upper half of a float.
uint16_t Bf16Bits(float f) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(f) >> 16); }

// --- Arithmetic ----------------------------------------------------------------------------------

TEST_F(CudaMachineTest, IntegerInstructionsMatchTheTable) {
  const uint32_t a = 0x12345678, b = 0x9abcdef0;
  const uint32_t want[] = {
      0xf8cc93d6,  // mul.hi.s32
      0x0b00ea4e,  // mul.hi.u32
      0x9a34de78,  // prmt 0x7250: bytes 0 5 2 7
      0x78780000,  // prmt 0xb8: sign of byte 0, sign of byte 3, byte 0 twice
      0x67,        // bfe.u32 4, 8
      0x67,        // bfe.s32 4, 8: bit 11 is 0
      0x9abcd8f0,  // bfi 8, 4
      0x12345677,  // lop3 0xca: a ? b : c
      0xbcdef012,  // shf.l.wrap 8
      0x9abcdef0,  // shf.r.clamp 40
      13,          // popc
      29,          // clz 7
      0x1e6a2c48,  // brev
      0xffffffff,  // shr.s32 by 40
      0x2468ac,    // shr.u32 7
      0,           // shl 32
      0x9abcdef0,  // min.s32
      0x12345678,  // min.u32
      43631413,    // div.s32 7
      5,           // rem.s32 7
      0x242d2087,  // mad.lo 7
      0x242d2080,  // mul.wide.s32
      0xf8cc93d6,
      0x242d2085,  // mad.wide.u32 5
      0x0b00ea4e,
  };
  Buffer<int> in(3, "in"), out(std::size(want), "out");
  const int values[] = {static_cast<int>(a), static_cast<int>(b), 7};
  in.Fill([&](size_t i) { return values[i]; });
  ASSERT_EQ(kernels::IntegerOps(in.data(), out.data()), 0);
  ExpectClean();
  for (size_t i = 0; i < std::size(want); ++i) {
    EXPECT_EQ(static_cast<uint32_t>(out[i]), want[i]) << "entry " << i;
  }
}

TEST_F(CudaMachineTest, FloatInstructionsMatchTheTable) {
  const float values[] = {2.75f, 0.1875f,      1e20f,        std::nanf(""),
                          2.5f,  1 + 0x1p-11f, 1 + 0x1p-11f, 1 + 3 * 0x1p-8f};
  const uint32_t want[] = {
      0xbef80000,  // fma(2.75, 0.1875, -1) = -0.484375
      0x416aaaab,  // 2.75 / 0.1875
      0x3eddb3d7,  // sqrt(0.1875)
      2,           // rzi 2.75
      2,           // rni 2.5
      0xfffffffd,  // rmi -2.75
      3,           // rpi 2.75
      0x7fffffff,  // rzi 1e20 saturates
      0,           // rzi NaN
      0x4b800000,  // 16777217 to float: 2^24
      0x40300000,  // max(2.75, NaN)
      0x3f802000,  // rna.tf32 of 1 + 2^-11: away from zero
      0x40303e40,  // bf16x2: 2.75 above 0.1875
      0x41803200,  // f16x2
      0x3f800000,  // fp16 of 1 + 2^-11: to even
      0x3f820000,  // bf16 of 1 + 3 * 2^-8: to even
      0x3f91c3d3,  // ex2 0.1875
      0,           // 2.75 < NaN
      1,           // 2.75 != NaN
      0x3fe08000,  // upper half of the double 0.515625
  };
  Buffer<float> in(std::size(values), "in");
  Buffer<uint32_t> out(std::size(want), "out");
  in.Fill([&](size_t i) { return values[i]; });
  ASSERT_EQ(kernels::FloatOps(in.data(), out.data()), 0);
  ExpectClean();
  for (size_t i = 0; i < std::size(want); ++i) EXPECT_EQ(out[i], want[i]) << "entry " << i;
}

TEST_F(CudaMachineTest, ShufflesAndVotesFollowTheirModes) {
  Buffer<int> out(224, "out");
  ASSERT_EQ(kernels::WarpOps(out.data()), 0);
  ExpectClean();
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out[lane], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(out[32 + lane], lane % 8 + 3 < 8 ? lane + 3 : lane);
    EXPECT_EQ(out[64 + lane], lane ^ 5);
    EXPECT_EQ(out[96 + lane], lane / 8 * 8 + 1);  // 9 within segments of 8
    EXPECT_EQ(out[128 + lane], 0x49249249);
    EXPECT_EQ(out[160 + lane], 1);
    EXPECT_EQ(out[192 + lane], lane % 2 == 0 ? 0x55555555 : 0);
  }
}

TEST_F(CudaMachineTest, LocalArraysAreOfOneThread) {
  Buffer<int> in(2, "in"), out(32, "out");
  in.Fill([](size_t i) { return i == 0 ? 3 : 11; });
  ASSERT_EQ(kernels::LocalMemory(in.data(), out.data()), 0);
  ExpectClean();
  // (i * 5 + 3) % 16 == 11 for i = 8
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], 800 + lane);
}

// --- Tensor instructions -------------------------------------------------------------------------

TEST_F(CudaMachineTest, MmaOfEachTypeIsTheMatrixProduct) {
  for (const int type : {0, 1, 2}) {
    const int k = type == 2 ? 8 : 16;
    const auto value = [&](int row, int i) {
      return static_cast<float>((row * 3 + i * 5) % 9 - 4);
    };
    // fp16 of small integers: sign, exponent + 15, mantissa
    const auto bits = [&](float f) -> uint32_t {
      if (type != 1) return Bf16Bits(f);
      if (f == 0) return 0;
      const int exponent = std::ilogb(f);
      const float mantissa = std::fabs(f) / std::exp2(static_cast<float>(exponent)) - 1;
      return (f < 0 ? 0x8000u : 0u) | static_cast<uint32_t>(exponent + 15) << 10 |
             static_cast<uint32_t>(mantissa * 1024);
    };
    const auto word = [&](size_t at) {
      const int row = static_cast<int>(at) / 8, w = static_cast<int>(at) % 8;
      // tf32 ignores the low 13 bits of a float.
      if (type == 2) return std::bit_cast<uint32_t>(value(row, w)) | 0xfff;
      return bits(value(row, 2 * w)) | bits(value(row, 2 * w + 1)) << 16;
    };
    Buffer<uint32_t> a(128, "a"), b(64, "b");
    Buffer<float> d(128, "d");
    a.Fill(word);
    b.Fill(word);
    ASSERT_EQ(kernels::Mma(type, a.data(), b.data(), d.data()), 0);
    ExpectClean();
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        double want = 0;
        for (int t = 0; t < k; ++t) want += double{value(i, t)} * value(j, t);
        EXPECT_EQ(d[i * 8 + j], want) << "type " << type << " at " << i << ", " << j;
      }
    }
  }
}

TEST_F(CudaMachineTest, LdmatrixGivesEachLaneTwoElementsOfARow) {
  Buffer<uint32_t> out(128, "out");
  ASSERT_EQ(kernels::LoadMatrix(false, out.data()), 0);
  ExpectClean();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t first = m * 64 + lane / 4 * 8 + lane % 4 * 2;
      EXPECT_EQ(out[lane * 4 + m], first | (first + 1) << 16);
    }
  }
}

TEST_F(CudaMachineTest, LdmatrixTransGivesEachLaneTwoElementsOfAColumn) {
  Buffer<uint32_t> out(128, "out");
  ASSERT_EQ(kernels::LoadMatrix(true, out.data()), 0);
  ExpectClean();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t first = m * 64 + lane % 4 * 2 * 8 + lane / 4;
      EXPECT_EQ(out[lane * 4 + m], first | (first + 8) << 16);
    }
  }
}

TEST_F(CudaMachineTest, StmatrixTransStoresColumnsAsRows) {
  OnHopper();
  Buffer<uint16_t> out(64, "out");
  ASSERT_EQ(kernels::StoreMatrix(out.data()), 0);
  ExpectClean();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], i % 8 * 8 + i / 8);
}

// --- Synchronisation -----------------------------------------------------------------------------

class HandOverTest : public CudaMachineTest {
 protected:
  HandOverTest() : in_(32, "in"), out_(32, "out") { in_.Fill(IntegerAt); }
  Buffer<float> in_, out_;
};

TEST_F(HandOverTest, NamedBarrierOrdersTheHandOver) {
  ASSERT_EQ(kernels::HandOver(0, in_.data(), out_.data()), 0);
  ExpectClean();
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out_[i], in_[31 - i]);
}

TEST_F(HandOverTest, MissingBarrierIsARaceInEverySchedule) {
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kRandom}) {
    SetOptions({.order = order});
    kernels::HandOver(1, in_.data(), out_.data());
    const Report report = TakeReport();
    // If the reader comes first it reads memory without a value; the writer then races with it.
    EXPECT_TRUE(report.Has(Kind::kRace)) << report.ToString();
    out_.Poison();
  }
}

TEST_F(HandOverTest, BarrierForTooFewThreadsDoesNotOrder) {
  kernels::HandOver(2, in_.data(), out_.data());
  ExpectViolation(Kind::kRace);
}

TEST_F(HandOverTest, WaitingAtAnotherBarrierIsADeadlock) {
  kernels::HandOver(3, in_.data(), out_.data());
  const Report report = TakeReport();
  ASSERT_TRUE(report.Has(Kind::kDeadlock));
  EXPECT_THAT(report.ToString(), HasSubstr("32 threads wait for bar.sync"));
}

TEST_F(CudaMachineTest, SyncWarpOrdersTheLanesOfAWarp) {
  Buffer<int> out(32, "out");
  kernels::SyncWarp(true, out.data());
  ExpectClean();
  out.Poison();
  kernels::SyncWarp(false, out.data());
  ExpectViolation(Kind::kRace);
}

TEST_F(CudaMachineTest, WriteAfterAnUnorderedReadIsARace) {
  Buffer<int> out(64, "out");
  kernels::Reuse(true, out.data());
  ExpectClean();
  out.Poison();
  kernels::Reuse(false, out.data());
  ExpectViolation(Kind::kRace);
}

TEST_F(CudaMachineTest, BarrierWaitsForTheThreadsThatAreLeft) {
  Buffer<int> out(64, "out");
  kernels::EarlyExit(out.data());
  ExpectClean();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], 63 - i + 1 + 10);
}

TEST_F(CudaMachineTest, BarrierInADivergedWarpIsReported) {
  Buffer<int> out(32, "out");
  kernels::DivergedBarrier(out.data());
  ExpectViolation(Kind::kDivergence);
}

TEST_F(CudaMachineTest, ClusterSumsThroughDistributedSharedMemory) {
  OnHopper();
  Buffer<float> in(128, "in"), out(1, "out");
  in.Fill(IntegerAt);
  double want = 0;
  for (size_t i = 0; i < 128; ++i) want += in[i];
  ASSERT_EQ(kernels::ClusterSum(true, in.data(), out.data()), 0);
  ExpectClean();
  EXPECT_EQ(out[0], want);
}

TEST_F(CudaMachineTest, ReadOfAnotherBlocksMemoryWithoutAClusterBarrierIsReported) {
  OnHopper();
  Buffer<float> in(128, "in"), out(1, "out");
  in.Fill(IntegerAt);
  SetOptions({.order = Order::kDescending});
  kernels::ClusterSum(false, in.data(), out.data());
  ExpectViolation(Kind::kRace);
}

TEST_F(CudaMachineTest, ClusterNeedsComputeCapability9) {
  Buffer<float> in(128, "in"), out(1, "out");
  in.Fill(IntegerAt);
  EXPECT_NE(kernels::ClusterSum(true, in.data(), out.data()), 0);
  ExpectViolation(Kind::kLaunch);
}

// --- Memory --------------------------------------------------------------------------------------

class CopyTest : public CudaMachineTest {
 protected:
  CopyTest() : in_(100, "in"), out_(100, "out") {
    in_.Fill(IntegerAt);
    in_.ReadOnly();
  }
  Buffer<float> in_, out_;
};

TEST_F(CopyTest, CopiesAndRemembersWhatWasWritten) {
  ASSERT_EQ(kernels::Copy(in_.data(), out_.data(), 90, 0), 0);
  ExpectClean();
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(out_.WasWritten(i), i < 90);
    EXPECT_TRUE(i < 90 ? out_[i] == in_[i] : std::isnan(out_[i]));
  }
}

TEST_F(CopyTest, ReadBeyondABufferIsReportedByName) {
  kernels::Copy(in_.data(), out_.data(), 100, 1);
  const Report report = TakeReport();
  EXPECT_TRUE(report.Has(Kind::kOutOfBounds));
  EXPECT_THAT(report.ToString(), HasSubstr("byte 400 of 'in', which has 400"));
  EXPECT_THAT(report.ToString(), HasSubstr("machine_kernels.cu:"));
}

TEST_F(CopyTest, WriteBeyondABufferIsReported) {
  Buffer<float> small(99, "small");
  kernels::Copy(in_.data(), small.data(), 100, 0);
  ExpectViolation(Kind::kOutOfBounds);
}

TEST_F(CopyTest, WriteToAReadOnlyBufferIsReported) {
  kernels::Copy(in_.data(), in_.data(), 100, 0);
  ExpectViolation(Kind::kReadOnly);
}

TEST_F(CopyTest, UninitialisedReadIsReported) {
  Buffer<float> empty(100, "empty");
  empty.MarkInitialised(0, 50);
  kernels::Copy(empty.data(), out_.data(), 50, 0);
  ExpectClean();
  out_.Poison();
  kernels::Copy(empty.data(), out_.data(), 51, 0);
  ExpectViolation(Kind::kUninitialised);
}

TEST_F(CopyTest, MisalignedAccessIsReported) {
  Buffer<uint16_t> in(256, "in", 2), out(256, "out");
  in.MarkInitialised();
  kernels::Copy16(in.data(), out.data());
  ExpectViolation(Kind::kMisaligned);
}

TEST_F(CudaMachineTest, ElementWrittenByTwoThreadsIsReported) {
  Buffer<float> out(16, "out");
  kernels::SameElement(out.data());
  ExpectViolation(Kind::kDoubleWrite);
}

TEST_F(CudaMachineTest, ReadOfWhatAnotherThreadWroteInTheLaunchIsReported) {
  Buffer<float> out(128, "out");
  kernels::ReadBack(out.data());
  ExpectViolation(Kind::kCrossThreadRead);
}

TEST_F(CudaMachineTest, UninitialisedSharedMemoryIsReported) {
  Buffer<float> out(64, "out");
  kernels::UninitialisedShared(out.data());
  ExpectViolation(Kind::kUninitialised);
}

TEST_F(CudaMachineTest, SharedMemoryEndsWhereTheLaunchSays) {
  Buffer<float> out(32, "out");
  ASSERT_EQ(kernels::SharedBounds(out.data(), 64, 256, 0), 0);
  ExpectClean();
  out.Poison();
  ASSERT_EQ(kernels::SharedBounds(out.data(), 65, 256, 0), 0);
  ExpectViolation(Kind::kOutOfBounds);
}

TEST_F(CudaMachineTest, MoreThan48KilobytesNeedTheAttribute) {
  Buffer<float> out(32, "out");
  EXPECT_EQ(kernels::SharedBounds(out.data(), 64, 48 * 1024, 0), 0);
  ExpectClean();
  EXPECT_NE(kernels::SharedBounds(out.data(), 64, 48 * 1024 + 4, 0), 0);
  ExpectViolation(Kind::kLaunch);
  out.Poison();
  EXPECT_EQ(kernels::SharedBounds(out.data(), 64, 100 * 1024, 100 * 1024), 0);
  ExpectClean();
  EXPECT_NE(kernels::SharedBounds(out.data(), 64, 100 * 1024 + 4, 100 * 1024), 0);
  ExpectViolation(Kind::kLaunch);
  // 227 KB are too much for compute capability 8.0.
  EXPECT_NE(kernels::SharedBounds(out.data(), 64, 227 * 1024, 227 * 1024), 0);
  OnHopper();
  out.Poison();
  EXPECT_EQ(kernels::SharedBounds(out.data(), 64, 227 * 1024, 227 * 1024), 0);
  EXPECT_NE(kernels::SharedBounds(out.data(), 64, 228 * 1024, 228 * 1024), 0);
  kernels::SharedBounds(out.data(), 64, 256, 48 * 1024);
}

TEST_F(CudaMachineTest, DynamicSharedMemoryHasItsDeclaredAlignmentAndNoMore) {
  Buffer<uint32_t> out(1, "out");
  ASSERT_EQ(kernels::SharedAlignment(out.data()), 0);
  EXPECT_EQ(out[0] % 256, 128u);
}

TEST_F(CudaMachineTest, ParametersMayHave8000Bytes) {
  kernels::LargeParameter p;
  for (int i = 0; i < 2000; ++i) p.values[i] = i;
  Buffer<int> out(32, "out");
  ASSERT_EQ(kernels::LargeParameterSum(p, out.data()), 0);
  ExpectClean();
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], i * 50);
}

TEST_F(CudaMachineTest, StatisticsCountWavefrontsAndSectors) {
  SetOptions({.races = false, .statistics = true});
  Buffer<float> out(256, "out");
  kernels::BankConflict(out.data(), 1);
  Statistics statistics = TakeStatistics();
  EXPECT_EQ(statistics.Ratio(true, "st"), 1);
  EXPECT_EQ(statistics.Ratio(false), 8);  // 32 sectors for 128 bytes
  kernels::BankConflict(out.data(), 8);
  statistics = TakeStatistics();
  EXPECT_EQ(statistics.Ratio(true, "ld"), 8);
  EXPECT_GT(statistics.instructions["st.global.f32"] + statistics.instructions["st.global.u32"] +
                statistics.instructions["st.global.b32"],
            0u);
}

// --- cp.async ------------------------------------------------------------------------------------

class CpAsyncTest : public CudaMachineTest {
 protected:
  CpAsyncTest() : in_(128, "in"), out_(128, "out") {
    in_.Fill([](size_t i) { return static_cast<uint32_t>(i + 1); });
  }
  Buffer<uint32_t> in_, out_;
};

TEST_F(CpAsyncTest, CopiesAndFillsWithZeros) {
  for (const bool early : {false, true}) {
    SetOptions({.land_early = early});
    for (const int valid : {16, 8, 4, 0}) {
      ASSERT_EQ(kernels::CpAsync(0, in_.data(), out_.data(), valid), 0);
      ExpectClean();
      for (uint32_t i = 0; i < 128; ++i) {
        const uint32_t from = (i / 4 ^ 1) * 4 + i % 4;
        EXPECT_EQ(out_[i], static_cast<int>(i % 4 * 4) < valid ? from + 1 : 0);
      }
      out_.Poison();
    }
  }
}

TEST_F(CpAsyncTest, SkippedSourceMayBeAnywhere) {
  ASSERT_EQ(kernels::CpAsync(0, nullptr, out_.data(), 0), 0);
  ExpectClean();
}

TEST_F(CpAsyncTest, ReadBeforeTheWaitIsReported) {
  kernels::CpAsync(1, in_.data(), out_.data(), 16);
  ExpectViolation(Kind::kPending);
}

TEST_F(CpAsyncTest, MissingCommitIsReported) {
  kernels::CpAsync(2, in_.data(), out_.data(), 16);
  const Report report = TakeReport();
  EXPECT_TRUE(report.Has(Kind::kPending)) << report.ToString();
  EXPECT_TRUE(report.Has(Kind::kInFlight)) << report.ToString();
}

TEST_F(CpAsyncTest, ExitWithCopiesInFlightIsReported) {
  kernels::CpAsync(3, in_.data(), out_.data(), 16);
  ExpectViolation(Kind::kInFlight);
}

TEST_F(CpAsyncTest, WaitOrdersOnlyTheThreadThatCopied) {
  kernels::CpAsync(4, in_.data(), out_.data(), 16);
  ExpectViolation(Kind::kRace);
}

// --- TMA -----------------------------------------------------------------------------------------

class TmaTest : public CudaMachineTest {
 protected:
  // 20 rows of 70 columns, element (row, column) = row * 100 + column; the padding is NaN.
  TmaTest() : data_(20 * kStride, "data"), out_(512, "out") {
    data_.Fill([](size_t i) {
      const size_t row = i / kStride, column = i % kStride;
      return column < kColumns ? static_cast<uint16_t>(row * 100 + column) : uint16_t{0x7fff};
    });
  }
  void SetUp() override {
    CudaMachineTest::SetUp();
    OnHopper();
  }
  int Load(int broken, int swizzle, int column, int row) {
    out_.Poison();
    return kernels::TmaLoad(broken, data_.data(), kColumns, 20, kStride, swizzle, column, row,
                            out_.data());
  }
  static constexpr size_t kColumns = 70, kStride = 72;
  Buffer<uint16_t> data_, out_;
};

TEST_F(TmaTest, LoadsABoxAndFillsWhatIsOutsideWithZeros) {
  struct Case {
    int column, row;
  };
  for (const Case c : {Case{0, 0}, Case{8, 15}, Case{-3, -2}, Case{67, 19}, Case{64, 0}}) {
    ASSERT_EQ(Load(0, 0, c.column, c.row), 0);
    ExpectClean();
    for (int i = 0; i < 512; ++i) {
      const int row = c.row + i / 64, column = c.column + i % 64;
      const bool inside = row >= 0 && row < 20 && column >= 0 && column < 70;
      EXPECT_EQ(out_[i], inside ? row * 100 + column : 0) << c.column << ", " << c.row << ": " << i;
    }
  }
}

TEST_F(TmaTest, Swizzle128ExchangesTheSixteenBytePiecesOfARow) {
  ASSERT_EQ(Load(0, 3, 0, 0), 0);
  ExpectClean();
  // Row r of 128 bytes: piece c lies at piece c xor r.
  for (int i = 0; i < 512; ++i) {
    const int row = i / 64, piece = i % 64 / 8;
    EXPECT_EQ(out_[i], row * 100 + (piece ^ row) * 8 + i % 8);
  }
}

TEST_F(TmaTest, WrongParityIsReported) {
  Load(1, 0, 0, 0);
  ExpectViolation(Kind::kPending);
}

TEST_F(TmaTest, BytesThatNeverComeAreADeadlock) {
  Load(2, 0, 0, 0);
  ExpectViolation(Kind::kDeadlock);
}

TEST_F(TmaTest, ReadWithoutAWaitIsReported) {
  SetOptions({.order = Order::kAscending});
  Load(3, 0, 0, 0);
  const Report report = TakeReport();
  EXPECT_TRUE(report.Has(Kind::kPending) || report.Has(Kind::kRace)) << report.ToString();
}

TEST_F(TmaTest, MissingFenceOfTheInitIsReported) {
  Load(4, 0, 0, 0);
  ExpectViolation(Kind::kProxyFence);
}

TEST_F(TmaTest, UseOfAnMbarrierBeforeItsInitIsReported) {
  SetOptions({.order = Order::kAscending});
  Load(5, 0, 0, 0);
  ExpectViolation(Kind::kRace);
  SetOptions({.order = Order::kDescending});
  Load(5, 0, 0, 0);
  ExpectViolation(Kind::kBarrier);
}

TEST_F(TmaTest, MapsThatTheDriverRefusesAreReported) {
  const auto refused = [&](uint16_t* data, int64_t columns, int64_t rows, int64_t stride,
                           int swizzle) {
    const int result = kernels::TmaLoad(0, data, columns, rows, stride, swizzle, 0, 0, out_.data());
    const Report report = TakeReport();
    return result == -1 && report.Has(Kind::kTensorMap);
  };
  EXPECT_TRUE(refused(data_.data() + 1, 64, 8, 72, 0));  // address
  EXPECT_TRUE(refused(data_.data(), 64, 8, 70, 0));      // stride of 140 bytes
  EXPECT_TRUE(refused(data_.data(), 0, 8, 72, 0));       // no columns
  EXPECT_TRUE(refused(data_.data(), 64, 8, 72, 2));      // box wider than the swizzle
}

TEST_F(TmaTest, StoresABoxAndClipsIt) {
  Buffer<uint16_t> target(20 * kStride, "target");
  ASSERT_EQ(kernels::TmaStore(0, target.data(), kColumns, 20, kStride, 40, 16), 0);
  ExpectClean();
  for (size_t i = 0; i < target.size(); ++i) {
    const size_t row = i / kStride, column = i % kStride;
    const bool inside = row >= 16 && column >= 40 && column < kColumns;
    EXPECT_EQ(target.WasWritten(i), inside);
    if (inside) {
      EXPECT_EQ(target[i], (row - 16) * 64 + column - 40);
    }
  }
}

TEST_F(TmaTest, StoreWithoutAProxyFenceIsReported) {
  Buffer<uint16_t> target(20 * kStride, "target");
  kernels::TmaStore(1, target.data(), kColumns, 20, kStride, 0, 0);
  ExpectViolation(Kind::kProxyFence);
}

TEST_F(TmaTest, StoreWithoutAWaitIsReported) {
  Buffer<uint16_t> target(20 * kStride, "target");
  kernels::TmaStore(2, target.data(), kColumns, 20, kStride, 0, 0);
  ExpectViolation(Kind::kInFlight);
}

TEST_F(TmaTest, WriteToTheSourceOfAStoreInFlightIsARace) {
  Buffer<uint16_t> target(20 * kStride, "target");
  kernels::TmaStore(3, target.data(), kColumns, 20, kStride, 0, 0);
  ExpectViolation(Kind::kRace);
}

// --- wgmma ---------------------------------------------------------------------------------------

// Layouts of a 16-bit operand [rows, 16] in shared memory, byte offset of (row, k), as the PTX ISA
// draws them.
struct Operand {
  bool mn_major;
  uint64_t descriptor;  // without the start address
  uint32_t (*offset)(uint32_t row, uint32_t k);
};

constexpr uint64_t Descriptor(uint64_t leading_bytes, uint64_t stride_bytes, uint64_t layout) {
  return (leading_bytes >> 4) << 16 | (stride_bytes >> 4) << 32 | layout << 62;
}

// K-major, 128-byte swizzle: rows of 128 bytes, 8 rows make 1,024; piece c of row r at c xor r % 8.
const Operand kKMajor128 = {false, Descriptor(16, 1024, 1), [](uint32_t row, uint32_t k) {
                              return row * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2;
                            }};
// K-major, 32-byte swizzle: rows of 32 bytes; the two pieces of rows 4 to 7 change places.
const Operand kKMajor32 = {false, Descriptor(16, 256, 3), [](uint32_t row, uint32_t k) {
                             return row * 32 + ((k / 8) ^ (row % 8 / 4)) * 16 + k % 8 * 2;
                           }};
// K-major without swizzle: core matrices of 8 rows of 16 bytes; the second of k follows the first.
const Operand kKMajorPlain = {false, Descriptor(128, 256, 0), [](uint32_t row, uint32_t k) {
                                return row / 8 * 256 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2;
                              }};
// MN-major, 128-byte swizzle: a row of 128 bytes is 64 elements of one k; 8 k make 1,024 bytes.
const Operand kMnMajor128 = {true, Descriptor(4096, 1024, 1), [](uint32_t row, uint32_t k) {
                               return row / 64 * 4096 + k / 8 * 1024 + k % 8 * 128 +
                                      ((row % 64 / 8) ^ (k % 8)) * 16 + row % 8 * 2;
                             }};
// MN-major without swizzle: core matrices of 8 k of 16 bytes.
const Operand kMnMajorPlain = {true, Descriptor(1024, 128, 0), [](uint32_t row, uint32_t k) {
                                 return row / 8 * 128 + k / 8 * 1024 + k % 8 * 16 + row % 8 * 2;
                               }};

class WgmmaTest : public CudaMachineTest {
 protected:
  WgmmaTest() : a_(2048, "a"), b_(2048, "b"), d_(512, "d") {}
  void SetUp() override {
    CudaMachineTest::SetUp();
    OnHopper();
  }
  static float Value(uint32_t row, uint32_t k) {
    return static_cast<float>((row * 3 + k * 5 + row * k) % 9) - 4;
  }
  static void LayOut(const Operand& operand, uint32_t rows, Buffer<uint32_t>& out) {
    std::vector<uint16_t> halves(4096, 0);
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t k = 0; k < 16; ++k) {
        halves[operand.offset(row, k) / 2] = Bf16Bits(Value(row, k));
      }
    }
    out.Fill([&](size_t i) { return halves[2 * i] | uint32_t{halves[2 * i + 1]} << 16; });
  }
  int Run(const Operand& a, const Operand& b, int broken) {
    LayOut(a, 64, a_);
    LayOut(b, 8, b_);
    d_.Poison();
    return kernels::Wgmma(a.mn_major, b.mn_major, broken, a_.data(), b_.data(), a.descriptor,
                          b.descriptor, d_.data());
  }
  Buffer<uint32_t> a_, b_;
  Buffer<float> d_;
};

TEST_F(WgmmaTest, IsTheMatrixProductInEachLayout) {
  const Operand* const operands[] = {&kKMajor128, &kKMajor32, &kKMajorPlain, &kMnMajor128,
                                     &kMnMajorPlain};
  for (size_t i = 0; i < std::size(operands); ++i) {
    for (size_t j = 0; j < std::size(operands); ++j) {
      ASSERT_EQ(Run(*operands[i], *operands[j], 0), 0);
      ExpectClean();
      for (uint32_t row = 0; row < 64; ++row) {
        for (uint32_t column = 0; column < 8; ++column) {
          double want = 0;
          for (uint32_t k = 0; k < 16; ++k) want += double{Value(row, k)} * Value(column, k);
          ASSERT_EQ(d_[row * 8 + column], want)
              << "layouts " << i << ", " << j << " at " << row << ", " << column;
        }
      }
    }
  }
}

TEST_F(WgmmaTest, MissingFenceIsReported) {
  Run(kKMajor128, kKMajor128, 1);
  ExpectViolation(Kind::kWgmma);
}

TEST_F(WgmmaTest, MissingCommitIsReported) {
  Run(kKMajor128, kKMajor128, 2);
  ExpectViolation(Kind::kInFlight);
}

TEST_F(WgmmaTest, MissingWaitIsReportedAndGivesNaN) {
  Run(kKMajor128, kKMajor128, 3);
  ExpectViolation(Kind::kInFlight);
  EXPECT_TRUE(std::isnan(d_[0]));
}

TEST_F(WgmmaTest, MissingProxyFenceIsReported) {
  Run(kKMajor128, kKMajor128, 4);
  ExpectViolation(Kind::kProxyFence);
}

TEST_F(WgmmaTest, MissingBarrierIsARace) {
  Run(kKMajor128, kKMajor128, 5);
  ExpectViolation(Kind::kRace);
}

}  // namespace
}  // namespace fedumm::cuda_machine
