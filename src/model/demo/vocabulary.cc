#include "model/demo/vocabulary.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {

absl::StatusOr<Vocabulary> Vocabulary::Load(const std::string& folder,
                                            const BackboneConfig& config) {
  FEDUMM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(folder));
  Vocabulary vocabulary(std::move(tokenizer), config.text.vocab_size);
  for (size_t i = 0; i < kColors.size(); ++i) {
    FEDUMM_ASSIGN_OR_RETURN(vocabulary.colors_[i], vocabulary.Id(" " + std::string(kColors[i])));
  }
  for (size_t i = 0; i < kShapes.size(); ++i) {
    FEDUMM_ASSIGN_OR_RETURN(vocabulary.shapes_[i], vocabulary.Id(" " + std::string(kShapes[i])));
  }
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.draw_, vocabulary.Id(" draw"));
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.a_, vocabulary.Id(" a"));
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.im_end_, vocabulary.Id("<|im_end|>"));
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.vision_start_, vocabulary.Id("<|vision_start|>"));
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.vision_end_, vocabulary.Id("<|vision_end|>"));
  FEDUMM_ASSIGN_OR_RETURN(vocabulary.image_start_, vocabulary.Id("[IMG]"));
  return vocabulary;
}

absl::StatusOr<std::vector<int64_t>> Vocabulary::Encode(const std::string& sentence) const {
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, tokenizer_.Encode(sentence));
  for (const int64_t id : ids) {
    if (id < 0 || id >= size_) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside the model's vocabulary of ", size_));
    }
  }
  return ids;
}

absl::StatusOr<int64_t> Vocabulary::Id(const std::string& text) const {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, Encode(text));
  if (ids.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not one token but ", ids.size()));
  }
  return ids[0];
}

std::string Vocabulary::Word(int64_t id) const {
  const std::string text = tokenizer_.Decode({&id, 1});
  return !text.empty() && text[0] == ' ' ? text.substr(1) : text;
}

absl::StatusOr<Sequence> Vocabulary::Vqa(const std::string& question,
                                         const std::string& answer) const {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> asked, Encode(" " + question));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> answered, Encode(" " + answer));
  Sequence sequence;
  sequence.ids = {vision_start_, vision_end_};
  sequence.ids.insert(sequence.ids.end(), asked.begin(), asked.end());
  sequence.ids.push_back(im_end_);
  sequence.num_prompt = static_cast<int64_t>(sequence.ids.size());
  sequence.ids.insert(sequence.ids.end(), answered.begin(), answered.end());
  sequence.ids.push_back(im_end_);
  return sequence;
}

absl::StatusOr<Sequence> Vocabulary::Caption(Concept shown) const {
  return Vqa("describe",
             "a " + std::string(kColors[shown.color]) + " " + std::string(kShapes[shown.shape]));
}

std::vector<int64_t> Vocabulary::DrawPrompt(Concept wanted) const {
  return {draw_, a_, colors_[wanted.color], shapes_[wanted.shape], im_end_, image_start_};
}

}  // namespace fedumm::model
