#include "fedumm/model/vqa_folder.h"

#include <filesystem>
#include <set>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

constexpr size_t kMaxDigits = 20;

std::string Padded(int64_t id, size_t digits) {
  std::string text = absl::StrCat(id);
  if (text.size() < digits) text.insert(0, digits - text.size(), '0');
  return text;
}

// `name` with "{subset}", "{id}" and "{id:N}" replaced. INVALID_ARGUMENT for other braces.
absl::StatusOr<std::string> Expand(const std::string& name, const std::string& subset, int64_t id) {
  std::string result;
  for (size_t i = 0; i < name.size();) {
    if (name[i] != '{') {
      result.push_back(name[i++]);
      continue;
    }
    const size_t end = name.find('}', i);
    const std::string field = end == name.npos ? name.substr(i) : name.substr(i + 1, end - i - 1);
    size_t digits = 0;
    if (field == "subset") {
      result += subset;
    } else if (field == "id" ||
               (field.starts_with("id:") && absl::SimpleAtoi(field.substr(3), &digits) &&
                digits <= kMaxDigits)) {
      result += Padded(id, digits);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("'", name, "' may hold {subset}, {id} and {id:12}, not '", field, "'"));
    }
    i = end + 1;
  }
  return result;
}

// The path of a file of the subset; empty for an empty name.
std::string FilePath(const VqaFolderOptions& options, const std::string& name) {
  if (name.empty()) return "";
  return absl::StrCat(options.folder, "/",
                      absl::StrReplaceAll(name, {{"{subset}", options.subset}}));
}

}  // namespace

absl::StatusOr<VqaFolder> VqaFolder::Load(const VqaFolderOptions& options) {
  // A server may name the subset, which must not lead out of the folder.
  if (options.subset.find_first_of("/\\") != std::string::npos || options.subset == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("a subset must be a plain name without slashes: ", options.subset));
  }
  FEDUMM_RETURN_IF_ERROR(Expand(options.image_name, options.subset, 0).status());
  VqaFolder folder;
  folder.options_ = options;
  FEDUMM_ASSIGN_OR_RETURN(folder.questions_,
                          ReadVqaV2(FilePath(options, options.questions_file),
                                    FilePath(options, options.annotations_file)));
  if (!options.captions_file.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(folder.captions_,
                            ReadCaptions(FilePath(options, options.captions_file)));
  }
  std::set<int64_t> pictures;
  for (const VqaQuestion& question : folder.questions_) pictures.insert(question.image_id);
  for (const PictureCaption& caption : folder.captions_) pictures.insert(caption.image_id);
  std::string first_missing;
  size_t num_missing = 0;
  for (const int64_t id : pictures) {
    const std::string path = folder.PicturePath(id);
    std::error_code error;
    if (std::filesystem::is_regular_file(path, error)) continue;
    if (num_missing++ == 0) first_missing = path;
  }
  if (num_missing > 0) {
    return absl::NotFoundError(absl::StrCat(num_missing, " of ", pictures.size(),
                                            " pictures are missing, the first is ", first_missing));
  }
  return folder;
}

std::string VqaFolder::PicturePath(int64_t image_id) const {
  // Load has checked the name.
  return absl::StrCat(options_.folder, "/",
                      Expand(options_.image_name, options_.subset, image_id).value_or(""));
}

}  // namespace fedumm::model
