#include "fedumm/model/geneval_models.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

constexpr const char* kRemedy = "; scripts/export_geneval_models.py writes such files";
constexpr int64_t kMaxObjects = 10'000;
constexpr int64_t kMaxCropSide = 4096;
constexpr uint8_t kGrey = 0x99;  // around an object that is shown to the colour classifier

struct Script {
  torch::jit::Module module;
  std::string path;
  std::string name;
  std::vector<std::string> classes;
  std::vector<std::string> colors;
  int64_t size = 0;
};

absl::Status BadScript(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", std::string(what.data(), what.size()), kRemedy));
}

absl::StatusOr<Script> LoadScript(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path, kRemedy));
  }
  Script script{.path = path};
  torch::jit::ExtraFilesMap extra = {{"fedumm.json", ""}};
  const absl::Status loaded = Guarded([&]() -> absl::Status {
    script.module = torch::jit::load(path, at::kCPU, extra);
    script.module.eval();
    return absl::OkStatus();
  });
  if (!loaded.ok()) return BadScript(path, "it is no TorchScript file");
  const Json json = Json::parse(extra["fedumm.json"], nullptr, /*allow_exceptions=*/false);
  try {
    script.name = json.at("name").get<std::string>();
    script.classes = json.at("classes").get<std::vector<std::string>>();
    if (json.contains("colors")) {
      script.colors = json.at("colors").get<std::vector<std::string>>();
      script.size = json.at("size").get<int64_t>();
    }
  } catch (const Json::exception&) {
    return BadScript(path, "its fedumm.json lacks a name, classes, colors or a size");
  }
  if (script.classes.empty()) return BadScript(path, "its fedumm.json names no classes");
  return script;
}

at::Tensor TensorOver(const Image& image) {
  return at::from_blob(const_cast<uint8_t*>(image.pixels.data()), {image.height, image.width, 3},
                       at::kByte);
}

struct FoundObjects {
  std::vector<Detection> detections;
  at::Tensor masks;  // bool [n, height, width]
};

bool HasShape(const at::Tensor& tensor, at::ScalarType type, at::IntArrayRef shape) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.scalar_type() == type &&
         tensor.sizes() == shape;
}

absl::StatusOr<FoundObjects> Find(Script& detector, const Image& picture) {
  const at::NoGradGuard no_grad;
  const c10::IValue result = detector.module.forward({TensorOver(picture)});
  const auto bad = [&] {
    return BadScript(detector.path,
                     "the detector returns something else than boxes float32 [n, 4], scores "
                     "float32 [n], classes int64 [n] and masks bool [n, height, width]");
  };
  if (!result.isTuple() || result.toTupleRef().elements().size() != 4) return bad();
  std::vector<at::Tensor> parts;
  for (const c10::IValue& part : result.toTupleRef().elements()) {
    if (!part.isTensor()) return bad();
    parts.push_back(part.toTensor().contiguous());
  }
  if (parts[1].dim() != 1) return bad();
  const int64_t n = parts[1].size(0);
  if (n > kMaxObjects || !HasShape(parts[0], at::kFloat, {n, 4}) ||
      !HasShape(parts[1], at::kFloat, {n}) || !HasShape(parts[2], at::kLong, {n}) ||
      !HasShape(parts[3], at::kBool, {n, picture.height, picture.width})) {
    return bad();
  }
  FoundObjects found{.masks = parts[3]};
  const float* const boxes = parts[0].const_data_ptr<float>();
  const float* const scores = parts[1].const_data_ptr<float>();
  const int64_t* const classes = parts[2].const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    Detection detection{.score = scores[i]};
    std::copy_n(boxes + 4 * i, 4, detection.box.begin());
    const bool finite =
        std::isfinite(detection.score) &&
        std::ranges::all_of(detection.box, [](float x) { return std::isfinite(x); });
    if (!finite || classes[i] < 0 || classes[i] >= std::ssize(detector.classes)) {
      return BadScript(detector.path,
                       absl::StrCat("object ", i, " has class ", classes[i], " of ",
                                    detector.classes.size(), " and score ", scores[i]));
    }
    detection.class_name = detector.classes[static_cast<size_t>(classes[i])];
    found.detections.push_back(std::move(detection));
  }
  return found;
}

// Row or column `x`, rounded as Python rounds, within 0..limit.
int64_t Edge(float x, int64_t limit) {
  return static_cast<int64_t>(
      std::clamp(std::nearbyint(static_cast<double>(x)), 0.0, static_cast<double>(limit)));
}

// The object alone on grey, cut to its box: the short side is resized to `size`, the middle kept.
absl::StatusOr<Image> CropOf(const Image& picture, const Detection& object, const at::Tensor& mask,
                             int64_t size) {
  const int64_t left = Edge(object.box[0], picture.width);
  const int64_t top = Edge(object.box[1], picture.height);
  Image crop{.width = Edge(object.box[2], picture.width) - left,
             .height = Edge(object.box[3], picture.height) - top};
  if (crop.width <= 0 || crop.height <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", object.class_name, " without area has no colour"));
  }
  const bool* const shown = mask.const_data_ptr<bool>();
  crop.pixels.assign(static_cast<size_t>(3 * crop.width * crop.height), kGrey);
  for (int64_t y = 0; y < crop.height; ++y) {
    for (int64_t x = 0; x < crop.width; ++x) {
      const int64_t from = (top + y) * picture.width + left + x;
      if (!shown[from]) continue;
      std::copy_n(picture.pixels.begin() + 3 * from, 3,
                  crop.pixels.begin() + 3 * (y * crop.width + x));
    }
  }
  const int64_t shorter = std::min(crop.width, crop.height);
  const auto resized = [&](int64_t side) { return std::max(size, size * side / shorter); };
  FEDUMM_ASSIGN_OR_RETURN(const Image large,
                          ResizeBicubic(crop, resized(crop.width), resized(crop.height)));
  const auto margin = [&](int64_t side) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(side - size) / 2));
  };
  Image middle{.width = size, .height = size};
  middle.pixels.resize(static_cast<size_t>(3 * size * size));
  for (int64_t y = 0; y < size; ++y) {
    const int64_t from = (margin(large.height) + y) * large.width + margin(large.width);
    std::copy_n(large.pixels.begin() + 3 * from, 3 * size, middle.pixels.begin() + 3 * y * size);
  }
  return middle;
}

class ScriptedModels final : public GenevalModels {
 public:
  ScriptedModels(Script detector, std::optional<Script> colors)
      : detector_(std::move(detector)), colors_(std::move(colors)) {}

  const std::string& detector_name() const override { return detector_.name; }
  const std::string& colors_name() const override { return colors_ ? colors_->name : no_name_; }

  absl::StatusOr<std::vector<Detection>> Detect(const Image& picture) override {
    return Guarded([&]() -> absl::StatusOr<std::vector<Detection>> {
      FEDUMM_ASSIGN_OR_RETURN(FoundObjects found, Find(detector_, picture));
      return std::move(found.detections);
    });
  }

  absl::StatusOr<GenevalVerdict> Judge(const GenevalPrompt& prompt, const Image& picture,
                                       const GenevalOptions& options) override {
    return Guarded([&]() -> absl::StatusOr<GenevalVerdict> {
      FEDUMM_ASSIGN_OR_RETURN(const FoundObjects found, Find(detector_, picture));
      const auto colors_of = [&](std::span<const Detection> objects) {
        return ColorsIn(picture, found, objects);
      };
      return JudgePicture(prompt, found.detections, colors_of, options);
    });
  }

 private:
  absl::StatusOr<std::vector<std::string>> ColorsIn(const Image& picture, const FoundObjects& found,
                                                    std::span<const Detection> objects) {
    if (!colors_) {
      return absl::FailedPreconditionError(
          absl::StrCat("the prompt names a colour; give --colors FILE", kRemedy));
    }
    if (objects.empty()) return std::vector<std::string>();
    std::vector<Image> crops;
    for (const Detection& object : objects) {
      const auto same = std::ranges::find_if(found.detections, [&](const Detection& other) {
        return other.class_name == object.class_name && other.box == object.box &&
               other.score == object.score;
      });
      FEDUMM_ASSIGN_OR_RETURN(
          Image crop, CropOf(picture, object,
                             found.masks.select(0, same - found.detections.begin()).contiguous(),
                             colors_->size));
      crops.push_back(std::move(crop));
    }
    std::vector<at::Tensor> rows;
    for (const Image& crop : crops) rows.push_back(TensorOver(crop));
    const auto class_index = std::ranges::find(colors_->classes, objects.front().class_name);
    if (class_index == colors_->classes.end()) {
      return BadScript(colors_->path, absl::StrCat("it knows no ", objects.front().class_name));
    }
    const at::NoGradGuard no_grad;
    const c10::IValue result = colors_->module.forward(
        {at::stack(rows), at::scalar_tensor(class_index - colors_->classes.begin(), at::kLong)});
    const int64_t n = std::ssize(objects);
    if (!result.isTensor() ||
        !HasShape(result.toTensor(), at::kFloat, {n, std::ssize(colors_->colors)})) {
      return BadScript(colors_->path, "it returns no logits float32 [n, colours]");
    }
    const at::Tensor best = result.toTensor().argmax(1).contiguous();
    std::vector<std::string> names;
    for (int64_t i = 0; i < n; ++i) {
      names.push_back(colors_->colors[static_cast<size_t>(best.const_data_ptr<int64_t>()[i])]);
    }
    return names;
  }

  Script detector_;
  std::optional<Script> colors_;
  const std::string no_name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GenevalModels>> GenevalModels::Load(const std::string& detector,
                                                                   const std::string& colors) {
  FEDUMM_ASSIGN_OR_RETURN(Script finder, LoadScript(detector));
  std::optional<Script> classifier;
  if (!colors.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(classifier, LoadScript(colors));
    if (classifier->colors.empty() || classifier->size < 1 || classifier->size > kMaxCropSide) {
      return BadScript(colors, absl::StrCat("its fedumm.json names ", classifier->colors.size(),
                                            " colors and the size ", classifier->size));
    }
  }
  return std::make_unique<ScriptedModels>(std::move(finder), std::move(classifier));
}

}  // namespace fedumm::model
