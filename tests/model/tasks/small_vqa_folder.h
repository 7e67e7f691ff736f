// A small set in VQA v2's files, written by each test: JPEG and PNG pictures of shapes.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fedumm/model/image.h"
#include "fedumm/model/vqa_folder.h"
#include "tests/model/demo/small_easy_vqa.h"

namespace fedumm::model {

// Writes subsets "train2014" and "val2014" to `folder`: pictures of one size or two, each with a
// question about its colour, one about its shape and a caption.
inline void WriteSmallVqaFolder(const std::string& folder, int num_pictures = 6,
                                bool two_sizes = true) {
  namespace fs = std::filesystem;
  using Json = nlohmann::json;
  for (const std::string subset : {"train2014", "val2014"}) {
    fs::create_directories(folder + "/" + subset);
    Json questions = Json::array(), annotations = Json::array(), captions = Json::array();
    for (int i = 0; i < num_pictures; ++i) {
      const int color = i % 8, shape = i % 3, id = 100 + i;
      Image image = {.width = kPictureSize,
                     .height = kPictureSize,
                     .pixels = DrawShape(kPalette[static_cast<size_t>(color)], shape, 10, 12, 40)};
      if (two_sizes && i % 2 == 1) image = ResizeBicubic(image, 112, 64).value();
      const std::string path = folder + "/" + subset + "/" + VqaImageName(subset, id);
      // A picture's name does not say what is in the file.
      const absl::Status written = i % 3 == 2 ? WritePng(path, image) : WriteJpeg(path, image, 95);
      if (!written.ok()) std::abort();
      const std::string name(kColors[static_cast<size_t>(color)]);
      const std::string kind(kShapes[static_cast<size_t>(shape)]);
      const auto add = [&](int question_id, const std::string& text, const std::string& type,
                           const std::string& answer) {
        questions.push_back({{"question_id", question_id}, {"image_id", id}, {"question", text}});
        Json answers = Json::array();
        for (int n = 1; n <= 10; ++n) {
          answers.push_back({{"answer_id", n}, {"answer", n == 10 ? "dunno" : answer}});
        }
        annotations.push_back({{"question_id", question_id},
                               {"image_id", id},
                               {"question_type", type},
                               {"answer_type", "other"},
                               {"multiple_choice_answer", answer},
                               {"answers", answers}});
      };
      add(id * 1000, "what color is the shape?", "what color is the", name);
      add(id * 1000 + 1, "what shape is in the image?", "what", kind);
      captions.push_back({{"image_id", id}, {"caption", "a " + name + " " + kind}});
    }
    const auto write = [&](const std::string& file, const Json& json) {
      std::ofstream(folder + "/" + file) << json;
    };
    write("v2_OpenEnded_mscoco_" + subset + "_questions.json", {{"questions", questions}});
    write("v2_mscoco_" + subset + "_annotations.json", {{"annotations", annotations}});
    write("captions_" + subset + ".json", {{"annotations", captions}});
  }
}

}  // namespace fedumm::model
