// Reads VQA v2's questions and annotations and prints seconds and peak memory; see vqa_json.py.
#include <sys/resource.h>

#include <cstdio>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/model/vqa.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: vqa_json QUESTIONS.json ANNOTATIONS.json\n");
    return 2;
  }
  const absl::Time start = absl::Now();
  const auto questions = fedumm::model::ReadVqaV2(argv[1], argv[2]);
  if (!questions.ok()) {
    std::fprintf(stderr, "%s\n", std::string(questions.status().message()).c_str());
    return 1;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%zu questions in %.2f s (CPU %.2f s), %.0f MB at the peak\n", questions->size(),
              absl::ToDoubleSeconds(absl::Now() - start),
              static_cast<double>(usage.ru_utime.tv_sec) +
                  static_cast<double>(usage.ru_utime.tv_usec) * 1e-6,
              static_cast<double>(usage.ru_maxrss) / 1e3);
  return 0;
}
