#include "model/checkpoint/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

constexpr int kMaxSkippedDepth = 120;  // of nested values in fields that are skipped

// Receives the parser's events, because a document tree would hide that a key occurs twice. Every
// handler returns false to stop parsing.
class HeaderReader {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  bool null() {
    if (where_ == Where::kRoot && metadata_key_) return true;
    return Scalar("null");
  }
  bool boolean(bool) { return Scalar("a boolean"); }
  bool number_integer(number_integer_t) { return Scalar("a negative number"); }
  bool number_float(number_float_t, const string_t&) { return Scalar("not an integer"); }
  bool binary(binary_t&) { return Scalar("binary"); }
  bool number_unsigned(number_unsigned_t value) {
    if (where_ == Where::kShape) {
      entry_.shape.push_back(value);
      return true;
    }
    if (where_ == Where::kOffsets) {
      offsets_.push_back(value);
      return offsets_.size() <= 2 || Fail("more than two data_offsets");
    }
    return Scalar("a number");
  }
  bool string(string_t& value) {
    if (where_ == Where::kMetadata) {
      header_.metadata[key_] =
          std::move(value);  // the last of equal keys wins, as in the reference
      return true;
    }
    if (where_ == Where::kEntry && key_ == "dtype") {
      entry_.dtype = std::move(value);
      return true;
    }
    return Scalar("a string");
  }
  bool start_object(size_t) {
    switch (where_) {
      case Where::kStart:
        where_ = Where::kRoot;
        return true;
      case Where::kRoot:
        where_ = metadata_key_ ? Where::kMetadata : Where::kEntry;
        entry_ = {.name = metadata_key_ ? "" : key_};
        offsets_.clear();
        has_dtype_ = has_shape_ = has_offsets_ = false;
        return true;
      default:
        return Nested("an object");
    }
  }
  bool start_array(size_t) {
    if (where_ == Where::kEntry && (key_ == "shape" || key_ == "data_offsets")) {
      where_ = key_ == "shape" ? Where::kShape : Where::kOffsets;
      return true;
    }
    return Nested("an array");
  }
  bool end_array() {
    if (where_ != Where::kSkipped) {
      where_ = Where::kEntry;
      return true;
    }
    return EndSkipped();
  }
  bool end_object() {
    switch (where_) {
      case Where::kRoot:
        where_ = Where::kEnd;
        return true;
      case Where::kMetadata:
        where_ = Where::kRoot;
        return true;
      case Where::kEntry:
        where_ = Where::kRoot;
        return EndEntry();
      default:
        return EndSkipped();
    }
  }
  bool key(string_t& key) {
    if (where_ == Where::kSkipped) return true;
    key_ = std::move(key);
    if (where_ == Where::kRoot) {
      metadata_key_ = key_ == "__metadata__";
      if (metadata_key_ && std::exchange(has_metadata_, true)) return Fail("occurs twice");
    }
    if (where_ == Where::kEntry) {
      bool* const seen = key_ == "dtype"          ? &has_dtype_
                         : key_ == "shape"        ? &has_shape_
                         : key_ == "data_offsets" ? &has_offsets_
                                                  : nullptr;
      if (seen != nullptr && std::exchange(*seen, true)) return Fail("occurs twice");
    }
    return true;
  }
  template <typename Exception>
  bool parse_error(size_t position, const std::string&, const Exception&) {
    error_ = absl::InvalidArgumentError(
        absl::StrCat("safetensors header is not JSON at byte ", position));
    return false;
  }

  absl::StatusOr<SafetensorsHeader> Take() && {
    if (!error_.ok()) return error_;
    return std::move(header_);
  }

 private:
  enum class Where { kStart, kRoot, kMetadata, kEntry, kShape, kOffsets, kSkipped, kEnd };

  bool KnownField() const { return key_ == "dtype" || key_ == "shape" || key_ == "data_offsets"; }
  bool Scalar(const char* what) {
    if (where_ == Where::kSkipped || (where_ == Where::kEntry && !KnownField())) return true;
    return Fail(absl::StrCat("has an unexpected value: ", what));
  }
  bool Nested(const char* what) {
    if (where_ == Where::kEntry && !KnownField()) {
      where_ = Where::kSkipped;
      skipped_depth_ = 1;
      return true;
    }
    if (where_ == Where::kSkipped) {
      return ++skipped_depth_ <= kMaxSkippedDepth || Fail("is nested too deeply");
    }
    return Fail(absl::StrCat("has an unexpected value: ", what));
  }
  bool EndSkipped() {
    if (--skipped_depth_ == 0) where_ = Where::kEntry;
    return true;
  }
  bool EndEntry() {
    key_ = entry_.name;
    if (!has_dtype_ || !has_shape_ || offsets_.size() != 2) {
      return Fail("needs dtype, shape and two data_offsets");
    }
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
    return true;
  }
  bool Fail(const std::string& what) {
    error_ = absl::InvalidArgumentError(
        absl::StrCat("safetensors header: '", absl::CHexEscape(key_.substr(0, 200)), "' ", what));
    return false;
  }

  Where where_ = Where::kStart;
  int skipped_depth_ = 0;
  std::string key_;
  bool metadata_key_ = false;
  bool has_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  SafetensorsHeader::Entry entry_;
  std::vector<uint64_t> offsets_;
  SafetensorsHeader header_;
  absl::Status error_;
};

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json) {
  // The parser takes a NUL for the end of its input and skips a byte-order mark; both are errors
  // here.
  if (json.find('\0') != json.npos || json.substr(0, 1) == "\xef") {
    return absl::InvalidArgumentError("safetensors header has a byte that JSON does not allow");
  }
  HeaderReader reader;
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  return std::move(reader).Take();
}

}  // namespace fedumm::model
