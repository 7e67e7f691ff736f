#include <cstdint>
#include <string_view>
#include <vector>

#include "fedumm/model/geneval.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fedumm::model::Detection;
  const auto prompt =
      fedumm::model::ParseGenevalPrompt({reinterpret_cast<const char*>(data), size});
  if (!prompt.ok()) return 0;
  const std::vector<Detection> found = {
      {.class_name = "bench", .box = {0, 0, 9, 9}, .score = 0.95F, .color = "red"},
      {.class_name = "cow", .box = {20, 0, 29, 9}, .score = 0.5F, .color = "blue"},
      {.class_name = "cow", .box = {20, 20, 29, 29}, .score = 0.95F, .color = "red"}};
  (void)JudgePicture(*prompt, found).ok();
  return 0;
}
