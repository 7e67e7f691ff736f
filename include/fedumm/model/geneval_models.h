// GenEval's object detector and colour classifier, as TorchScript files that
// scripts/export_geneval_models.py writes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/geneval.h"
#include "fedumm/model/image.h"

namespace fedumm::model {

// A detector and a colour classifier. Used from one thread at a time.
//
// Both are TorchScript modules for the CPU with an extra file "fedumm.json" in the archive:
//   detector  {"name": text, "classes": [name, ...]}
//             forward(picture uint8 [height, width, 3]) -> (boxes float32 [n, 4]: left, top, right,
//             bottom in pixels of the picture; scores float32 [n]; classes int64 [n];
//             masks bool [n, height, width])
//   colours   {"name": text, "classes": [name, ...], "colors": [name, ...], "size": side in pixels}
//             forward(crops uint8 [n, size, size, 3], class int64 []) -> logits float32 [n,
//             colours]
// Such a file is a program: load none that you do not trust.
class GenevalModels {
 public:
  // NOT_FOUND if a file is missing; INVALID_ARGUMENT, naming the file, for anything else than the
  // above. An empty `colors` leaves colours unknown: Judge then refuses prompts that name one.
  static absl::StatusOr<std::unique_ptr<GenevalModels>> Load(const std::string& detector,
                                                             const std::string& colors);
  virtual ~GenevalModels() = default;

  virtual const std::string& detector_name() const = 0;
  virtual const std::string& colors_name() const = 0;  // empty: none

  // What the detector finds, colours left empty. INVALID_ARGUMENT if it returns other shapes or
  // values than promised.
  virtual absl::StatusOr<std::vector<Detection>> Detect(const Image& picture) = 0;
  // JudgePicture on what the detector finds; the colour of an object is asked of its crop: grey
  // (#999) outside its mask, cut to its box, resized and cropped as CLIP does.
  virtual absl::StatusOr<GenevalVerdict> Judge(const GenevalPrompt& prompt, const Image& picture,
                                               const GenevalOptions& options = {}) = 0;
};

}  // namespace fedumm::model
