// tests/data/blip3o/jpeg: kinds of JPEG as Pillow reads them, writes them again, and prepares them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "fedumm/model/image.h"
#include "fedumm/model/safetensors.h"
#include "test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

TEST(JpegParityTest, EveryKindIsReadWrittenAgainAndPreparedAsTheReferenceDoes) {
  const auto golden = nlohmann::json::parse(testing::ReadTestData("blip3o/jpeg.json"));
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsFile want,
      SafetensorsFile::Open(std::string(FEDUMM_TEST_DATA) + "/blip3o/jpeg_expected.safetensors"));
  const ImageProcessorOptions processor = {.min_pixels = golden["processor"]["min_pixels"],
                                           .max_pixels = golden["processor"]["max_pixels"]};
  int prepared = 0;
  for (const auto& file : golden["files"]) {
    const std::string name = file["name"];
    const std::string again = testing::ReadTestData("blip3o/jpeg/" + name + ".again.jpg");
    ASSERT_OK_AND_ASSIGN(const Image image,
                         DecodeJpeg(testing::ReadTestData("blip3o/jpeg/" + name + ".jpg")));
    EXPECT_EQ(EncodeJpeg(image, 75).value(), again) << name;
    ASSERT_OK_AND_ASSIGN(const Image image_again, DecodeJpeg(again));
    for (const auto& [kind, decoded] :
         {std::pair("rgb", &image), std::pair("again", &image_again)}) {
      const SafetensorsTensor* rgb = want.Find(name + "." + kind);
      ASSERT_NE(rgb, nullptr);
      EXPECT_THAT(rgb->shape, ::testing::ElementsAre(decoded->height, decoded->width, 3)) << name;
      EXPECT_EQ(std::string(decoded->pixels.begin(), decoded->pixels.end()), rgb->bytes) << name;
      const SafetensorsTensor* values = want.Find(name + "." + kind + ".pixel_values");
      if (values == nullptr) continue;
      ASSERT_OK_AND_ASSIGN(const ImagePatches patches, ProcessImage(*decoded, processor));
      ASSERT_EQ(patches.values.size() * sizeof(float), values->bytes.size()) << name;
      std::vector<float> expected(patches.values.size());
      std::memcpy(expected.data(), values->bytes.data(), values->bytes.size());
      EXPECT_THAT(patches.values, ::testing::Pointwise(::testing::FloatNear(1e-6f), expected))
          << name;
      ++prepared;
    }
  }
  EXPECT_EQ(golden["files"].size(), 10);
  EXPECT_EQ(prepared, 8);
}

TEST(JpegParityTest, ATruncatedFileAndABombAreRefused) {
  EXPECT_THAT(DecodeJpeg(testing::ReadTestData("blip3o/jpeg/truncated.jpg")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("truncated")));
  std::string bomb = testing::ReadTestData("blip3o/jpeg/baseline_420.jpg");
  const size_t frame = bomb.find("\xff\xc0");  // height and width come five bytes later
  ASSERT_NE(frame, std::string::npos);
  std::memcpy(bomb.data() + frame + 5, "\xff\xdc\xff\xdc", 4);
  EXPECT_THAT(DecodeJpeg(bomb),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("too large")));
}

TEST(ProcessorPresetTest, HasThePublishedLimits) {
  EXPECT_EQ(ProcessorPreset("hub").value().max_pixels, 12'845'056);
  EXPECT_EQ(ProcessorPreset("lmms").value().min_pixels, 200'704);
  const Image wide = {.width = 900, .height = 450, .pixels = std::vector<uint8_t>(900 * 450 * 3)};
  ASSERT_OK_AND_ASSIGN(const ImagePatches patches,
                       ProcessImage(wide, ProcessorPreset("blip3o-train").value()));
  EXPECT_THAT(patches.grid_thw, ::testing::ElementsAre(1, 32, 32));
  EXPECT_THAT(ProcessorPreset("other"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hub, lmms, blip3o-train")));
}

}  // namespace
}  // namespace fedumm::model
