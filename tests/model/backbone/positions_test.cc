#include "fedumm/model/positions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "fedumm/model/safetensors.h"
#include "model/backbone/vision_index.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

template <typename T>
std::vector<int64_t> Integers(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.Find(name);
  std::vector<T> values(tensor == nullptr ? 0 : tensor->bytes.size() / sizeof(T));
  if (tensor != nullptr) std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return {values.begin(), values.end()};
}

class PositionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream stream(FEDUMM_TEST_DATA "/qwen25vl/model/config.json");
    std::stringstream text;
    text << stream.rdbuf();
    ASSERT_OK_AND_ASSIGN(config_, BackboneConfig::FromJson(text.str()));
  }

  BackboneConfig config_;
  const std::vector<ImageGrid> grids_ = {{1, 4, 6}, {1, 8, 4}};
};

TEST_F(PositionsTest, RowsWithImagesMatchTheReference) {
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile inputs,
                       SafetensorsFile::Open(FEDUMM_TEST_DATA "/qwen25vl/inputs.safetensors"));
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile expected,
                       SafetensorsFile::Open(FEDUMM_TEST_DATA "/qwen25vl/expected.safetensors"));
  const std::vector<int64_t> ids = Integers<int64_t>(inputs, "input.input_ids");
  const std::vector<int64_t> mask = Integers<int64_t>(inputs, "input.attention_mask");
  const std::vector<int64_t> positions = Integers<int64_t>(expected, "position_ids");
  const std::vector<int64_t> deltas = Integers<int64_t>(expected, "rope_deltas");
  constexpr size_t kLength = 17;
  ASSERT_EQ(ids.size(), 2 * kLength);
  for (size_t row = 0; row < 2; ++row) {
    std::vector<int64_t> tokens;
    std::vector<int64_t> wanted[3];
    for (size_t i = row * kLength; i < (row + 1) * kLength; ++i) {
      if (mask[i] == 0) continue;
      tokens.push_back(ids[i]);
      for (size_t axis = 0; axis < 3; ++axis) {
        wanted[axis].push_back(positions[axis * 2 * kLength + i]);
      }
    }
    ASSERT_OK_AND_ASSIGN(const RopePositions result,
                         RopePositionsOf(config_, tokens, std::span(grids_).subspan(row, 1)));
    for (size_t axis = 0; axis < 3; ++axis) {
      EXPECT_THAT(std::span(result.ids).subspan(axis * tokens.size(), tokens.size()),
                  ElementsAreArray(wanted[axis]));
    }
    EXPECT_EQ(result.delta, deltas[row]);
  }
}

TEST_F(PositionsTest, TextAloneCountsUp) {
  ASSERT_OK_AND_ASSIGN(const RopePositions result,
                       RopePositionsOf(config_, std::vector<int64_t>{5, 6, 7}, {}));
  EXPECT_THAT(result.ids, ElementsAre(0, 1, 2, 0, 1, 2, 0, 1, 2));
  EXPECT_EQ(result.delta, 0);
}

TEST_F(PositionsTest, ImagesAndTokensMustAgree) {
  const int64_t image = config_.image_token_id;
  const std::vector<int64_t> six(6, image);
  const std::vector<ImageGrid> one = {{1, 4, 6}};
  const std::vector<ImageGrid> two = {{1, 4, 6}, {1, 4, 6}};
  const auto refused = [&](std::vector<int64_t> tokens, std::vector<ImageGrid> grids) {
    EXPECT_THAT(RopePositionsOf(config_, tokens, grids),
                StatusIs(absl::StatusCode::kInvalidArgument));
  };
  EXPECT_TRUE(RopePositionsOf(config_, six, one).ok());
  refused(six, {});
  refused(six, two);
  refused({image, image, image}, one);
  refused({image, image, image, 5, image, image, image}, one);
  refused({image, image, image, image, image, image, image}, one);
  refused(six, {{2, 4, 6}});
  refused(six, {{1, 4, 5}});
  refused(six, {{1, 0, 0}});
  refused(six, {{1, int64_t{1} << 62, int64_t{1} << 62}});
  EXPECT_THAT(RopePositionsOf(config_, std::vector<int64_t>{config_.video_token_id}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("video")));
}

TEST_F(PositionsTest, TheVisionIndexMatchesTheReference) {
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile expected,
                       SafetensorsFile::Open(FEDUMM_TEST_DATA "/qwen25vl/expected.safetensors"));
  ASSERT_OK_AND_ASSIGN(const VisionIndex index, BuildVisionIndex(config_.vision, grids_));
  EXPECT_EQ(index.num_patches, 56);
  EXPECT_EQ(index.window_index, Integers<int64_t>(expected, "visual.window_index"));
  EXPECT_EQ(index.window_bounds, Integers<int32_t>(expected, "visual.cu_window_seqlens"));
  EXPECT_THAT(index.frame_bounds, ElementsAre(0, 24, 56));
  const std::vector<int64_t> positions = Integers<int64_t>(expected, "visual.position_ids");
  ASSERT_EQ(positions.size(), 112u);
  for (size_t i = 0; i < 56; ++i) {
    EXPECT_EQ(index.rows[i], positions[2 * i]);
    EXPECT_EQ(index.columns[i], positions[2 * i + 1]);
  }
}

TEST_F(PositionsTest, WindowsThatDivideEvenlyLeaveNoEmptyOne) {
  ASSERT_OK_AND_ASSIGN(const VisionIndex index,
                       BuildVisionIndex(config_.vision, std::vector<ImageGrid>{{1, 8, 8}}));
  EXPECT_THAT(index.window_bounds, ElementsAre(0, 16, 32, 48, 64));
  EXPECT_THAT(index.window_index,
              ElementsAre(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
}

TEST_F(PositionsTest, ImpossibleGridsAreRefused) {
  for (const ImageGrid& grid : {ImageGrid{0, 4, 4}, ImageGrid{1, 3, 4}, ImageGrid{1, 4, -4},
                                ImageGrid{1, int64_t{1} << 40, 4}, ImageGrid{1, 65536, 65536}}) {
    EXPECT_THAT(BuildVisionIndex(config_.vision, std::vector<ImageGrid>{grid}),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace fedumm::model
