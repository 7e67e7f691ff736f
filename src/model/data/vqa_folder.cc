#include "fedumm/model/vqa_folder.h"

#include <filesystem>
#include <map>
#include <set>
#include <system_error>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
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

// The names of the files in `folder`; empty if it cannot be read.
absl::flat_hash_set<std::string> FilesIn(const std::filesystem::path& folder) {
  absl::flat_hash_set<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    std::error_code unknown;
    if (it->is_regular_file(unknown)) names.insert(it->path().filename().string());
  }
  return names;
}

// NOT_FOUND, naming the first one, if pictures are missing. Each folder is listed once: a call for
// each of COCO's 80,000 pictures would take minutes on a network disk.
absl::Status CheckPictures(const VqaFolder& folder, const std::set<int64_t>& pictures) {
  std::map<std::filesystem::path, absl::flat_hash_set<std::string>> listings;
  std::string first_missing;
  size_t num_missing = 0;
  for (const int64_t id : pictures) {
    const std::filesystem::path path = folder.PicturePath(id);
    const auto [listing, added] = listings.try_emplace(path.parent_path());
    if (added) listing->second = FilesIn(path.parent_path());
    if (listing->second.contains(path.filename().string())) continue;
    if (num_missing++ == 0) first_missing = path.string();
  }
  if (num_missing == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(num_missing, " of ", pictures.size(),
                                          " pictures are missing, the first is ", first_missing));
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
  FEDUMM_RETURN_IF_ERROR(CheckPictures(folder, pictures));
  return folder;
}

std::string VqaFolder::PicturePath(int64_t image_id) const {
  // Load has checked the name.
  return absl::StrCat(options_.folder, "/",
                      Expand(options_.image_name, options_.subset, image_id).value_or(""));
}

absl::StatusOr<absl::flat_hash_map<int64_t, std::string>> PicturesById(const std::string& folder) {
  absl::flat_hash_map<int64_t, std::string> pictures;
  std::error_code error;
  auto it = std::filesystem::directory_iterator(folder, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string extension = absl::AsciiStrToLower(it->path().extension().string());
    if (extension != ".jpg" && extension != ".jpeg" && extension != ".png") continue;
    const std::string stem = it->path().stem().string();
    const size_t digits = stem.size() - (stem.find_last_not_of("0123456789") + 1);
    int64_t id = 0;
    if (!absl::SimpleAtoi(stem.substr(stem.size() - digits), &id)) continue;
    const auto [known, added] = pictures.try_emplace(id, it->path().string());
    if (added) continue;
    return absl::InvalidArgumentError(absl::StrCat("two pictures have the number ", id, ": ",
                                                   known->second, " and ", it->path().string()));
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat("cannot list ", folder, ": ", error.message()));
  }
  return pictures;
}

}  // namespace fedumm::model
