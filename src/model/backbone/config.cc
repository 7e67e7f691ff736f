#include "fedumm/model/config.h"

#include <cmath>
#include <initializer_list>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

// No released model comes near these; they keep every product of two sizes far from overflow.
constexpr int64_t kMaxSize = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;

// Reads typed fields of one JSON object. The first failure sticks and names the field.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) Fail("", "is not an object");
  }

  bool Has(const char* name) const {
    return object_.is_object() && object_.contains(name) && !object_.at(name).is_null();
  }
  void Read(const char* name, int64_t& value) {
    const Json* field = Find(name);
    if (field == nullptr) return;
    if (!field->is_number_integer() || (field->is_number_unsigned() && *field > kMaxSize)) {
      return Fail(name, "is not an integer of a plausible size");
    }
    value = field->get<int64_t>();
  }
  void Read(const char* name, double& value) {
    const Json* field = Find(name);
    if (field == nullptr) return;
    if (!field->is_number()) return Fail(name, "is not a number");
    value = field->get<double>();
  }
  void Read(const char* name, bool& value) {
    const Json* field = Find(name);
    if (field == nullptr) return;
    if (!field->is_boolean()) return Fail(name, "is not true or false");
    value = field->get<bool>();
  }
  void Read(const char* name, std::vector<int64_t>& value) {
    const Json* field = Find(name);
    if (field == nullptr) return;
    if (!field->is_array() || field->size() > kMaxLayers) return Fail(name, "is not a short list");
    for (const Json& item : *field) {
      if (!item.is_number_integer() || item < 0 || item > kMaxSize) {
        return Fail(name, "holds something that is not a small non-negative integer");
      }
      value.push_back(item.get<int64_t>());
    }
  }
  // A field that may be absent, but must not say anything else than one of `allowed`.
  void Allow(const char* name, std::initializer_list<Json> allowed) {
    if (!Has(name)) return;
    const Json& field = object_.at(name);
    for (const Json& value : allowed) {
      if (field == value) return;
    }
    // A nested value is not printed: that would recurse as deep as a hostile file nests.
    const std::string shown = field.is_structured()
                                  ? "a list or object"
                                  : field.dump(-1, ' ', false, Json::error_handler_t::replace);
    Fail(name, absl::StrCat("is ", shown, ", which is not supported"));
  }
  void Fail(const char* name, absl::string_view what) {
    if (!status_.ok()) return;
    const char* dot = where_.empty() || *name == '\0' ? "" : ".";
    status_ = absl::InvalidArgumentError(absl::StrCat("config: ", where_, dot, name, " ", what));
  }
  const Json& object() const { return object_; }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* name) {
    if (!status_.ok()) return nullptr;
    if (!Has(name)) {
      Fail(name, "is missing");
      return nullptr;
    }
    return &object_.at(name);
  }

  const Json& object_;
  std::string where_;
  absl::Status status_;
};

absl::StatusOr<Json> Parse(std::string_view text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("config: not valid JSON");
  if (!json.is_object()) return absl::InvalidArgumentError("config: not a JSON object");
  return json;
}

// rope_parameters (new) holds the base itself; rope_scaling (published files) leaves it beside it.
absl::Status ReadRope(Fields& text, TextConfig& config) {
  const char* name = text.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!text.Has(name)) {
    text.Fail(name, "is missing");
    return text.status();
  }
  Fields rope(text.object().at(name), name);
  rope.Allow("rope_type", {"default", "mrope"});
  rope.Allow("type", {"default", "mrope"});
  rope.Read("mrope_section", config.mrope_section);
  Fields& base = rope.Has("rope_theta") ? rope : text;
  base.Read("rope_theta", config.rope_theta);
  FEDUMM_RETURN_IF_ERROR(rope.status());
  return text.status();
}

absl::Status ReadText(const Json& root, TextConfig& config) {
  const bool nested = root.contains("text_config") && !root.at("text_config").is_null();
  Fields text(nested ? root.at("text_config") : root, nested ? "text_config" : "");
  text.Allow("use_sliding_window", {false});
  text.Allow("hidden_act", {"silu"});
  text.Read("vocab_size", config.vocab_size);
  text.Read("hidden_size", config.hidden_size);
  text.Read("intermediate_size", config.intermediate_size);
  text.Read("num_hidden_layers", config.num_hidden_layers);
  text.Read("num_attention_heads", config.num_attention_heads);
  text.Read("num_key_value_heads", config.num_key_value_heads);
  text.Read("rms_norm_eps", config.rms_norm_eps);
  FEDUMM_RETURN_IF_ERROR(text.status());
  FEDUMM_RETURN_IF_ERROR(ReadRope(text, config));
  // New files say it at the root, older nested ones in text_config.
  Fields top(root, "");
  Fields& tie = top.Has("tie_word_embeddings") ? top : text;
  tie.Read("tie_word_embeddings", config.tie_word_embeddings);
  return tie.status();
}

absl::Status ReadVision(const Json& root, VisionConfig& config) {
  if (!root.contains("vision_config")) {
    return absl::InvalidArgumentError("config: vision_config is missing");
  }
  Fields vision(root.at("vision_config"), "vision_config");
  vision.Allow("hidden_act", {"silu"});
  vision.Read("depth", config.depth);
  vision.Read("hidden_size", config.hidden_size);
  vision.Read("intermediate_size", config.intermediate_size);
  vision.Read("num_heads", config.num_heads);
  vision.Read(vision.Has("in_channels") ? "in_channels" : "in_chans", config.in_channels);
  vision.Read("patch_size", config.patch_size);
  vision.Read("temporal_patch_size", config.temporal_patch_size);
  vision.Read("spatial_merge_size", config.spatial_merge_size);
  vision.Read("window_size", config.window_size);
  vision.Read("out_hidden_size", config.out_hidden_size);
  vision.Read("fullatt_block_indexes", config.fullatt_block_indexes);
  FEDUMM_RETURN_IF_ERROR(vision.status());
  vision.Allow("in_chans", {config.in_channels});
  if (vision.Has("rope_parameters")) {
    Fields rope(vision.object().at("rope_parameters"), "vision_config.rope_parameters");
    rope.Allow("rope_type", {"axial", "default"});
    rope.Allow("rope_theta", {10000.0});
    FEDUMM_RETURN_IF_ERROR(rope.status());
  }
  return vision.status();
}

absl::StatusOr<DitConfig> ReadDit(const Json& object, std::string where) {
  Fields fields(object, std::move(where));
  DitConfig config;
  fields.Allow("patch_size", {1});
  fields.Allow("learn_sigma", {false});
  fields.Allow("qk_norm", {true});
  fields.Read("dim", config.dim);
  fields.Read("n_layers", config.n_layers);
  fields.Read("n_heads", config.n_heads);
  fields.Read("in_channels", config.in_channels);
  fields.Read("input_size", config.input_size);
  fields.Read("latent_embedding_size", config.latent_embedding_size);
  fields.Read("norm_eps", config.norm_eps);
  FEDUMM_RETURN_IF_ERROR(fields.status());
  fields.Allow("n_kv_heads", {config.n_heads});
  if (fields.Has("ffn_hidden_size") || !fields.Has("multiple_of")) {
    fields.Read("ffn_hidden_size", config.ffn_hidden_size);
  } else {
    int64_t multiple = 0;
    fields.Read("multiple_of", multiple);
    if (multiple < 1 || multiple > kMaxSize) fields.Fail("multiple_of", "is out of range");
    if (config.dim < 1 || config.dim > kMaxSize) fields.Fail("dim", "is out of range");
    if (fields.status().ok()) {
      const int64_t inner = 2 * 4 * config.dim / 3;
      config.ffn_hidden_size = (inner + multiple - 1) / multiple * multiple;
    }
  }
  FEDUMM_RETURN_IF_ERROR(fields.status());
  return config;
}

// Released models that share the name "blip3o_qwen" or come near it, and are others.
absl::Status RefuseOtherModels(const Json& root) {
  const auto text = [&](const char* key) {
    const auto it = root.find(key);
    return it != root.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  std::string architecture;
  if (const auto it = root.find("architectures");
      it != root.end() && it->is_array() && !it->empty() && it->front().is_string()) {
    architecture = it->front().get<std::string>();
  }
  const bool qwen3 =
      text("model_type").starts_with("qwen3") || absl::StrContains(architecture, "Qwen3");
  if (qwen3 || (root.contains("head_dim") && !root.contains("vision_config"))) {
    return absl::UnimplementedError(
        "config: this is a Qwen3 model, as in BLIP3o-NEXT, which is not supported; BLIP3o-Model-4B "
        "and -8B (Qwen2.5-VL) are");
  }
  return absl::OkStatus();
}

// The sizes of a DiT whose tensors have these shapes.
absl::StatusOr<DitConfig> DitOfTensors(const TensorShapes& tensors, int64_t n_query) {
  const std::string root = "model.dit.model.";
  absl::Status status;
  const auto size = [&](const std::string& name, size_t rank, size_t axis) -> int64_t {
    const auto it = tensors.find(root + name);
    if (it != tensors.end() && it->second.size() == rank) return it->second[axis];
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("config: n_query is ", n_query, ", but the checkpoint has no tensor ", root,
                     name, " of ", rank, " dimensions, which tells the size of the DiT")));
    return 1;
  };
  DitConfig dit;
  dit.dim = size("patch_embedder.proj.weight", 2, 0);
  dit.in_channels = size("patch_embedder.proj.weight", 2, 1);
  dit.n_heads = size("layers.0.gate", 1, 0);
  dit.ffn_hidden_size = size("layers.0.feed_forward.linear_1.weight", 2, 0);
  dit.latent_embedding_size = size("caption_projection.linear_1.weight", 2, 1);
  dit.norm_eps = 1e-5;
  FEDUMM_RETURN_IF_ERROR(status);
  while (dit.n_layers <= kMaxLayers &&
         tensors.contains(absl::StrCat(root, "layers.", dit.n_layers, ".gate"))) {
    ++dit.n_layers;
  }
  dit.input_size = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n_query))));
  if (dit.input_size * dit.input_size != n_query) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: n_query is ", n_query, ", which is not a square"));
  }
  return dit;
}

// Collects the first broken rule about a config's numbers.
class Rules {
 public:
  void Range(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
      Fail(absl::StrCat(name, " is ", value, ", not in ", low, "..", high));
    }
  }
  void Size(const char* name, int64_t value) { Range(name, value, 1, kMaxSize); }
  void Epsilon(const char* name, double value) {
    if (!(value > 0 && value < 1)) Fail(absl::StrCat(name, " is ", value, ", not in (0, 1)"));
  }
  // `value` and `divisor` must have passed Size.
  void Divides(const char* divisor_name, int64_t divisor, const char* name, int64_t value) {
    if (status_.ok() && value % divisor != 0) {
      Fail(absl::StrCat(divisor_name, " (", divisor, ") does not divide ", name, " (", value, ")"));
    }
  }
  void That(bool holds, absl::string_view otherwise) {
    if (!holds) Fail(otherwise);
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("config: ", what));
  }
  absl::Status status_;
};

void Check(const TextConfig& text, Rules& rules) {
  rules.Size("vocab_size", text.vocab_size);
  rules.Size("hidden_size", text.hidden_size);
  rules.Size("intermediate_size", text.intermediate_size);
  rules.Range("num_hidden_layers", text.num_hidden_layers, 1, kMaxLayers);
  rules.Size("num_attention_heads", text.num_attention_heads);
  rules.Size("num_key_value_heads", text.num_key_value_heads);
  rules.Epsilon("rms_norm_eps", text.rms_norm_eps);
  rules.That(text.rope_theta > 1 && std::isfinite(text.rope_theta), "rope_theta is not above 1");
  rules.Divides("num_attention_heads", text.num_attention_heads, "hidden_size", text.hidden_size);
  rules.Divides("num_key_value_heads", text.num_key_value_heads, "num_attention_heads",
                text.num_attention_heads);
  if (!rules.ok()) return;
  rules.Divides("2", 2, "the head size", text.head_dim());
  rules.That(text.mrope_section.size() == 3, "mrope_section does not have 3 parts");
  int64_t sum = 0;
  for (const int64_t part : text.mrope_section) {
    rules.Range("mrope_section", part, 0, kMaxSize);
    sum += part;
  }
  rules.That(sum == text.head_dim() / 2,
             absl::StrCat("mrope_section adds up to ", sum, ", not to half the head size (",
                          text.head_dim() / 2, ")"));
}

void Check(const VisionConfig& vision, Rules& rules) {
  rules.Range("vision_config.depth", vision.depth, 1, kMaxLayers);
  rules.Size("vision_config.hidden_size", vision.hidden_size);
  rules.Size("vision_config.intermediate_size", vision.intermediate_size);
  rules.Size("vision_config.num_heads", vision.num_heads);
  rules.Range("vision_config.in_channels", vision.in_channels, 1, 1024);
  rules.Range("vision_config.patch_size", vision.patch_size, 1, 1024);
  rules.Range("vision_config.temporal_patch_size", vision.temporal_patch_size, 1, 64);
  rules.Range("vision_config.spatial_merge_size", vision.spatial_merge_size, 1, 64);
  rules.Size("vision_config.window_size", vision.window_size);
  rules.Size("vision_config.out_hidden_size", vision.out_hidden_size);
  rules.Divides("vision_config.num_heads", vision.num_heads, "vision_config.hidden_size",
                vision.hidden_size);
  if (!rules.ok()) return;
  rules.Divides("4", 4, "the vision tower's head size", vision.head_dim());
  rules.That(vision.window_size / vision.spatial_merge_size / vision.patch_size > 0,
             "vision_config.window_size is less than one merged patch");
  for (const int64_t index : vision.fullatt_block_indexes) {
    rules.Range("vision_config.fullatt_block_indexes", index, 0, vision.depth - 1);
  }
}

void Check(const DitConfig& dit, Rules& rules) {
  rules.Size("dit.dim", dit.dim);
  rules.Range("dit.n_layers", dit.n_layers, 1, kMaxLayers);
  rules.Size("dit.n_heads", dit.n_heads);
  rules.Size("dit.in_channels", dit.in_channels);
  rules.Range("dit.input_size", dit.input_size, 1, 1024);
  rules.Size("dit.ffn_hidden_size", dit.ffn_hidden_size);
  rules.Size("dit.latent_embedding_size", dit.latent_embedding_size);
  rules.Epsilon("dit.norm_eps", dit.norm_eps);
  rules.Divides("dit.n_heads", dit.n_heads, "dit.dim", dit.dim);
  if (!rules.ok()) return;
  rules.Divides("4", 4, "the DiT's head size", dit.head_dim());
}

}  // namespace

absl::StatusOr<BackboneConfig> BackboneConfig::FromJson(std::string_view text) {
  return FromJson(text, {});
}

absl::StatusOr<BackboneConfig> BackboneConfig::FromJson(std::string_view text,
                                                        const TensorShapes& tensors) {
  FEDUMM_ASSIGN_OR_RETURN(const Json root, Parse(text));
  FEDUMM_RETURN_IF_ERROR(RefuseOtherModels(root));
  BackboneConfig config;
  FEDUMM_RETURN_IF_ERROR(ReadText(root, config.text));
  FEDUMM_RETURN_IF_ERROR(ReadVision(root, config.vision));
  Fields fields(root, "");
  fields.Read("image_token_id", config.image_token_id);
  fields.Read("video_token_id", config.video_token_id);
  fields.Read("vision_start_token_id", config.vision_start_token_id);
  fields.Read("vision_end_token_id", config.vision_end_token_id);
  FEDUMM_RETURN_IF_ERROR(fields.status());
  if (fields.Has("dit")) {
    FEDUMM_ASSIGN_OR_RETURN(config.dit, ReadDit(root.at("dit"), "dit"));
  } else if (fields.Has("latent_embedding_size")) {
    FEDUMM_ASSIGN_OR_RETURN(config.dit, ReadDit(root, ""));
  }
  if (config.dit.has_value() || fields.Has("n_query")) fields.Read("n_query", config.n_query);
  FEDUMM_RETURN_IF_ERROR(fields.status());
  if (!config.dit.has_value() && config.n_query > 0 && !tensors.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(config.dit, DitOfTensors(tensors, config.n_query));
  }
  FEDUMM_RETURN_IF_ERROR(config.Validate());
  return config;
}

absl::Status BackboneConfig::Validate() const {
  Rules rules;
  Check(text, rules);
  Check(vision, rules);
  if (!rules.ok()) return rules.status();
  rules.That(vision.out_hidden_size == text.hidden_size,
             "vision_config.out_hidden_size differs from hidden_size");
  const int64_t last = text.vocab_size - 1;
  rules.Range("image_token_id", image_token_id, 0, last);
  rules.Range("video_token_id", video_token_id, 0, last);
  rules.Range("vision_start_token_id", vision_start_token_id, 0, last);
  rules.Range("vision_end_token_id", vision_end_token_id, 0, last);
  if (dit.has_value()) {
    Check(*dit, rules);
    rules.Range("n_query", n_query, 1, 65536);
    rules.That(dit->latent_embedding_size == text.hidden_size,
               "dit.latent_embedding_size differs from hidden_size");
  } else {
    rules.That(n_query == 0, "n_query is given, but no dit: its sizes are needed as well");
  }
  return rules.status();
}

std::string BackboneConfig::ToJson() const {
  Json root = {{"model_type", dit.has_value() ? "blip3o_qwen" : "qwen2_5_vl"},
               {"vocab_size", text.vocab_size},
               {"hidden_size", text.hidden_size},
               {"intermediate_size", text.intermediate_size},
               {"num_hidden_layers", text.num_hidden_layers},
               {"num_attention_heads", text.num_attention_heads},
               {"num_key_value_heads", text.num_key_value_heads},
               {"hidden_act", "silu"},
               {"rms_norm_eps", text.rms_norm_eps},
               {"rope_theta", text.rope_theta},
               {"rope_scaling", {{"type", "mrope"}, {"mrope_section", text.mrope_section}}},
               {"tie_word_embeddings", text.tie_word_embeddings},
               {"use_sliding_window", false},
               {"image_token_id", image_token_id},
               {"video_token_id", video_token_id},
               {"vision_start_token_id", vision_start_token_id},
               {"vision_end_token_id", vision_end_token_id}};
  root["vision_config"] = {{"depth", vision.depth},
                           {"hidden_size", vision.hidden_size},
                           {"intermediate_size", vision.intermediate_size},
                           {"num_heads", vision.num_heads},
                           {"hidden_act", "silu"},
                           {"in_chans", vision.in_channels},
                           {"patch_size", vision.patch_size},
                           {"temporal_patch_size", vision.temporal_patch_size},
                           {"spatial_merge_size", vision.spatial_merge_size},
                           {"window_size", vision.window_size},
                           {"out_hidden_size", vision.out_hidden_size},
                           {"fullatt_block_indexes", vision.fullatt_block_indexes}};
  if (dit.has_value()) {
    root["n_query"] = n_query;
    root["dit"] = {{"dim", dit->dim},
                   {"n_layers", dit->n_layers},
                   {"n_heads", dit->n_heads},
                   {"in_channels", dit->in_channels},
                   {"input_size", dit->input_size},
                   {"patch_size", 1},
                   {"ffn_hidden_size", dit->ffn_hidden_size},
                   {"latent_embedding_size", dit->latent_embedding_size},
                   {"norm_eps", dit->norm_eps}};
  }
  return root.dump(2) + "\n";
}

absl::StatusOr<DitConfig> DitConfigFromJson(std::string_view text) {
  FEDUMM_ASSIGN_OR_RETURN(const Json root, Parse(text));
  FEDUMM_ASSIGN_OR_RETURN(const DitConfig config, ReadDit(root, ""));
  Rules rules;
  Check(config, rules);
  FEDUMM_RETURN_IF_ERROR(rules.status());
  return config;
}

}  // namespace fedumm::model
