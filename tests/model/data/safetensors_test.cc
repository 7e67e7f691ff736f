#include "fedumm/model/safetensors.h"

#include <filesystem>

#include "absl/strings/escaping.h"
#include "tests/model/data/test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::ReadTestData;
using ::fedumm::testing::ReadTestJson;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::fedumm::testing::TestDataPath;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string FileOf(std::string_view header, std::string_view data = "") {
  std::string file(1, static_cast<char>(header.size()));  // headers here are short
  file.append(7, '\0');
  file.append(header);
  file.append(data);
  return file;
}

TEST(Safetensors, VerdictsAreTheReferencesExceptForDuplicateNames) {
  const nlohmann::json cases = ReadTestJson("safetensors/cases.json");
  ASSERT_EQ(cases.size(), 90);
  for (const nlohmann::json& c : cases) {
    SCOPED_TRACE(c["name"].get<std::string>());
    std::string file;
    ASSERT_TRUE(absl::Base64Unescape(c["file_base64"].get<std::string>(), &file));
    const absl::StatusOr<SafetensorsFile> parsed = SafetensorsFile::Parse(file);
    const std::string verdict = c.contains("our_verdict") ? c["our_verdict"] : c["verdict"];
    if (verdict == "reject") {
      EXPECT_THAT(parsed, StatusIs(absl::StatusCode::kInvalidArgument));
      continue;
    }
    ASSERT_THAT(parsed, IsOk());
    std::vector<std::string> names;
    for (const SafetensorsTensor& tensor : parsed->tensors()) names.push_back(tensor.name);
    EXPECT_THAT(names,
                ::testing::UnorderedElementsAreArray(c["detail"].get<std::vector<std::string>>()));
  }
}

TEST(Safetensors, ReadsNamesTypesShapesBytesAndMetadata) {
  const std::string file = FileOf(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
      R"("a":{"dtype":"F16","shape":[1,1],"data_offsets":[2,4]}})",
      "wxyz");
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile parsed, SafetensorsFile::Parse(file));
  ASSERT_EQ(parsed.tensors().size(), 2);
  EXPECT_EQ(parsed.tensors()[0].name, "b");
  const SafetensorsTensor* const a = parsed.Find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, SafetensorsDType::kF16);
  EXPECT_THAT(a->shape, ElementsAre(1, 1));
  EXPECT_EQ(a->bytes, "yz");
  EXPECT_EQ(parsed.Find("c"), nullptr);
  EXPECT_THAT(parsed.metadata(), ElementsAre(Pair("format", "pt")));
}

TEST(Safetensors, ErrorNamesTheTensor) {
  EXPECT_THAT(SafetensorsFile::Parse(
                  FileOf(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}})", "1234")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'w' has 4 bytes")));
}

TEST(Safetensors, SkipsNestedUnknownFieldsUpToADepth) {
  const auto nested = [](int depth) {
    return FileOf(R"({"a":{"x":)" + std::string(depth, '[') + std::string(depth, ']') +
                  R"(,"dtype":"U8","shape":[0],"data_offsets":[0,0]}})");
  };
  EXPECT_THAT(SafetensorsFile::Parse(nested(50)), IsOk());
  std::string deep = nested(0);
  const std::string header = R"({"a":{"x":)" + std::string(5000, '[');
  deep = std::string("\x92\x13\0\0\0\0\0\0", 8) + header;
  EXPECT_THAT(SafetensorsFile::Parse(deep),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nested too deeply")));
}

TEST(Safetensors, MappedTensorsOutliveTheHandleThroughTheOwner) {
  const std::string path = ScratchPath("a.safetensors");
  const SafetensorsTensor tensor = {"a", SafetensorsDType::kU8, {3}, "abc"};
  ASSERT_THAT(WriteSafetensors(path, {&tensor, 1}), IsOk());
  std::string_view bytes;
  std::shared_ptr<const void> owner;
  {
    ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(path));
    bytes = file.Find("a")->bytes;
    owner = file.owner();
  }
  std::filesystem::remove(path);
  EXPECT_EQ(bytes, "abc");
}

TEST(Safetensors, OpenNamesTheFileInErrors) {
  EXPECT_THAT(SafetensorsFile::Open(ScratchPath("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(SafetensorsFile::Open(TestDataPath("safetensors/cases.json")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cases.json")));
  EXPECT_THAT(SafetensorsFile::Open(TestDataPath("safetensors")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
}

TEST(Safetensors, WriterReproducesAReferenceFileByteForByte) {
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file,
                       SafetensorsFile::Open(TestDataPath("safetensors/adapter.safetensors")));
  ASSERT_GT(file.tensors().size(), 3);
  EXPECT_THAT(SerializeSafetensors(file.tensors(), file.metadata()),
              testing::IsOkAndHolds(ReadTestData("safetensors/adapter.safetensors")));
}

TEST(Safetensors, WriterPutsWideTypesFirstThenNamesInByteOrder) {
  const std::string_view data = "xxxxxxxxxxxxxxxx";
  const std::vector<SafetensorsTensor> tensors = {
      {"u8", SafetensorsDType::kU8, {1}, data.substr(0, 1)},
      {"b", SafetensorsDType::kF32, {1}, data.substr(0, 4)},
      {"B", SafetensorsDType::kF32, {}, data.substr(0, 4)},
      {"i64", SafetensorsDType::kI64, {2}, data},
      {"empty", SafetensorsDType::kBF16, {0, 7}, ""},
  };
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeSafetensors(tensors));
  EXPECT_EQ(bytes.find('x') % 8, 0);
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Parse(bytes));
  std::vector<std::string> names;
  for (const SafetensorsTensor& tensor : file.tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("i64", "B", "b", "empty", "u8"));
}

TEST(Safetensors, WriterRefusesWhatAReaderWouldRefuse) {
  const auto write = [](std::vector<SafetensorsTensor> tensors) {
    return SerializeSafetensors(tensors);
  };
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  const SafetensorsTensor good = {"a", SafetensorsDType::kU8, {1}, "x"};
  EXPECT_THAT(write({good}), IsOk());
  EXPECT_THAT(write({good, good}), StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(write({{"a", SafetensorsDType::kU8, {2}, "x"}}), StatusIs(kInvalid));
  EXPECT_THAT(write({{"a", SafetensorsDType::kU8, {-1}, "x"}}), StatusIs(kInvalid));
  EXPECT_THAT(write({{"\xff", SafetensorsDType::kU8, {1}, "x"}}), StatusIs(kInvalid));
  EXPECT_THAT(write({{"__metadata__", SafetensorsDType::kU8, {1}, "x"}}), StatusIs(kInvalid));
  EXPECT_THAT(SerializeSafetensors({&good, 1}, {{"k", "\xff"}}), StatusIs(kInvalid));
}

TEST(Safetensors, EveryArrayTypeRoundTripsThroughItsName) {
  for (int i = 0; i <= static_cast<int>(DType::kFloat64); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_THAT(ToDType(ToSafetensorsDType(dtype)), testing::IsOkAndHolds(dtype)) << i;
  }
  EXPECT_THAT(ToDType(SafetensorsDType::kC64), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(SafetensorsDTypeName(SafetensorsDType::kF8E5M2Fnuz), "F8_E5M2FNUZ");
  EXPECT_EQ(SafetensorsDTypeName(SafetensorsDType::kBF16), "BF16");
}

}  // namespace
}  // namespace fedumm::model
