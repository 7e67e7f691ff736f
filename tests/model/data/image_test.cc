#include "fedumm/model/image.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "fedumm/model/safetensors.h"
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

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Image ImageOf(const SafetensorsTensor& tensor) {
  return {.width = tensor.shape[1],
          .height = tensor.shape[0],
          .pixels = {tensor.bytes.begin(), tensor.bytes.end()}};
}

class GoldenPixels : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const auto open = [](const char* name) {
      return SafetensorsFile::Open(TestDataPath(std::string("pixels/") + name)).value();
    };
    const std::string index = std::to_string(GetParam());
    const SafetensorsFile pixels = open("pixels.safetensors");
    const SafetensorsFile resized = open("pixels_pil_u8.safetensors");
    image_ = ImageOf(*pixels.Find(index + ".image_hwc_u8"));
    resized_ = ImageOf(*resized.Find(index + ".pil_resized_u8"));
    const std::string_view bytes = pixels.Find(index + ".pil.pixel_values")->bytes;
    values_.resize(bytes.size() / sizeof(float));
    std::memcpy(values_.data(), bytes.data(), bytes.size());
    info_ = ReadTestJson("pixels/pixels.json")["images"][GetParam()];
  }

  Image image_;
  Image resized_;
  std::vector<float> values_;
  nlohmann::json info_;
};

TEST_P(GoldenPixels, BicubicIsPillowsToTheLastBit) {
  EXPECT_THAT(ResizeBicubic(image_, resized_.width, resized_.height),
              testing::IsOkAndHolds(resized_));
}

TEST_P(GoldenPixels, PatchesAreThoseOfTheReferenceProcessor) {
  ASSERT_OK_AND_ASSIGN(
      const ImagePatches patches,
      ProcessImage(image_, {.min_pixels = info_["min_pixels"], .max_pixels = info_["max_pixels"]}));
  EXPECT_EQ(patches.grid_thw, (info_["grid_thw"].get<std::array<int64_t, 3>>()));
  EXPECT_EQ(patches.row_size, 1176);
  EXPECT_EQ(patches.num_tokens(2), patches.num_rows / 4);
  ASSERT_EQ(patches.values.size(), values_.size());
  float worst = 0;
  for (size_t i = 0; i < values_.size(); ++i) {
    worst = std::max(worst, std::abs(patches.values[i] - values_[i]));
  }
  EXPECT_EQ(worst, 0);
}

INSTANTIATE_TEST_SUITE_P(Images, GoldenPixels, ::testing::Range(0, 4));

TEST(SmartResize, SizesAreThoseOfTheReferenceTable) {
  const nlohmann::json table = ReadTestJson("pixels/pixels.json")["smart_resize"];
  ASSERT_EQ(table.size(), 81);
  for (const nlohmann::json& row : table) {
    const absl::StatusOr<ImageSize> size = SmartResize(
        {row["h"], row["w"]}, {.min_pixels = row["min_pixels"], .max_pixels = row["max_pixels"]});
    if (row["out"].is_null()) {
      EXPECT_THAT(size, StatusIs(kInvalid)) << row;
    } else {
      EXPECT_THAT(size, testing::IsOkAndHolds(ImageSize{row["out"][0], row["out"][1]})) << row;
    }
  }
}

TEST(SmartResize, RefusesSizesAndOptionsThatCannotHold) {
  EXPECT_THAT(SmartResize({0, 5}, {}), StatusIs(kInvalid));
  EXPECT_THAT(SmartResize({int64_t{1} << 40, int64_t{1} << 40}, {}), StatusIs(kInvalid));
  EXPECT_THAT(SmartResize({56, 56}, {.patch_size = 0}), StatusIs(kInvalid));
  EXPECT_THAT(SmartResize({56, 56}, {.max_pixels = 0}), StatusIs(kInvalid));
  EXPECT_THAT(SmartResize({5, 5}, {.min_pixels = 0}), StatusIs(kInvalid, HasSubstr("5x5")));
}

TEST(ProcessImage, RowsFollowMergeBlocksForAnyPatchSize) {
  // A 8x12 picture whose red value names the 2x2 patch, row by row: 4 x 6 patches.
  Image image = {.width = 12, .height = 8};
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 12; ++x) {
      image.pixels.insert(image.pixels.end(), {static_cast<uint8_t>(y / 2 * 6 + x / 2), 0, 0});
    }
  }
  ASSERT_OK_AND_ASSIGN(const ImagePatches patches, ProcessImage(image, {.patch_size = 2,
                                                                        .merge_size = 2,
                                                                        .temporal_patch_size = 1,
                                                                        .min_pixels = 1,
                                                                        .max_pixels = 1000,
                                                                        .mean = {0, 0, 0},
                                                                        .std = {1, 1, 1}}));
  EXPECT_THAT(patches.grid_thw, ElementsAre(1, 4, 6));
  EXPECT_EQ(patches.row_size, 12);
  std::vector<int> order;
  for (int64_t row = 0; row < patches.num_rows; ++row) {
    order.push_back(static_cast<int>(std::lround(patches.values[row * 12] * 255)));
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11,  //
                                 12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23));
}

TEST(ResizeBicubic, RefusesImagesThatContradictTheirSize) {
  EXPECT_THAT(ResizeBicubic({.width = 2, .height = 2, .pixels = {1, 2, 3}}, 4, 4),
              StatusIs(kInvalid));
  EXPECT_THAT(ResizeBicubic({.width = 1, .height = 1, .pixels = {1, 2, 3}}, 0, 4),
              StatusIs(kInvalid));
  EXPECT_THAT(ResizeBicubic({.width = 1, .height = 1, .pixels = {1, 2, 3}}, 2, 1),
              testing::IsOkAndHolds(Image{.width = 2, .height = 1, .pixels = {1, 2, 3, 1, 2, 3}}));
}

TEST(Png, WrittenPicturesReadBackTheSame) {
  Image image = {.width = 5, .height = 3, .pixels = std::vector<uint8_t>(45)};
  std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{100});
  const std::string path = ScratchPath("a.png");
  ASSERT_THAT(WritePng(path, image), IsOk());
  EXPECT_THAT(ReadPng(path), testing::IsOkAndHolds(image));
  EXPECT_EQ(EncodePng(image).value(), EncodePng(image).value());
  EXPECT_THAT(EncodePng({.width = 5, .height = 3}), StatusIs(kInvalid));
}

TEST(Png, EveryKindBecomesRgb) {
  const auto pixels = [](const char* name) {
    return ReadPng(TestDataPath(std::string("pixels/") + name)).value().pixels;
  };
  EXPECT_THAT(pixels("grey.png"), ElementsAre(0, 0, 0, 128, 128, 128, 255, 255, 255, 16, 16, 16));
  EXPECT_THAT(pixels("palette.png"), ElementsAre(250, 251, 252, 1, 2, 3));
  EXPECT_THAT(pixels("rgba.png"), ElementsAre(10, 20, 30, 40, 50, 60));  // alpha 0 and 128
}

TEST(Png, BrokenAndOversizedFilesAreErrors) {
  EXPECT_THAT(ReadPng(TestDataPath("pixels/huge.png")),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("200000x200000")));
  EXPECT_THAT(ReadPng(TestDataPath("pixels/pixels.json")),
              StatusIs(kInvalid, HasSubstr("pixels.json")));
  const std::string grey = ReadTestData("pixels/grey.png");
  for (size_t length = 0; length + 12 < grey.size(); ++length) {
    EXPECT_THAT(DecodePng(std::string_view(grey).substr(0, length)), StatusIs(kInvalid)) << length;
  }
}

}  // namespace
}  // namespace fedumm::model
