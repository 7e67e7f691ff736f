#include "fedumm/array.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fedumm/record.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ArrayTest, Create_RefusesAnythingButTheExactNumberOfBytes) {
  for (const size_t size : {0, 23, 25, 28}) {
    EXPECT_THAT(Array::Create(DType::kFloat32, {2, 3}, std::string(size, '\0')),
                StatusIs(kInvalid, HasSubstr("wrong number of bytes")));
  }
  EXPECT_THAT(Array::Create(DType::kFloat32, {2, 3}, std::string(24, '\0')), IsOk());
}

TEST(ArrayTest, Create_RefusesShapesThatCannotBe) {
  EXPECT_THAT(Array::Create(DType::kInt8, {-1}, ""), StatusIs(kInvalid, HasSubstr("negative")));
  const int64_t huge = int64_t{1} << 62;
  EXPECT_THAT(Array::Create(DType::kInt8, {huge, 2}, ""),
              StatusIs(kInvalid, HasSubstr("overflows")));
  EXPECT_THAT(Array::Create(DType::kInt8, {huge, 0, 2}, ""),
              StatusIs(kInvalid, HasSubstr("overflows")));
  EXPECT_THAT(Array::Create(DType::kFloat64, {huge}, ""), StatusIs(kInvalid, HasSubstr("bytes")));
  EXPECT_THAT(Array::Create(DType::kInt8, std::vector<int64_t>(64, 1), "x"), IsOk());
  EXPECT_THAT(Array::Create(DType::kInt8, std::vector<int64_t>(65, 1), "x"),
              StatusIs(kInvalid, HasSubstr("more than 64 dimensions")));
}

TEST(ArrayTest, Create_UsesTheTailOfABufferInPlaceIfItIsAligned) {
  const auto buffer = std::make_shared<const std::string>(std::string(72, '\1'));
  ASSERT_OK_AND_ASSIGN(const Array aligned, Array::Create(DType::kFloat32, {2}, buffer, 64));
  EXPECT_EQ(aligned.bytes().data(), buffer->data() + 64);
  ASSERT_OK_AND_ASSIGN(const Array shifted, Array::Create(DType::kUInt8, {9}, buffer, 63));
  EXPECT_EQ(shifted.bytes().data(), buffer->data() + 63);
  EXPECT_THAT(Array::Create(DType::kUInt8, {0}, buffer, 73), StatusIs(kInvalid));
}

TEST(ArrayTest, Create_CopiesATailThatIsNotAligned) {
  const auto buffer = std::make_shared<const std::string>(std::string(70, '\1'));
  ASSERT_OK_AND_ASSIGN(const Array array, Array::Create(DType::kFloat32, {2}, buffer, 62));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(array.bytes().data()) % alignof(float), 0);
  EXPECT_EQ(array.bytes(), std::string(8, '\1'));
}

TEST(ArrayTest, Create_MovesATailThatIsNotAlignedWithinABufferThatNobodyElseHas) {
  auto buffer = std::make_shared<std::string>(100'002, '\1');
  buffer->back() = '\2';
  const char* start = buffer->data();
  ASSERT_OK_AND_ASSIGN(const Array array,
                       Array::Create(DType::kFloat32, {25'000}, std::move(buffer), 2));
  EXPECT_EQ(array.bytes().data(), start);
  EXPECT_EQ(array.bytes(), std::string(99'999, '\1') + '\2');
}

TEST(ArrayTest, CopiesShareTheBytesAndOutliveTheOriginal) {
  Array copy;
  {
    const Array array = Array::FromFloats({2}, std::vector<float>{1, 2});
    copy = array;
    EXPECT_EQ(copy.bytes().data(), array.bytes().data());
  }
  ASSERT_OK_AND_ASSIGN(const std::span<const float> values, copy.floats());
  EXPECT_THAT(std::vector<float>(values.begin(), values.end()), ElementsAre(1, 2));
  EXPECT_THAT(copy.doubles(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(ArrayTest, DefaultIsEmptyFloat32) {
  const Array array;
  EXPECT_EQ(array.dtype(), DType::kFloat32);
  EXPECT_EQ(array.ShapeString(), "[0]");
  EXPECT_EQ(array.num_elements(), 0);
  EXPECT_THAT(array.ToDoubles(), ElementsAre());
}

TEST(ArrayTest, DTypeNamesGoBothWays) {
  for (int i = 0; i <= static_cast<int>(DType::kFloat64); ++i) {
    const DType dtype = static_cast<DType>(i);
    ASSERT_OK_AND_ASSIGN(const DType named, DTypeFromName(DTypeName(dtype)));
    EXPECT_EQ(named, dtype);
  }
  EXPECT_THAT(DTypeFromName("complex64"), StatusIs(kInvalid, HasSubstr("complex64")));
}

template <typename T>
std::vector<double> Converted(DType dtype, const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return Array::Create(dtype, {static_cast<int64_t>(values.size())}, std::move(bytes))
      .value()
      .ToDoubles();
}

TEST(ArrayTest, ToDoubles_ConvertsEveryDType) {
  EXPECT_THAT(Converted<uint8_t>(DType::kBool, {0, 1, 7}), ElementsAre(0, 1, 1));
  EXPECT_THAT(Converted<int8_t>(DType::kInt8, {-128, 127}), ElementsAre(-128, 127));
  EXPECT_THAT(Converted<int16_t>(DType::kInt16, {-32768}), ElementsAre(-32768));
  EXPECT_THAT(Converted<int32_t>(DType::kInt32, {-5}), ElementsAre(-5));
  EXPECT_THAT(Converted<int64_t>(DType::kInt64, {-6}), ElementsAre(-6));
  EXPECT_THAT(Converted<uint8_t>(DType::kUInt8, {255}), ElementsAre(255));
  EXPECT_THAT(Converted<uint16_t>(DType::kUInt16, {65535}), ElementsAre(65535));
  EXPECT_THAT(Converted<uint32_t>(DType::kUInt32, {4294967295u}), ElementsAre(4294967295.0));
  EXPECT_THAT(Converted<uint64_t>(DType::kUInt64, {UINT64_MAX}), ElementsAre(0x1p64));
  EXPECT_THAT(Converted<float>(DType::kFloat32, {0.5f}), ElementsAre(0.5));
  EXPECT_THAT(Converted<double>(DType::kFloat64, {0.1}), ElementsAre(0.1));
}

TEST(ArrayTest, ToDoubles_ReadsHalfPrecision) {
  const auto half = Converted<uint16_t>(
      DType::kFloat16, {0x3C00, 0xC000, 0x0001, 0x03FF, 0x7BFF, 0x7C00, 0xFC00, 0x8000});
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(half, ElementsAre(1, -2, 0x1p-24, 1023 * 0x1p-24, 65504, infinity, -infinity, 0));
  EXPECT_TRUE(std::signbit(half.back()));
  EXPECT_TRUE(std::isnan(Converted<uint16_t>(DType::kFloat16, {0x7E00})[0]));
  EXPECT_THAT(Converted<uint16_t>(DType::kBFloat16, {0x3F80, 0xC000, 0x7F80}),
              ElementsAre(1, -2, infinity));
}

TEST(RecordTest, NumberOr_ReadsEveryScalarAndFallsBackOtherwise) {
  const ConfigRecord config{{"d", 1.5},  {"i", int64_t{-2}},      {"u", uint64_t{3}},
                            {"b", true}, {"s", std::string("4")}, {"l", std::vector<double>{5}}};
  EXPECT_EQ(NumberOr(config, "d", 9), 1.5);
  EXPECT_EQ(NumberOr(config, "i", 9), -2);
  EXPECT_EQ(NumberOr(config, "u", 9), 3);
  EXPECT_EQ(NumberOr(config, "b", 9), 1);
  for (const char* key : {"s", "l", "absent"}) EXPECT_EQ(NumberOr(config, key, 9), 9) << key;
  EXPECT_EQ(NumberOr(MetricRecord{{"n", int64_t{7}}}, "n", 9), 7);
}

TEST(RecordTest, TextOr_ReadsTextOnly) {
  const ConfigRecord config{{"s", std::string("text")}, {"y", Bytes{"raw"}}};
  EXPECT_EQ(TextOr(config, "s", "other"), "text");
  EXPECT_EQ(TextOr(config, "y", "other"), "other");
  EXPECT_EQ(TextOr(config, "absent", "other"), "other");
}

TEST(RecordTest, KeepsTheOrderOfInsertionAndReplacesInPlace) {
  MetricRecord record{{"z", 1.0}, {"a", 2.0}};
  record.Set("z", 3.0);
  EXPECT_EQ(record, (MetricRecord{{"z", 3.0}, {"a", 2.0}}));
  EXPECT_FALSE(record == (MetricRecord{{"a", 2.0}, {"z", 3.0}}));
}

}  // namespace
}  // namespace fedumm
