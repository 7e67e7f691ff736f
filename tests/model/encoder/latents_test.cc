#include "fedumm/model/latents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

class LatentsTest : public ::testing::Test {
 protected:
  LatentsTest() { std::filesystem::remove_all(folder_); }
  ~LatentsTest() override { std::filesystem::remove_all(folder_); }

  absl::Status Add(LatentWriter& writer, const std::string& name, char fill) {
    return writer.Add(name, SafetensorsDType::kBF16, {2, 1, 1}, std::string(4, fill));
  }

  const std::string folder_ = ::testing::TempDir() + "/latents_test";
};

TEST_F(LatentsTest, WhatIsFlushedIsThereAndASecondWriterGoesOn) {
  {
    ASSERT_OK_AND_ASSIGN(LatentWriter writer, LatentWriter::Open(folder_, "eva"));
    ASSERT_THAT(Add(writer, "a/1.png", 'a'), IsOk());
    ASSERT_THAT(writer.Flush(), IsOk());
    ASSERT_THAT(Add(writer, "2.png", 'b'), IsOk());  // lost: never flushed
  }
  ASSERT_OK_AND_ASSIGN(LatentWriter writer, LatentWriter::Open(folder_, "eva"));
  EXPECT_TRUE(writer.contains("a/1.png"));
  EXPECT_FALSE(writer.contains("2.png"));
  EXPECT_THAT(Add(writer, "a/1.png", 'x'), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_THAT(Add(writer, "2.png", 'c'), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  ASSERT_OK_AND_ASSIGN(const LatentFolder latents, LatentFolder::Open(folder_));
  EXPECT_EQ(latents.size(), 2);
  EXPECT_EQ(latents.encoder(), "eva");
  EXPECT_THAT(latents.shape(), ::testing::ElementsAre(2, 1, 1));
  ASSERT_OK_AND_ASSIGN(const SafetensorsTensor* first, latents.Find("a/1.png"));
  EXPECT_EQ(first->bytes, "aaaa");
  ASSERT_OK_AND_ASSIGN(const SafetensorsTensor* second, latents.Find("2.png"));
  EXPECT_EQ(second->bytes, "cccc");
  EXPECT_THAT(latents.Find("3.png"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("3.png")));
}

TEST_F(LatentsTest, AnotherEncoderAndADamagedFolderAreRefused) {
  EXPECT_THAT(LatentFolder::Open(folder_), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_OK_AND_ASSIGN(LatentWriter writer, LatentWriter::Open(folder_, "eva"));
  ASSERT_THAT(Add(writer, "1.png", 'a'), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  EXPECT_THAT(LatentWriter::Open(folder_, "other"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another encoder")));
  const std::string index = folder_ + "/latents.safetensors.index.json";
  ASSERT_THAT(WriteFileAtomically(index, R"({"weight_map": {"1.png": "../x.safetensors"}})"),
              IsOk());
  EXPECT_THAT(LatentFolder::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1.png")));
  ASSERT_THAT(
      WriteFileAtomically(index, R"({"weight_map": {"2.png": "latents-00001.safetensors"}})"),
      IsOk());
  EXPECT_THAT(LatentFolder::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lacks 2.png")));
}

}  // namespace
}  // namespace fedumm::model
