// GenEval (Ghosh et al., arXiv 2310.11513): whether drawn pictures show what their prompts ask for,
// judged by an object detector. Rules, reasons and files are those of the official scripts.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

// Objects of one class that a picture must, or must not, show.
struct GenevalObjects {
  std::string class_name;
  int64_t count = 1;
  std::string color;  // of all of them; empty: any
  std::string
      position;        // "left of", "right of", "above", "below" the objects of `target`; or empty
  int64_t target = 0;  // index into GenevalPrompt::include
};

// One line of the official prompts.
struct GenevalPrompt {
  std::string tag;  // "single_object", "two_object", "counting", "colors", "position", "color_attr"
  std::string prompt;
  std::vector<GenevalObjects> include;  // at least so many
  std::vector<GenevalObjects> exclude;  // fewer than so many
  std::string metadata;                 // the line as it was read
};
// INVALID_ARGUMENT, naming the field, for anything else.
absl::StatusOr<GenevalPrompt> ParseGenevalPrompt(std::string_view json);

// What a detector found.
struct Detection {
  std::string class_name;
  std::array<float, 4> box = {};  // left, top, right, bottom in pixels
  float score = 0;
  std::string color;  // of the object, where it is known
};

// The official limits.
struct GenevalOptions {
  double threshold = 0.3;           // detections with a higher score count
  double counting_threshold = 0.9;  // where the tag is "counting"
  int64_t max_objects = 16;         // of one class, the best first
  double max_overlap = 1;           // of two objects of a class; 1: any
  double position_threshold = 0.1;  // part of the objects' sizes within which they are at one place
};

struct GenevalVerdict {
  bool correct = false;
  std::vector<std::string> reasons;       // why not, as the official script words it
  std::map<std::string, int64_t> counts;  // of the objects that counted, by class
};

// The colours of objects of one class in the picture, one for each. Asked only where a prompt names
// a colour. Null: the colours of the detections.
using ColorsOf =
    std::function<absl::StatusOr<std::vector<std::string>>(std::span<const Detection> objects)>;

// Errors: those of `colors_of`; INVALID_ARGUMENT for a prompt whose target is no earlier entry.
absl::StatusOr<GenevalVerdict> JudgePicture(const GenevalPrompt& prompt,
                                            std::span<const Detection> detections,
                                            const ColorsOf& colors_of = nullptr,
                                            const GenevalOptions& options = {});

// Where `box` lies as seen from `other`: "left of", "right of", "above", "below", in alphabetical
// order; two of them on a diagonal, none at the same place.
std::vector<std::string> RelativePositions(const std::array<float, 4>& box,
                                           const std::array<float, 4>& other,
                                           double position_threshold = 0.1);
// Intersection over union; a box contains the pixels of its edges.
double BoxOverlap(const std::array<float, 4>& a, const std::array<float, 4>& b);

// One picture of a folder in the official layout (NNNNN/metadata.jsonl, NNNNN/samples/*.png).
struct GenevalPicture {
  std::string name;  // relative to the folder: "00000/samples/00000.png"
  GenevalPrompt prompt;
};
struct GenevalFolder {
  std::vector<GenevalPicture> pictures;  // by name
  std::vector<std::string> left_out;     // folders without metadata.jsonl
};
// NOT_FOUND if there is no such folder or no picture in it; INVALID_ARGUMENT, naming the file, for
// metadata that is no prompt.
absl::StatusOr<GenevalFolder> ReadGenevalFolder(const std::string& folder);

// Detections by picture, as JSON: {"00000/samples/00000.png": [{"class", "box", "score", "color"},
// ...], ...}. INVALID_ARGUMENT, naming the picture, for anything else.
absl::StatusOr<std::map<std::string, std::vector<Detection>>> ReadDetections(
    const std::string& path);

struct GenevalResult {
  GenevalPicture picture;
  GenevalVerdict verdict;
};
// A line of the official results.jsonl, without its end.
std::string GenevalResultLine(const GenevalResult& result);

// Shares from 0 to 1.
struct GenevalSummary {
  int64_t images = 0;
  int64_t prompts = 0;
  double correct_images = 0;
  double correct_prompts = 0;  // with at least one correct picture
  struct Task {
    std::string tag;
    int64_t images = 0;
    int64_t correct = 0;
    double score() const {
      return images == 0 ? 0 : static_cast<double>(correct) / static_cast<double>(images);
    }
  };
  std::vector<Task> tasks;  // in the order in which they come up
  double overall = 0;       // mean over the tasks
};
GenevalSummary Summarize(std::span<const GenevalResult> results);
// As the official script prints it, and as JSON.
std::string SummaryText(const GenevalSummary& summary);
// `models`: what judged, such as {"detector", its name}; added to the official keys.
std::string SummaryJson(const GenevalSummary& summary,
                        const std::map<std::string, std::string>& models = {});

}  // namespace fedumm::model
