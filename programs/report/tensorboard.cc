#include "programs/report/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::programs {
namespace {

constexpr std::array<uint32_t, 256> Crc32cTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}

// The few protobuf fields of an Event, written by hand: field numbers of
// tensorflow/core/util/event.proto and summary.proto.
template <typename T>
std::string LittleEndian(T value) {
  static_assert(std::endian::native == std::endian::little);
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}

std::string Tag(int field, int wire_type) {
  return Varint(static_cast<uint64_t>(field << 3 | wire_type));
}
std::string BytesField(int field, std::string_view bytes) {
  return Tag(field, 2) + Varint(bytes.size()) + std::string(bytes);
}
std::string WallTime(double seconds) { return Tag(1, 1) + LittleEndian(seconds); }

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = Crc32cTable();
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

uint32_t MaskedCrc32c(std::string_view bytes) { return std::rotr(Crc32c(bytes), 15) + 0xa282ead8u; }

absl::StatusOr<TensorBoardWriter> TensorBoardWriter::Create(const std::string& folder,
                                                            double now_seconds) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) std::strcpy(host.data(), "localhost");
  const std::string path = absl::StrCat(folder, "/events.out.tfevents.",
                                        static_cast<int64_t>(now_seconds), ".", host.data());
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  TensorBoardWriter writer(file);
  FEDUMM_RETURN_IF_ERROR(
      writer.WriteRecord(WallTime(now_seconds) + BytesField(3, "brain.Event:2")));
  return writer;
}

absl::Status TensorBoardWriter::AddScalar(std::string_view tag, int64_t step, float value,
                                          double now_seconds) {
  const std::string summary_value = BytesField(1, tag) + Tag(2, 5) + LittleEndian(value);
  return WriteRecord(absl::StrCat(WallTime(now_seconds), Tag(2, 0),
                                  Varint(static_cast<uint64_t>(step)),
                                  BytesField(5, BytesField(1, summary_value))));
}

absl::Status TensorBoardWriter::WriteRecord(std::string_view event) {
  const std::string length = LittleEndian(static_cast<uint64_t>(event.size()));
  const std::string record = length + LittleEndian(MaskedCrc32c(length)) + std::string(event) +
                             LittleEndian(MaskedCrc32c(event));
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() ||
      std::fflush(file_.get()) != 0) {
    return absl::ErrnoToStatus(errno, "cannot write the TensorBoard event file");
  }
  return absl::OkStatus();
}

}  // namespace fedumm::programs
