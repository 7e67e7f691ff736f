#include "record/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/sha256.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<Array> Read(std::string stream, const Limits& limits = {}) {
  return ReadNpy(std::make_shared<const std::string>(std::move(stream)), 0, limits);
}

// A stream with `dict` as its header, in any version, and `data`.
std::string Stream(const std::string& dict, const std::string& data = "", int major = 1,
                   int minor = 0) {
  std::string result = "\x93NUMPY";
  result += static_cast<char>(major);
  result += static_cast<char>(minor);
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) {
    result += static_cast<char>(dict.size() >> (8 * i) & 255);
  }
  return result + dict + data;
}

std::string Dict(const std::string& descr, const std::string& order, const std::string& shape) {
  return absl::StrCat("{'descr': ", descr, ", 'fortran_order': ", order, ", 'shape': ", shape,
                      ", }");
}

TEST(NpyTest, RandomArraysSurviveEveryLayoutUnchanged) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    const DType dtype = static_cast<DType>(random.Below(static_cast<int>(DType::kFloat64) + 1));
    if (dtype == DType::kBFloat16) continue;  // NumPy has none
    std::vector<int64_t> shape(random.Below(5));
    int64_t n = 1;
    for (int64_t& dim : shape) n *= dim = static_cast<int64_t>(random.Below(6));
    std::string bytes(static_cast<size_t>(n * ElementSize(dtype)), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random.Next());
    ASSERT_OK_AND_ASSIGN(const Array array, Array::Create(dtype, shape, bytes));
    const NpyLayout layout{.big_endian = random.Below(2) == 1,
                           .fortran_order = random.Below(2) == 1};
    const std::string stream = WriteNpy(array, layout);
    ASSERT_EQ((stream.size() - bytes.size()) % 64, 0);
    ASSERT_THAT(Read(stream), IsOkAndHolds(Eq(array)))
        << "dtype " << DTypeName(dtype) << " shape " << array.ShapeString();
  }
}

TEST(NpyTest, FortranOrderIsTransposedInThreeDimensions) {
  // Element [i, j, k] is 100 i + 10 j + k; the first index varies fastest in the stream.
  std::string column_major;
  std::string row_major;
  for (int k = 0; k < 4; ++k) {
    for (int j = 0; j < 3; ++j) {
      for (int i = 0; i < 2; ++i) column_major += static_cast<char>(100 * i + 10 * j + k);
    }
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int k = 0; k < 4; ++k) row_major += static_cast<char>(100 * i + 10 * j + k);
    }
  }
  ASSERT_OK_AND_ASSIGN(const Array array,
                       Read(Stream(Dict("'|u1'", "True", "(2, 3, 4)"), column_major)));
  EXPECT_EQ(array.bytes(), row_major);
}

// Digests of what numpy.lib.format.write_array_header_1_0 writes for the same shapes.
TEST(NpyTest, PreamblesOfManyRanksAreNumPys) {
  Sha256 hash;
  for (int rank = 0; rank <= 32; ++rank) {
    const std::vector<int64_t> shape(rank, 1);
    hash.Update(NpyPreamble(Array::FromFloats(shape, std::vector<float>{0})));
  }
  EXPECT_EQ(std::move(hash).Hex(),
            "536c78ad0244061b06a5011856f2bc7c6de51292bd0b06c03a68ab9d238f506d");
}

TEST(NpyTest, PreambleLeavesRoomForTheGrowingDimensionAsNumPyDoes) {
  Sha256 hash;
  const auto add = [&hash](std::vector<int64_t> shape) {
    shape.push_back(0);  // keeps the array empty, whatever the dimension
    const Array array = Array::Create(DType::kInt16, std::move(shape), "").value();
    hash.Update(NpyPreamble(array));
    hash.Update(NpyPreamble(array, {.big_endian = true, .fortran_order = true}));
  };
  for (int64_t dim = 1; dim <= 100'000'000'000'000'000; dim *= 10) {
    add({dim, 1});
    add({1, dim});
  }
  EXPECT_EQ(std::move(hash).Hex(),
            "24d2f12f037522a598d73f87fb120c42fd3813d818782cd8154607a009845708");
}

TEST(NpyTest, EveryVersionIsRead) {
  const std::string dict = Dict("'<i2'", "False", "(1,)") + "\n";
  const std::string data("\x01\x02", 2);
  for (const int major : {1, 2, 3}) EXPECT_THAT(Read(Stream(dict, data, major)), IsOk()) << major;
  for (const int major : {0, 4, 255}) {
    EXPECT_THAT(Read(Stream(dict, data, major)), StatusIs(kInvalid, HasSubstr("unknown version")));
  }
  EXPECT_THAT(Read(Stream(dict, data, 1, 1)), StatusIs(kInvalid, HasSubstr("unknown version 1.1")));
}

TEST(NpyTest, PlainStreamsAreUsedInPlace) {
  const std::string stream = WriteNpy(Array::FromFloats({2}, std::vector<float>{1, 2}));
  const auto buffer = std::make_shared<const std::string>("0123456789abcdef" + stream);
  ASSERT_OK_AND_ASSIGN(const Array array, ReadNpy(buffer, 16, Limits()));
  EXPECT_EQ(array.bytes().data(), buffer->data() + 16 + 128);
}

TEST(NpyTest, LiteralsThatPythonWritesOtherwiseAreRead) {
  const std::string data(8, '\0');
  EXPECT_THAT(Read(Stream("{\"shape\":(2,1,),\"descr\":\"<f4\",\"fortran_order\":False}", data)),
              IsOk());
  EXPECT_THAT(
      Read(Stream(" { 'descr' : '<f4' , 'fortran_order' : True , 'shape' : ( 2 , ) } \n", data)),
      IsOk());
}

TEST(NpyTest, EveryTruncationIsRefused) {
  const std::string stream = WriteNpy(Array::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4}));
  for (size_t size = 0; size < stream.size(); ++size) {
    // An exact copy, so that a sanitizer sees a read beyond it.
    EXPECT_THAT(Read(std::string(stream, 0, size)), StatusIs(kInvalid)) << size;
  }
  EXPECT_THAT(Read(stream + "x"), StatusIs(kInvalid, HasSubstr("17 bytes for 4 elements of 4")));
}

TEST(NpyTest, ObjectAndStructuredDTypesAreRefusedWithTheReason) {
  for (const char* descr : {"'|O'", "'O'", "'|O8'", "'<f4O'", "'|V8'", "'|S4'", "'<U4'", "'<c8'",
                            "'<M8'", "'<f16'", "''"}) {
    EXPECT_THAT(Read(Stream(Dict(descr, "False", "()"), std::string(8, '\0'))),
                StatusIs(kInvalid, HasSubstr("pickle")))
        << descr;
  }
  EXPECT_THAT(Read(Stream(Dict("[('a', '<f4')]", "False", "()"), "\0\0\0\0")),
              StatusIs(kInvalid, HasSubstr("structured")));
}

TEST(NpyTest, HeadersThatAreNoPlainDictAreRefused) {
  const std::string good = "'descr': '<f4', 'fortran_order': False, 'shape': (1,)";
  const std::string data(4, '\0');
  ASSERT_THAT(Read(Stream("{" + good + "}", data)), IsOk());
  for (const std::string& dict : std::vector<std::string>{
           "",
           "{",
           "{}",
           good,
           "{" + good,
           "{" + good + ", 'more': 1}",
           "{" + good + ", 'shape': (1,)}",
           "{" + good + "} # comment",
           "{" + good + "},",
           "{'descr': '<f4', 'shape': (1,)}",
           "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}",
           "{'descr' '<f4', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': 'f4', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': '|f4', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': '=f4', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': '<\\x664', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
           "{'descr': '<f4', 'fortran_order': false, 'shape': (1,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': [1]}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (01,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (+1,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1L,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,1)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}",
           "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}",
       }) {
    EXPECT_THAT(Read(Stream(dict, data)), StatusIs(kInvalid)) << dict;
  }
}

TEST(NpyTest, HugeShapesAreRefusedBeforeAnythingIsAllocated) {
  const std::string data(10, '\0');
  for (const char* shape :
       {"(1099511627776,)", "(4611686018427387904, 4)", "(3037000500, 3037000500)",
        "(4294967296, 0, 4294967296)", "(9223372036854775807, 9223372036854775807)"}) {
    for (const char* order : {"False", "True"}) {
      EXPECT_THAT(Read(Stream(Dict("'>f8'", order, shape), data)), StatusIs(kInvalid)) << shape;
    }
  }
}

TEST(NpyTest, LimitsHoldExactly) {
  Limits limits;
  limits.max_array_dims = 3;
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(1, 1)"), "x"), limits), IsOk());
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(1, 1, 1)"), "x"), limits), IsOk());
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(1, 1, 1, 1)"), "x"), limits),
              StatusIs(kInvalid, HasSubstr("more than 3 dimensions")));

  limits = {.max_array_elements = 4};
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(3,)"), "xxx"), limits), IsOk());
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(4,)"), "xxxx"), limits), IsOk());
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", "(5,)"), "xxxxx"), limits),
              StatusIs(kInvalid, HasSubstr("5 elements, limit 4")));

  const std::string dict = Dict("'|u1'", "False", "()");
  limits = {.max_npy_header_bytes = static_cast<int64_t>(dict.size())};
  EXPECT_THAT(Read(Stream(dict, "x"), limits), IsOk());
  EXPECT_THAT(Read(Stream(dict + " ", "x"), limits), StatusIs(kInvalid, HasSubstr("limit")));
  // A million dimensions do not fit in any header that is read.
  std::string many = "(";
  for (int i = 0; i < 1'000'000; ++i) many += "1,";
  EXPECT_THAT(Read(Stream(Dict("'|u1'", "False", many + ")"), "x", 2)),
              StatusIs(kInvalid, HasSubstr("limit 65536")));
}

TEST(NpyTest, BFloat16IsWrittenAsItsBits) {
  ASSERT_OK_AND_ASSIGN(const Array array, Array::Create(DType::kBFloat16, {1}, "\x80\x3f"));
  ASSERT_OK_AND_ASSIGN(const Array read, Read(WriteNpy(array)));
  EXPECT_EQ(read.dtype(), DType::kUInt16);
  EXPECT_EQ(read.bytes(), array.bytes());
}

}  // namespace
}  // namespace fedumm
