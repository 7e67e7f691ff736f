#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/generation.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokenId = int64_t{1} << 31;

struct Neutral {
  const char* field;
  Json value;  // with which the field changes nothing
};

// What changes the text and is not computed here.
const std::vector<Neutral>& Unsupported() {
  static const auto& fields = *new std::vector<Neutral>{{"num_beams", 1},
                                                        {"num_beam_groups", 1},
                                                        {"penalty_alpha", 0},
                                                        {"typical_p", 1},
                                                        {"epsilon_cutoff", 0},
                                                        {"eta_cutoff", 0},
                                                        {"length_penalty", 1},
                                                        {"encoder_repetition_penalty", 1},
                                                        {"no_repeat_ngram_size", 0},
                                                        {"bad_words_ids", {}},
                                                        {"force_words_ids", {}},
                                                        {"forced_bos_token_id", {}},
                                                        {"forced_eos_token_id", {}},
                                                        {"suppress_tokens", {}},
                                                        {"begin_suppress_tokens", {}},
                                                        {"sequence_bias", {}},
                                                        {"guidance_scale", 1},
                                                        {"watermarking_config", {}},
                                                        {"min_length", 0},
                                                        {"min_new_tokens", 0},
                                                        {"dola_layers", {}}};
  return fields;
}

absl::Status BadField(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("generation_config: ", field, " ", what));
}

absl::Status ReadNumber(const Json& json, const char* field, double& value) {
  const auto it = json.find(field);
  if (it == json.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_number()) return BadField(field, "is not a number");
  value = it->get<double>();
  return absl::OkStatus();
}

absl::Status ReadInteger(const Json& json, const char* field, int64_t& value) {
  const auto it = json.find(field);
  if (it == json.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_number_integer()) return BadField(field, "is not an integer");
  value = it->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadStopIds(const Json& json, std::vector<int64_t>& ids) {
  const auto it = json.find("eos_token_id");
  if (it == json.end() || it->is_null()) return absl::OkStatus();
  const Json list = it->is_array() ? *it : Json::array({*it});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > kMaxTokenId) {
      return BadField("eos_token_id", "is neither a token's id nor a list of them");
    }
    ids.push_back(id.get<int64_t>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GenerationSettings::Validate() const {
  const auto check = [](bool ok, absl::string_view field, absl::string_view range, auto value) {
    if (ok) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("generation: ", field, " must be ", range, ": ", value));
  };
  FEDUMM_RETURN_IF_ERROR(check(max_new_tokens >= 1 && max_new_tokens <= 1 << 20, "max_new_tokens",
                               "in 1..1048576", max_new_tokens));
  FEDUMM_RETURN_IF_ERROR(check(repetition_penalty > 0 && std::isfinite(repetition_penalty),
                               "repetition_penalty", "positive", repetition_penalty));
  FEDUMM_RETURN_IF_ERROR(check(temperature > 0 && std::isfinite(temperature), "temperature",
                               "positive (greedy: do_sample false)", temperature));
  FEDUMM_RETURN_IF_ERROR(check(top_k >= 0, "top_k", "0 (off) or positive", top_k));
  FEDUMM_RETURN_IF_ERROR(check(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1", top_p));
  return check(min_p >= 0 && min_p <= 1, "min_p", "from 0 to 1", min_p);
}

absl::StatusOr<GenerationSettings> ParseGenerationConfig(std::string_view text,
                                                         int64_t default_max_new_tokens) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("generation_config: no JSON object");
  for (const Neutral& neutral : Unsupported()) {
    const auto it = json.find(neutral.field);
    if (it == json.end() || it->is_null() || *it == neutral.value) continue;
    return absl::UnimplementedError(
        absl::StrCat("generation_config: ", neutral.field, " is not supported"));
  }
  // top_k: transformers' default, where the file leaves it out.
  GenerationSettings settings{.max_new_tokens = default_max_new_tokens, .top_k = 50};
  FEDUMM_RETURN_IF_ERROR(ReadInteger(json, "max_new_tokens", settings.max_new_tokens));
  FEDUMM_RETURN_IF_ERROR(ReadNumber(json, "repetition_penalty", settings.repetition_penalty));
  FEDUMM_RETURN_IF_ERROR(ReadNumber(json, "temperature", settings.temperature));
  FEDUMM_RETURN_IF_ERROR(ReadInteger(json, "top_k", settings.top_k));
  FEDUMM_RETURN_IF_ERROR(ReadNumber(json, "top_p", settings.top_p));
  FEDUMM_RETURN_IF_ERROR(ReadNumber(json, "min_p", settings.min_p));
  FEDUMM_RETURN_IF_ERROR(ReadStopIds(json, settings.stop_ids));
  if (const auto it = json.find("do_sample"); it != json.end() && !it->is_null()) {
    if (!it->is_boolean()) return BadField("do_sample", "is not true or false");
    settings.do_sample = it->get<bool>();
  }
  FEDUMM_RETURN_IF_ERROR(settings.Validate());
  return settings;
}

}  // namespace fedumm::model
