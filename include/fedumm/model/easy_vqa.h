// The easy-VQA dataset: 64x64 pictures of one coloured shape on a pale background, with questions
// about them. LibTorch-free.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

inline constexpr int64_t kPictureSize = 64;
inline constexpr int64_t kPictureBytes = kPictureSize * kPictureSize * 3;
using Picture = std::span<const uint8_t>;  // kPictureBytes of RGB, row-major

inline constexpr std::array<std::string_view, 8> kColors = {"black", "blue", "brown", "gray",
                                                            "green", "red",  "teal",  "yellow"};
// Of each colour: red, green, blue.
inline constexpr std::array<std::array<uint8_t, 3>, 8> kPalette = {{{0, 0, 0},
                                                                    {0, 0, 255},
                                                                    {165, 42, 42},
                                                                    {128, 128, 128},
                                                                    {0, 255, 0},
                                                                    {255, 0, 0},
                                                                    {0, 128, 128},
                                                                    {255, 255, 0}}};
inline constexpr std::array<std::string_view, 3> kShapes = {"circle", "rectangle", "triangle"};

// What a picture shows: indices into kColors and kShapes, -1 where that is not known.
struct Concept {
  int color = -1;
  int shape = -1;

  bool known() const { return color >= 0 && shape >= 0; }
  friend bool operator==(Concept, Concept) = default;
};

// The concepts that pre-training leaves out, so that clients have something to teach: brown, teal
// and yellow, and (in questions) the triangle.
bool IsNewColor(int color);
bool IsNewShape(int shape);

// All but the first two are answered by yes or no; the last two are negated ("is there not …").
enum class QuestionType { kWhatColor, kWhatShape, kColor, kShape, kNotColor, kNotShape };

struct Question {
  std::string text;    // "what color is the shape?"
  std::string answer;  // one word
  int64_t picture;
  QuestionType type;
  bool is_new;  // the picture or the question has a new concept
};

struct EasyVqaSplit {
  std::vector<uint8_t> pixels;    // all pictures, one after the other
  std::vector<Concept> concepts;  // one per picture, from the questions that name what it shows
  std::vector<Question>
      questions;  // about a picture whose colour is known; see Load for negated ones
  // Indices into `questions`, ascending: as many "yes" as "no" of each type. 87 % of the raw
  // yes-or-no answers are "no": a model that ignores the picture scores 0.66 on the raw questions
  // and 0.32 on these.
  std::vector<int64_t> balanced;

  int64_t num_pictures() const { return static_cast<int64_t>(concepts.size()); }
  Picture picture(int64_t i) const {
    return Picture(pixels).subspan(i * kPictureBytes, kPictureBytes);
  }
};

struct EasyVqa {
  EasyVqaSplit train;
  EasyVqaSplit test;

  // Reads the `data` folder of the easy-vqa package: {train,test}/{questions.json,images/<i>.png}.
  // Equal folders give equal splits.
  // `negated` adds the questions with a negation, which pre-training leaves out
  // (configs/hard.toml).
  static absl::StatusOr<EasyVqa> Load(const std::string& folder, bool negated = false);
};

// What `picture` shows, found without a model: the colour of kPalette nearest to the median of the
// pixels that differ most from the background, and the ideal shape that overlaps best with the mask
// of the differing pixels. On easy-VQA's test pictures the colour is always right, the shape in
// 99 % of them.
Concept Detect(Picture picture);

// `picture` with its shape moved to the middle; nullopt if the border clips the shape or it covers
// fewer than 120 pixels.
std::optional<std::vector<uint8_t>> Recentre(Picture picture);

}  // namespace fedumm::model
