#include "fedumm/model/image.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>

#include "fedumm/model/safetensors.h"
#include "model/data/exif.h"
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

// The pictures of make_picture_golden.py.
class PictureGolden {
 public:
  explicit PictureGolden(const char* name)
      : file_(SafetensorsFile::Open(TestDataPath(std::string("pixels/") + name)).value()) {}

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const SafetensorsTensor& tensor : file_.tensors()) {
      if (tensor.name.ends_with(".file")) {
        names.emplace_back(tensor.name, 0, tensor.name.size() - 5);
      }
    }
    return names;
  }
  std::string_view bytes(const std::string& name) const { return file_.Find(name)->bytes; }
  std::optional<Image> image(const std::string& name) const {
    const SafetensorsTensor* tensor = file_.Find(name);
    if (tensor == nullptr) return std::nullopt;
    return ImageOf(*tensor);
  }

 private:
  SafetensorsFile file_;
};

TEST(Png, PixelsOfEveryKindAreThosePillowReads) {
  const PictureGolden golden("png.safetensors");
  EXPECT_GT(golden.names().size(), 50);
  for (const std::string& name : golden.names()) {
    SCOPED_TRACE(name);
    const absl::StatusOr<Image> image = DecodePng(golden.bytes(name + ".file"));
    const std::optional<Image> expected = golden.image(name + ".rgb");
    if (!expected.has_value()) {
      EXPECT_THAT(image, StatusIs(kInvalid, HasSubstr("PNG")));
      continue;
    }
    ASSERT_THAT(image, IsOk());
    EXPECT_EQ(*image, *expected);
    EXPECT_THAT(DecodeImage(golden.bytes(name + ".file")), testing::IsOkAndHolds(*expected));
  }
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

TEST(Png, ASideAboveTheLimitIsResourceExhausted) {
  std::string huge = ReadTestData("pixels/huge.png");
  huge.replace(16, 4, "\x7f\xff\xff\xff");                  // the width
  huge.replace(20, 4, std::string("\0\0\0\1", 4));          // the height
  huge.replace(29, 4, std::string("\x2f\x54\xa4\x8a", 4));  // their CRC
  EXPECT_THAT(DecodePng(huge),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2147483647x1")));
}

TEST(Jpeg, PixelsOfEveryKindAreThosePillowReads) {
  const PictureGolden golden("jpeg.safetensors");
  EXPECT_GT(golden.names().size(), 30);
  for (const std::string& name : golden.names()) {
    SCOPED_TRACE(name);
    const std::string_view bytes = golden.bytes(name + ".file");
    const std::optional<Image> expected = golden.image(name + ".rgb");
    if (!expected.has_value()) {
      EXPECT_THAT(DecodeJpeg(bytes), StatusIs(kInvalid, HasSubstr("truncated")));
      continue;
    }
    EXPECT_THAT(DecodeJpeg(bytes), testing::IsOkAndHolds(*expected));
    EXPECT_THAT(DecodeImage(bytes), testing::IsOkAndHolds(*expected));
    EXPECT_THAT(DecodeJpeg(bytes, {.apply_exif_orientation = true}),
                testing::IsOkAndHolds(golden.image(name + ".upright").value_or(*expected)));
  }
}

TEST(Jpeg, EncodedFilesAreByteForByteThoseOfPillow) {
  const PictureGolden golden("jpeg.safetensors");
  for (const std::string& name : golden.names()) {
    const std::optional<Image> image = golden.image(name + ".rgb");
    if (!image.has_value()) continue;
    EXPECT_THAT(EncodeJpeg(*image), testing::IsOkAndHolds(golden.bytes(name + ".again75"))) << name;
    EXPECT_THAT(EncodeJpeg(*image, 90), testing::IsOkAndHolds(golden.bytes(name + ".again90")))
        << name;
  }
  const Image small = {.width = 1, .height = 1, .pixels = {1, 2, 3}};
  EXPECT_THAT(EncodeJpeg(small, 0), StatusIs(kInvalid, HasSubstr("quality")));
  EXPECT_THAT(EncodeJpeg({.width = 70'000, .height = 1, .pixels = std::vector<uint8_t>(210'000)}),
              StatusIs(kInvalid, HasSubstr("70000x1")));
}

TEST(Jpeg, ATruncatedFileOfAnyLengthIsRefused) {
  const PictureGolden golden("jpeg.safetensors");
  for (const std::string name : {"baseline_422", "progressive", "cmyk", "turn_6"}) {
    const std::string_view whole = golden.bytes(name + ".file");
    for (size_t length = 0; length < whole.size(); ++length) {
      EXPECT_THAT(DecodeJpeg(whole.substr(0, length)), StatusIs(kInvalid, HasSubstr("JPEG")))
          << name << " " << length;
    }
  }
}

TEST(Jpeg, APictureAboveThePixelLimitIsRefusedBeforeItsPixelsAreRead) {
  const PictureGolden golden("jpeg.safetensors");
  std::string bomb(golden.bytes("progressive.file"));
  const size_t frame = bomb.find("\xff\xc2");
  ASSERT_NE(frame, std::string::npos);
  bomb.replace(frame + 5, 4, "\xff\xdc\xff\xdc");  // 65,500 x 65,500
  EXPECT_THAT(DecodeJpeg(bomb),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("65500x65500")));
  EXPECT_THAT(DecodeJpeg(golden.bytes("baseline_420.file"), {.max_pixels = 64 * 48 - 1}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("64x48")));
  EXPECT_THAT(DecodeJpeg(golden.bytes("baseline_420.file"), {.max_pixels = 64 * 48}), IsOk());
}

TEST(Jpeg, AFileWithThousandsOfScansIsRefused) {
  const PictureGolden golden("jpeg.safetensors");
  std::string bomb(golden.bytes("progressive_grey.file"));
  const size_t last_scan = bomb.rfind("\xff\xda");
  ASSERT_NE(last_scan, std::string::npos);
  const std::string scan = bomb.substr(last_scan, bomb.size() - 2 - last_scan);
  std::string scans;
  for (int i = 0; i < 3000; ++i) scans += scan;
  bomb.insert(last_scan, scans);
  EXPECT_THAT(DecodeJpeg(bomb), StatusIs(kInvalid, HasSubstr("scans")));
}

TEST(Exif, AMalformedBlockMeansTheStoredOrientation) {
  using namespace std::string_literals;
  const std::string whole = "II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"s;
  EXPECT_EQ(ExifOrientation(whole), 6);
  EXPECT_EQ(ExifOrientation("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0"s), 8);
  for (size_t length = 0; length + 2 < whole.size(); ++length) {
    EXPECT_EQ(ExifOrientation(whole.substr(0, length)), 1) << length;
  }
  std::string far = whole;
  far.replace(4, 4, "\xff\xff\xff\xff");  // the directory lies outside of the block
  EXPECT_EQ(ExifOrientation(far), 1);
  std::string nine = whole;
  nine[18] = 9;
  EXPECT_EQ(ExifOrientation(nine), 1);
}

TEST(ReadImage, TheContentDecidesAndErrorsNameTheFile) {
  const PictureGolden golden("jpeg.safetensors");
  const std::string path = ScratchPath("picture.png");  // a JPEG
  std::ofstream(path, std::ios::binary) << golden.bytes("baseline_420.file");
  EXPECT_THAT(ReadImage(path), testing::IsOkAndHolds(*golden.image("baseline_420.rgb")));
  EXPECT_THAT(ReadImage(TestDataPath("pixels/rgba.png")), IsOk());
  EXPECT_THAT(ReadImage(TestDataPath("pixels/pixels.json")),
              StatusIs(kInvalid, HasSubstr("pixels.json: neither a PNG nor a JPEG")));
  EXPECT_THAT(ReadImage("/nonexistent.jpg"), StatusIs(absl::StatusCode::kNotFound));
  const Image image = *golden.image("baseline_420.rgb");
  ASSERT_THAT(WriteJpeg(path, image), IsOk());
  EXPECT_THAT(ReadImage(path), IsOk());
}

}  // namespace
}  // namespace fedumm::model
