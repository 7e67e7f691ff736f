#include "model/data/json_entries.h"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::model {
namespace {

constexpr size_t kMaxFields = 256;
constexpr size_t kMaxItems = 65'536;
constexpr int kMaxDepth = 64;
constexpr size_t kMaxTextBytes = size_t{1} << 20;
constexpr size_t kBlockBytes = size_t{1} << 18;
constexpr uintmax_t kMaxJsonFileBytes = uintmax_t{1} << 34;

// The bytes of a source in blocks. It ends early, with an error, where a text is too long: the
// parser would hold it whole.
class ByteStream {
 public:
  explicit ByteStream(const ByteSource& source) : source_(source) { Fill(); }

  bool ended() const { return next_ == end_; }
  char current() const { return block_[next_]; }
  void Advance() {
    const char c = block_[next_++];
    since_quote_ = c == '"' && before_ != '\\' ? 0 : since_quote_ + 1;
    before_ = c;
    if (since_quote_ > kMaxTextBytes) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("more than ", kMaxTextBytes, " bytes without a quotation mark"));
      next_ = end_ = 0;
    } else if (next_ == end_) {
      Fill();
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fill() {
    next_ = end_ = 0;
    absl::StatusOr<size_t> count = source_(block_.data(), block_.size());
    if (count.ok()) {
      end_ = *count;
    } else {
      status_ = count.status();
    }
  }

  const ByteSource& source_;
  std::vector<char> block_ = std::vector<char>(kBlockBytes);
  size_t next_ = 0;
  size_t end_ = 0;
  size_t since_quote_ = 0;
  char before_ = 0;
  absl::Status status_;
};

// What the parser walks over. A default one is the end.
class ByteIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  ByteIterator() = default;
  explicit ByteIterator(ByteStream* stream) : stream_(stream) {}
  char operator*() const { return stream_->current(); }
  ByteIterator& operator++() {
    stream_->Advance();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const ByteIterator& a, const ByteIterator& b) {
    return a.AtEnd() == b.AtEnd();
  }
  friend bool operator!=(const ByteIterator& a, const ByteIterator& b) { return !(a == b); }

 private:
  bool AtEnd() const { return stream_ == nullptr || stream_->ended(); }
  ByteStream* stream_ = nullptr;
};

}  // namespace

const JsonEntry::Value* JsonEntry::Find(std::string_view name) const {
  for (auto it = fields_.rbegin(); it != fields_.rend(); ++it) {
    if (it->first == name) return &it->second;
  }
  return nullptr;
}

absl::StatusOr<int64_t> JsonEntry::Integer(std::string_view name) const {
  const Value* const value = Find(name);
  if (value != nullptr && std::holds_alternative<int64_t>(*value)) return std::get<int64_t>(*value);
  return absl::InvalidArgumentError(
      absl::StrCat("an entry needs the integer '", fedumm::Text(name), "'"));
}

absl::StatusOr<std::string> JsonEntry::Text(std::string_view name) const {
  const Value* const value = Find(name);
  if (value != nullptr && std::holds_alternative<std::string>(*value)) {
    return std::get<std::string>(*value);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("an entry needs the string '", fedumm::Text(name), "'"));
}

// The parser's events. Depth counts the brackets that are open.
class JsonEntryReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonEntryReader(std::string_view array, std::string_view items,
                  const std::function<absl::Status(const JsonEntry&)>& use)
      : array_(array),
        items_(items),
        use_(use),
        entry_depth_(array.empty() ? 2 : 3),
        wanted_(array.empty()) {}

  bool null() override { return Add(std::monostate()); }
  bool boolean(bool) override { return Add(std::monostate()); }
  bool number_float(double, const std::string&) override { return Add(std::monostate()); }
  bool binary(nlohmann::json::binary_t&) override { return Add(std::monostate()); }
  bool number_integer(int64_t value) override { return Add(value); }
  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Add(std::monostate());
    }
    return Add(static_cast<int64_t>(value));
  }
  bool string(std::string& value) override { return Add(std::move(value)); }

  bool key(std::string& name) override {
    if (depth_ == 1 && !array_.empty()) {
      wanted_ = name == array_;
    } else if (depth_ == entry_depth_ && in_entry_) {
      key_ = std::move(name);
    } else if (depth_ == entry_depth_ + 2 && in_items_) {
      item_key_ = std::move(name);
    }
    return true;
  }

  bool start_object(size_t) override {
    if (!Open()) return false;
    if (depth_ == entry_depth_ - 1 && wanted_) return NotObjects();
    if (depth_ == entry_depth_ && in_array_) {
      in_entry_ = true;
      entry_.fields_.clear();
      entry_.items_.clear();
    } else if (depth_ == entry_depth_ + 2 && in_items_) {
      if (entry_.items_.size() >= kMaxItems) {
        return Refuse(absl::StrCat("an entry has more than ", kMaxItems, " '", items_, "'"));
      }
      entry_.items_.emplace_back();
    }
    return true;
  }
  bool end_object() override {
    if (depth_-- == entry_depth_ && in_entry_) {
      in_entry_ = false;
      status_ = use_(entry_);
      return status_.ok();
    }
    return true;
  }

  bool start_array(size_t) override {
    if (!Open()) return false;
    if (depth_ == entry_depth_ - 1 && wanted_) in_array_ = found_ = true;
    if (in_entry_ && depth_ == entry_depth_ + 1 && !items_.empty() && key_ == items_) {
      in_items_ = true;
    } else if (in_array_ && depth_ == entry_depth_) {
      return NotObjects();
    } else if (in_items_ && depth_ == entry_depth_ + 2) {
      return Refuse(absl::StrCat("'", items_, "' holds what is no object"));
    }
    return true;
  }
  bool end_array() override {
    if (in_items_ && depth_ == entry_depth_ + 1) in_items_ = false;
    if (in_array_ && depth_ == entry_depth_ - 1) in_array_ = false;
    --depth_;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Refuse(absl::StrCat("not a JSON document (byte ", position, ")"));
  }

  // After the last event.
  absl::Status Finish() {
    if (status_.ok() && !found_) Refuse(absl::StrCat("no array '", array_, "'"));
    return status_;
  }

 private:
  bool Refuse(const std::string& what) {
    status_ = absl::InvalidArgumentError(what);
    return false;
  }
  bool NotObjects() { return Refuse(absl::StrCat("'", array_, "' is not an array of objects")); }

  bool Open() {
    if (++depth_ <= kMaxDepth) return true;
    return Refuse(absl::StrCat("nested more than ", kMaxDepth, " levels deep"));
  }

  // A value that is neither object nor array.
  bool Add(JsonEntry::Value value) {
    if (in_entry_ && depth_ == entry_depth_) return AddTo(entry_, key_, std::move(value));
    if (in_items_ && depth_ == entry_depth_ + 2) {
      return AddTo(entry_.items_.back(), item_key_, std::move(value));
    }
    if (in_items_ && depth_ == entry_depth_ + 1) {
      return Refuse(absl::StrCat("'", items_, "' holds what is no object"));
    }
    if (in_array_ && depth_ == entry_depth_ - 1) return NotObjects();
    if (wanted_ && depth_ == entry_depth_ - 2) return NotObjects();
    return true;
  }
  bool AddTo(JsonEntry& entry, const std::string& name, JsonEntry::Value value) {
    if (entry.fields_.size() >= kMaxFields) {
      return Refuse(absl::StrCat("an object has more than ", kMaxFields, " fields"));
    }
    entry.fields_.emplace_back(name, std::move(value));
    return true;
  }

  const std::string array_;
  const std::string items_;
  const std::function<absl::Status(const JsonEntry&)>& use_;
  const int entry_depth_;
  bool wanted_;            // the value at hand is that of `array_`
  bool found_ = false;     // that it is an array
  bool in_array_ = false;  // inside it
  bool in_entry_ = false;
  bool in_items_ = false;
  int depth_ = 0;
  std::string key_;
  std::string item_key_;
  JsonEntry entry_;
  absl::Status status_;
};

absl::Status ForEachJsonEntry(const ByteSource& source, std::string_view array,
                              std::string_view items,
                              const std::function<absl::Status(const JsonEntry&)>& use) {
  ByteStream stream(source);
  JsonEntryReader reader(array, items, use);
  nlohmann::json::sax_parse(ByteIterator(&stream), ByteIterator(), &reader);
  // A source that ended early is the cause of what the parser says then.
  FEDUMM_RETURN_IF_ERROR(stream.status());
  return reader.Finish();
}

absl::Status ForEachJsonEntry(const std::string& path, std::string_view array,
                              std::string_view items,
                              const std::function<absl::Status(const JsonEntry&)>& use) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  if (size > kMaxJsonFileBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", size, " bytes, more than ", kMaxJsonFileBytes));
  }
  const ByteSource source = [&](char* out, size_t count) -> absl::StatusOr<size_t> {
    file.read(out, static_cast<std::streamsize>(count));
    if (file.bad()) return absl::UnavailableError("cannot be read to its end");
    return static_cast<size_t>(file.gcount());
  };
  const absl::Status status = ForEachJsonEntry(source, array, items, use);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status ForEachJsonLine(const std::string& path,
                             const std::function<absl::Status(const JsonEntry&)>& use) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  int64_t number = 0;
  for (const absl::string_view one : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(one).empty()) continue;
    const std::string line = absl::StrCat("[", one, "]");
    size_t done = 0;
    int64_t objects = 0;
    const ByteSource source = [&](char* out, size_t size) -> absl::StatusOr<size_t> {
      const size_t count = line.copy(out, size, done);
      done += count;
      return count;
    };
    absl::Status status = ForEachJsonEntry(source, "", "", [&](const JsonEntry& entry) {
      return ++objects == 1 ? use(entry) : absl::InvalidArgumentError("more than one JSON object");
    });
    if (status.ok() && objects == 0) status = absl::InvalidArgumentError("not a JSON object");
    if (status.ok()) continue;
    return absl::Status(status.code(),
                        absl::StrCat(path, ", line ", number, ": ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace fedumm::model
