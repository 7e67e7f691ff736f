#include <ATen/Parallel.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "fedumm/model/device.h"
#include "fedumm/model/eva.h"
#include "fedumm/model/image.h"
#include "fedumm/model/latents.h"
#include "model/guarded.h"
#include "programs/model_commands.h"
#include "programs/program.h"
#include "programs/report/progress_line.h"

namespace fedumm::programs {
namespace {

namespace fs = std::filesystem;

struct EncodeFlags {
  std::string pictures;
  std::string encoder;
  std::string out;
  model::EvaOptions options;
  std::string dtype = "auto";
  int64_t batch = 8;
  int64_t shard_mb = 256;
  int threads = 0;
};

// The pictures in a folder and those below it, as sorted paths relative to it.
absl::StatusOr<std::vector<std::string>> PicturesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string suffix = absl::AsciiStrToLower(it->path().extension().string());
    if (suffix != ".jpg" && suffix != ".jpeg" && suffix != ".png") continue;
    // A link keeps its own name: where it leads to does not matter.
    names.push_back(it->path().lexically_relative(folder).string());
  }
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", folder, ": ", error.message()));
  }
  if (names.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(folder, " holds no .jpg, .jpeg or .png files"));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Encodes `names` as one batch; those that cannot be read are told and left out.
absl::Status EncodeBatch(const model::EvaEncoder& encoder, const std::string& folder,
                         const std::vector<std::string>& names, int64_t& num_bad,
                         model::LatentWriter& writer) {
  std::vector<at::Tensor> pixels;
  std::vector<std::string> good;
  for (const std::string& name : names) {
    absl::StatusOr<model::Image> image =
        ValidUtf8(name, name.size()) == name
            ? model::ReadImage(folder + "/" + name)
            : absl::InvalidArgumentError("its name is not UTF-8, as names of tensors must be");
    absl::StatusOr<at::Tensor> prepared =
        image.ok() ? model::EvaPixels(*image, encoder.image_size()) : image.status();
    if (prepared.ok()) {
      pixels.push_back(*std::move(prepared));
      good.push_back(name);
      continue;
    }
    ++num_bad;
    std::fprintf(stderr, "fedumm: left out: %s\n",
                 Printable(absl::StrCat(name, ": ", prepared.status().message()), 1000).c_str());
  }
  if (pixels.empty()) return absl::OkStatus();
  return model::Guarded([&]() -> absl::Status {
    const at::Tensor latents = encoder.Encode(at::stack(pixels)).to(at::kBFloat16).contiguous();
    const size_t bytes = latents.nbytes() / good.size();
    const char* data = static_cast<const char*>(latents.const_data_ptr());
    for (const std::string& name : good) {
      FEDUMM_RETURN_IF_ERROR(writer.Add(name, model::SafetensorsDType::kBF16,
                                        {encoder.width(), encoder.grid(), encoder.grid()},
                                        std::string(data, bytes)));
      data += bytes;
    }
    return absl::OkStatus();
  });
}

absl::Status EncodePictures(const EncodeFlags& flags) {
  const SignalStop stop;
  model::EvaOptions options = flags.options;
  FEDUMM_ASSIGN_OR_RETURN(options.dtype, model::WeightType(flags.dtype));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> all, PicturesIn(flags.pictures));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(flags.threads > 0 ? flags.threads : std::max(1, cores));
  FEDUMM_ASSIGN_OR_RETURN(const auto encoder, model::EvaEncoder::Load(flags.encoder, options));
  FEDUMM_ASSIGN_OR_RETURN(model::LatentWriter writer,
                          model::LatentWriter::Open(flags.out, encoder->id()));
  std::vector<std::string> left;
  for (const std::string& name : all) {
    if (!writer.contains(name)) left.push_back(name);
  }
  if (left.size() < all.size()) {
    std::fprintf(stderr, "fedumm: %s holds the latents of %zu of %zu pictures: going on\n",
                 flags.out.c_str(), all.size() - left.size(), all.size());
  }
  ProgressLine progress("encoding", std::ssize(left), "pictures");
  int64_t num_bad = 0;
  const auto batch = static_cast<size_t>(flags.batch);
  for (size_t begin = 0; begin < left.size(); begin += batch) {
    const size_t end = std::min(left.size(), begin + batch);
    FEDUMM_RETURN_IF_ERROR(EncodeBatch(
        *encoder, flags.pictures,
        {left.begin() + static_cast<ptrdiff_t>(begin), left.begin() + static_cast<ptrdiff_t>(end)},
        num_bad, writer));
    progress.Show(static_cast<int64_t>(end));
    if (stop.token().stop_requested()) {
      FEDUMM_RETURN_IF_ERROR(writer.Flush());
      return absl::CancelledError(absl::StrCat("stopped after ", writer.size(), " of ", all.size(),
                                               " pictures; the same command goes on from there"));
    }
    if (writer.pending_bytes() >= flags.shard_mb << 20) FEDUMM_RETURN_IF_ERROR(writer.Flush());
  }
  FEDUMM_RETURN_IF_ERROR(writer.Flush());
  progress.End();
  std::printf("%zu latents of [%lld, %lld, %lld] in %s\n", writer.size(),
              static_cast<long long>(encoder->width()), static_cast<long long>(encoder->grid()),
              static_cast<long long>(encoder->grid()), flags.out.c_str());
  if (num_bad == 0) return absl::OkStatus();
  return Failed(absl::InvalidArgumentError(
      absl::StrCat(num_bad, " of ", all.size(), " pictures could not be encoded")));
}

}  // namespace

void AddEncode(CLI::App& app, Command& command) {
  const auto flags = std::make_shared<EncodeFlags>();
  CLI::App* encode = app.add_subcommand(
      "encode", "Turn pictures into the latents that drawing is trained on (EVA-CLIP E/14+)");
  encode->add_option("pictures", flags->pictures, "Folder with JPEG and PNG files")
      ->required()
      ->check(CLI::ExistingDirectory);
  encode
      ->add_option("--encoder", flags->encoder,
                   "The encoder's weights: a safetensors file, or a folder of them")
      ->required()
      ->check(CLI::ExistingPath);
  encode->add_option("-o,--out", flags->out, "Folder of the latents; what it holds is kept")
      ->required();
  encode->add_option("--heads", flags->options.num_heads, "Attention heads; 0: of 112 channels")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  encode
      ->add_option("--pooling", flags->options.pooling, "Tokens on a side whose mean is one latent")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  encode
      ->add_option("--dtype", flags->dtype,
                   "Of the arithmetic: auto (that of the weights), float32 or bfloat16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->capture_default_str();
  encode->add_option("--batch", flags->batch, "Pictures at a time")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  encode->add_option("--shard-mb", flags->shard_mb, "Megabytes of a file of latents")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  encode->add_option("--threads", flags->threads, "Threads; 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  encode->callback([flags, &command] { command = [flags] { return EncodePictures(*flags); }; });
}

}  // namespace fedumm::programs
