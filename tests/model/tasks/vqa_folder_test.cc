#include "fedumm/model/vqa_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "model/data/picture_loader.h"
#include "tests/model/data/test_files.h"
#include "tests/model/tasks/small_vqa_folder.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

class VqaFolderTest : public ::testing::Test {
 protected:
  void SetUp() override { WriteSmallVqaFolder(folder_); }

  const std::string folder_ = ScratchPath("vqa");
};

TEST_F(VqaFolderTest, ThePublishedNamesAreTheDefaults) {
  ASSERT_OK_AND_ASSIGN(const VqaFolder train, VqaFolder::Load({.folder = folder_}));
  EXPECT_EQ(train.questions().size(), 12);
  EXPECT_EQ(train.questions()[2].multiple_choice_answer, "blue");
  EXPECT_EQ(train.questions()[2].answers.size(), 10);
  EXPECT_TRUE(train.captions().empty());
  EXPECT_EQ(train.PicturePath(42), folder_ + "/train2014/COCO_train2014_000000000042.jpg");
  ASSERT_OK_AND_ASSIGN(const VqaFolder val,
                       VqaFolder::Load({.folder = folder_,
                                        .subset = "val2014",
                                        .annotations_file = "",
                                        .captions_file = "captions_{subset}.json"}));
  EXPECT_TRUE(val.questions()[0].answers.empty());
  EXPECT_EQ(val.captions().size(), 6);
  EXPECT_EQ(val.captions()[1].text, "a blue rectangle");
}

TEST_F(VqaFolderTest, AMissingPictureIsNamedWhenTheFolderIsLoaded) {
  std::filesystem::remove(folder_ + "/train2014/" + VqaImageName("train2014", 103));
  std::filesystem::remove(folder_ + "/train2014/" + VqaImageName("train2014", 105));
  EXPECT_THAT(VqaFolder::Load({.folder = folder_}),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("2 of 6 pictures"), HasSubstr("000000000103.jpg"))));
}

TEST_F(VqaFolderTest, NamesOfPicturesFollowTheirPattern) {
  std::filesystem::rename(folder_ + "/train2014", folder_ + "/pictures");
  for (int i = 0; i < 6; ++i) {
    std::filesystem::rename(folder_ + "/pictures/" + VqaImageName("train2014", 100 + i),
                            folder_ + "/pictures/train2014-" + std::to_string(100 + i) + ".png");
  }
  EXPECT_THAT(VqaFolder::Load({.folder = folder_, .image_name = "pictures/{subset}-{id}.png"}),
              IsOk());
  for (const std::string bad : {"{di}.png", "{id:x}.png", "{id:99}.png", "{id", "{}"}) {
    EXPECT_THAT(VqaFolder::Load({.folder = folder_, .image_name = bad}),
                StatusIs(kInvalid, HasSubstr("{id:12}")))
        << bad;
  }
}

TEST_F(VqaFolderTest, PicturesAreFoundByTheNumberInTheirNames) {
  const std::string pictures = folder_ + "/train2014";
  std::ofstream(pictures + "/note.txt") << "7";
  std::ofstream(pictures + "/cover.jpg") << "no number";
  ASSERT_OK_AND_ASSIGN(const auto found, PicturesById(pictures));
  EXPECT_EQ(found.size(), 6);
  EXPECT_EQ(found.at(103), pictures + "/COCO_train2014_000000000103.jpg");
  std::ofstream(pictures + "/103.png") << "again";
  EXPECT_THAT(PicturesById(pictures), StatusIs(kInvalid, HasSubstr("103.png")));
  EXPECT_THAT(PicturesById(folder_ + "/none"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(VqaFolderTest, CaptionsAreReadFromJsonLines) {
  std::ofstream(folder_ + "/captions.jsonl") << R"({"image_id": 100, "caption": "one"})"
                                             << "\n\n"
                                             << R"({"image_id": 100, "caption": "two"})";
  ASSERT_OK_AND_ASSIGN(const auto captions, ReadCaptions(folder_ + "/captions.jsonl"));
  EXPECT_EQ(captions.size(), 2);
  EXPECT_EQ(captions[1].text, "two");
  for (const std::string line : {"{", "[]", "{\"image_id\": 1}", "{\"caption\": \"x\"}"}) {
    std::ofstream(folder_ + "/bad.jsonl") << "\n" << line;
    EXPECT_THAT(ReadCaptions(folder_ + "/bad.jsonl"), StatusIs(kInvalid, HasSubstr("line 2")));
  }
  EXPECT_THAT(ReadCaptions(folder_ + "/none.json"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(VqaFolderTest, PicturesAreTheSameOnAnyNumberOfThreads) {
  ASSERT_OK_AND_ASSIGN(const VqaFolder train, VqaFolder::Load({.folder = folder_}));
  std::vector<std::string> paths;
  for (int i = 0; i < 24; ++i) paths.push_back(train.PicturePath(100 + i % 6));
  ASSERT_OK_AND_ASSIGN(const auto one, LoadPatches(paths, {}, {}, 1));
  for (const int threads : {0, 2, 7, 100}) {
    ASSERT_OK_AND_ASSIGN(const auto many, LoadPatches(paths, {}, {}, threads));
    for (size_t i = 0; i < paths.size(); ++i) {
      EXPECT_EQ(one[i].values, many[i].values);
      EXPECT_EQ(one[i].grid_thw, many[i].grid_thw);
    }
  }
  ASSERT_OK_AND_ASSIGN(const auto resized, LoadResized(paths, 8, 9, {}, 3));
  EXPECT_EQ(resized[5].width, 8);
  EXPECT_EQ(resized[5].pixels.size(), 3 * 8 * 9);
}

TEST_F(VqaFolderTest, TheErrorOfTheFirstPictureInOrderIsReturned) {
  std::vector<std::string> paths;
  for (int i = 0; i < 40; ++i) paths.push_back(folder_ + "/no-" + std::to_string(i));
  EXPECT_THAT(LoadPatches(paths, {}, {}, 8),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-0")));
  std::ofstream(folder_ + "/broken.jpg") << "\xff\xd8 broken";
  EXPECT_THAT(LoadPatches(std::vector<std::string>{folder_ + "/broken.jpg"}, {}, {}, 1),
              StatusIs(kInvalid, HasSubstr("broken.jpg")));
}

TEST(ForEachIndexTest, EveryIndexIsWorkedOnOnce) {
  std::vector<std::atomic<int>> counts(1000);
  EXPECT_THAT(ForEachIndex(counts.size(), 8,
                           [&](size_t i) {
                             ++counts[i];
                             return absl::OkStatus();
                           }),
              IsOk());
  for (const auto& count : counts) EXPECT_EQ(count, 1);
  EXPECT_THAT(ForEachIndex(0, 8, [](size_t) { return absl::InternalError("called"); }), IsOk());
}

}  // namespace
}  // namespace fedumm::model
