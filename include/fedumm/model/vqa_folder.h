// A folder of PNG and JPEG pictures with questions in VQA v2's files, and captions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "fedumm/model/vqa.h"

namespace fedumm::model {

// Where the parts of one subset lie. Names are relative to `folder`; "{subset}" stands for the
// subset, "{id}" for a picture's image_id and "{id:12}" for its 12 digits with leading zeros. The
// defaults are the names of the published files.
struct VqaFolderOptions {
  std::string folder;
  std::string subset = "train2014";
  std::string questions_file = "v2_OpenEnded_mscoco_{subset}_questions.json";
  std::string annotations_file = "v2_mscoco_{subset}_annotations.json";  // empty: no answers
  std::string captions_file;                                             // empty: no captions
  std::string image_name = "{subset}/COCO_{subset}_{id:12}.jpg";
};

// The questions and captions of one subset. The pictures stay on the disk. Immutable once loaded.
class VqaFolder {
 public:
  // NOT_FOUND, naming it, for a file that is missing or a picture that a question or a caption
  // names; INVALID_ARGUMENT for a malformed file or name.
  static absl::StatusOr<VqaFolder> Load(const VqaFolderOptions& options);

  const std::vector<VqaQuestion>& questions() const { return questions_; }
  const std::vector<PictureCaption>& captions() const { return captions_; }
  std::string PicturePath(int64_t image_id) const;

 private:
  VqaFolderOptions options_;
  std::vector<VqaQuestion> questions_;
  std::vector<PictureCaption> captions_;
};

// The pictures (.jpg, .jpeg, .png) of a folder, not of those in it, by the number at the end of
// their name: COCO_val2014_000000000042.jpg is 42. NOT_FOUND for a folder that cannot be read;
// INVALID_ARGUMENT, naming both, for two pictures of one number.
absl::StatusOr<absl::flat_hash_map<int64_t, std::string>> PicturesById(const std::string& folder);

}  // namespace fedumm::model
