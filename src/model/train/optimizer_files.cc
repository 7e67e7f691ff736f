#include "model/train/optimizer_files.h"

#include <ATen/ops/full.h>

#include <charconv>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"

namespace fedumm::model {
namespace {

constexpr char kSuffix[] = ".safetensors";
constexpr char kFirst[] = "first_moment";
constexpr char kSecond[] = "second_moment";
constexpr char kStep[] = "step";
constexpr size_t kKept = 2;

// The files whose names are `prefix`, a round and the suffix, by that round.
std::map<int64_t, std::filesystem::path> FilesOf(const std::string& folder,
                                                 const std::string& prefix) {
  std::map<int64_t, std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) continue;
    const char* const last = name.data() + name.size() - (sizeof(kSuffix) - 1);
    int64_t round = 0;
    const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), last, round);
    if (problem == std::errc() && rest == last) files[round] = it->path();
  }
  return files;
}

}  // namespace

std::map<int64_t, std::filesystem::path> OptimizerFiles::RemoveFrom(int64_t round) const {
  std::map<int64_t, std::filesystem::path> files = FilesOf(folder_, prefix_);
  std::error_code ignored;
  for (auto it = files.lower_bound(round); it != files.end(); it = files.erase(it)) {
    std::filesystem::remove(it->second, ignored);
  }
  return files;
}

OptimizerFiles::OptimizerFiles(std::string folder, int64_t partition, int64_t num_partitions)
    : folder_(std::move(folder)),
      prefix_(absl::StrCat("optimizer-", partition, "-of-", num_partitions, "-round-")) {}

absl::StatusOr<AdamWState> OptimizerFiles::LoadBefore(int64_t round) const {
  AdamWState state;
  const std::map<int64_t, std::filesystem::path> files = RemoveFrom(round);
  if (files.empty()) return state;
  const std::string path = std::prev(files.end())->second.string();
  FEDUMM_ASSIGN_OR_RETURN(StateDict tensors, LoadStateDict(path));
  state.first_moment = tensors[kFirst];
  state.second_moment = tensors[kSecond];
  const at::Tensor step = tensors[kStep];
  const auto is_moment = [](const at::Tensor& tensor) {
    return tensor.defined() && tensor.dim() == 1 && tensor.scalar_type() == at::kFloat;
  };
  if (!is_moment(state.first_moment) || !is_moment(state.second_moment) ||
      state.first_moment.numel() != state.second_moment.numel() || !step.defined() ||
      step.numel() != 1 || step.scalar_type() != at::kLong) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no optimizer state; remove it to go on with a fresh optimizer"));
  }
  state.step = step.item<int64_t>();
  return state;
}

absl::Status OptimizerFiles::Save(int64_t round, const AdamWState& state) const {
  if (!state.first_moment.defined()) return absl::OkStatus();
  std::error_code ignored;
  std::filesystem::create_directories(folder_, ignored);  // Save says what is wrong with it
  FEDUMM_RETURN_IF_ERROR(SaveStateDict({{kFirst, state.first_moment.cpu()},
                                        {kSecond, state.second_moment.cpu()},
                                        {kStep, at::full({}, state.step, at::kLong)}},
                                       absl::StrCat(folder_, "/", prefix_, round, kSuffix)));
  std::map<int64_t, std::filesystem::path> files = FilesOf(folder_, prefix_);
  for (; files.size() > kKept; files.erase(files.begin())) {
    std::filesystem::remove(files.begin()->second, ignored);
  }
  return absl::OkStatus();
}

void OptimizerFiles::Discard() const { RemoveFrom(std::numeric_limits<int64_t>::min()); }

}  // namespace fedumm::model
