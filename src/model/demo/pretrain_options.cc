#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "fedumm/model/demo.h"

namespace fedumm::model {
namespace {

// Reads required fields; the first failure sticks and names the field.
class Fields {
 public:
  explicit Fields(const toml::table& root) : root_(root) {}

  int64_t Count(const std::string& name, int64_t least) {
    const toml::node_view<const toml::node> node = root_.at_path(name);
    const int64_t value = node.is_integer() ? *node.value<int64_t>() : -1;
    if (value < least) Fail(name, absl::StrCat("is not an integer of at least ", least));
    return value;
  }
  double Real(const std::string& name, double most) {
    const toml::node_view<const toml::node> node = root_.at_path(name);
    const double value = node.is_number() ? *node.value<double>() : -1;
    if (!(value >= 0 && value <= most)) {
      Fail(name, absl::StrCat("is not a number in [0, ", most, "]"));
    }
    return value;
  }
  PretrainStage Stage(const std::string& name) {
    PretrainStage stage;
    stage.steps = Count(name + ".steps", 1);
    stage.warmup_steps = Count(name + ".warmup_steps", 0);
    stage.learning_rate = Real(name + ".learning_rate", 1);
    stage.weight_decay = Real(name + ".weight_decay", 1);
    return stage;
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(const std::string& name, const std::string& what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat("recipe: ", name, " ", what));
    }
  }

  const toml::table& root_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<PretrainOptions> PretrainOptions::FromToml(std::string_view text) {
  const toml::parse_result result = toml::parse(text);
  if (!result) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe: ", std::string(result.error().description())));
  }
  Fields fields(result.table());
  PretrainOptions options;
  options.seed = static_cast<uint64_t>(fields.Count("seed", 0));
  options.batch_size = fields.Count("batch_size", 1);
  options.pictures = fields.Count("pictures", 1);
  options.vision = fields.Stage("vision");
  options.image_token_std = fields.Real("vision.image_token_std", 10);
  options.language = fields.Stage("language");
  options.yes_no_share = fields.Real("language.yes_no_share", 1);
  options.caption_share = fields.Real("language.caption_share", 1 - options.yes_no_share);
  options.drawing = fields.Stage("drawing");
  options.prompt_dropout = fields.Real("drawing.prompt_dropout", 1);
  if (!fields.status().ok()) return fields.status();
  return options;
}

}  // namespace fedumm::model
