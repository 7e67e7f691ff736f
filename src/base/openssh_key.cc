#include "base/openssh_key.h"

#include <cstdint>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kMagic = "openssh-key-v1\0"sv;
constexpr std::string_view kEcdsa = "ecdsa-sha2-";
constexpr size_t kBlockBytes = 8;  // what the private part is padded to, without a cipher

absl::Status Damaged(std::string_view where) {
  return absl::InvalidArgumentError(
      absl::StrCat("the OpenSSH key is damaged in its ", Text(where)));
}

// The fields of OpenSSH's formats: 32 bits big-endian, and strings with their length before them.
class Fields {
 public:
  explicit Fields(std::string_view rest) : rest_(rest) {}

  std::optional<uint32_t> Number() {
    if (rest_.size() < 4) return std::nullopt;
    uint32_t number = 0;
    for (int i = 0; i < 4; ++i) number = number << 8 | static_cast<unsigned char>(rest_[i]);
    rest_.remove_prefix(4);
    return number;
  }
  std::optional<std::string_view> String() {
    const std::optional<uint32_t> size = Number();
    if (!size.has_value() || *size > rest_.size()) return std::nullopt;
    const std::string_view text = rest_.substr(0, *size);
    rest_.remove_prefix(*size);
    return text;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

// Type, and of an ECDSA key curve and point: the beginning of public and private parts alike.
absl::StatusOr<OpenSshKey> ParsePublicFields(Fields& fields) {
  const auto type = fields.String();
  if (!type.has_value()) return Damaged("type");
  OpenSshKey key{.type = std::string(*type)};
  if (!absl::StartsWith(Text(*type), Text(kEcdsa))) return key;
  const auto curve = fields.String();
  const auto point = fields.String();
  if (!curve.has_value() || !point.has_value() || type->substr(kEcdsa.size()) != *curve) {
    return Damaged("public part");
  }
  key.curve = *curve;
  key.point = *point;
  return key;
}

// 1, 2, 3, … up to a whole number of blocks.
bool IsPadding(std::string_view bytes, size_t whole) {
  if (bytes.size() >= kBlockBytes || whole % kBlockBytes != 0) return false;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (static_cast<unsigned char>(bytes[i]) != i + 1) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<OpenSshKey> ParseOpenSshPrivateKey(std::string_view binary) {
  if (!absl::StartsWith(Text(binary), Text(kMagic))) return Damaged("header");
  Fields fields(binary.substr(kMagic.size()));
  const auto cipher = fields.String();
  const auto derivation = fields.String();
  const auto derivation_options = fields.String();
  const auto num_keys = fields.Number();
  if (!cipher.has_value() || !derivation.has_value() || !derivation_options.has_value() ||
      num_keys != 1u) {
    return Damaged("header");
  }
  if (*cipher != "none" || *derivation != "none") return OpenSshKey{.encrypted = true};
  const auto public_part = fields.String();
  const auto private_part = fields.String();
  if (!public_part.has_value() || !private_part.has_value() || !fields.rest().empty()) {
    return Damaged("outer fields");
  }
  Fields public_fields(*public_part);
  FEDUMM_ASSIGN_OR_RETURN(const OpenSshKey shown, ParsePublicFields(public_fields));

  Fields inner(*private_part);
  const auto check = inner.Number();
  if (!check.has_value() || check != inner.Number()) return Damaged("check numbers");
  FEDUMM_ASSIGN_OR_RETURN(OpenSshKey key, ParsePublicFields(inner));
  if (key.type != shown.type || key.point != shown.point) return Damaged("public part");
  if (key.curve.empty()) return key;
  const auto secret = inner.String();
  const auto comment = inner.String();
  if (!secret.has_value() || secret->empty() || !comment.has_value() ||
      !IsPadding(inner.rest(), private_part->size())) {
    return Damaged("private part");
  }
  key.secret = *secret;
  return key;
}

absl::StatusOr<OpenSshKey> ParseOpenSshPublicKey(std::string_view line) {
  absl::string_view rest = absl::StripAsciiWhitespace(Text(line));
  if (rest.find_first_of("\r\n") != absl::string_view::npos) {
    return absl::InvalidArgumentError("a public key of OpenSSH's is one line");
  }
  const auto next_word = [&rest] {
    rest = absl::StripLeadingAsciiWhitespace(rest);
    const absl::string_view word = rest.substr(0, rest.find_first_of(" \t"));
    rest.remove_prefix(word.size());
    return word;
  };
  const absl::string_view type = next_word();
  std::string binary;
  const absl::string_view base64 = next_word();
  if (base64.empty() || !absl::Base64Unescape(base64, &binary)) {
    return absl::InvalidArgumentError("the text holds no public key, in PEM or OpenSSH's form");
  }
  Fields fields(binary);
  FEDUMM_ASSIGN_OR_RETURN(OpenSshKey key, ParsePublicFields(fields));
  if (absl::string_view(key.type) != type || (!key.curve.empty() && !fields.rest().empty())) {
    return Damaged("type");
  }
  return key;
}

}  // namespace fedumm
