#include "model/data/byte_level.h"

#include <array>

#include "model/data/utf8.h"

namespace fedumm::model {
namespace {

struct Alphabet {
  std::array<char32_t, 256> letters;
  std::array<int, 512> bytes;  // -1 where there is no letter
};

// Printable Latin-1 stands for itself, the other bytes, in their order, for U+0100 onwards.
constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet{};
  for (int& byte : alphabet.bytes) byte = -1;
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const char32_t letter = printable ? static_cast<char32_t>(byte) : next++;
    alphabet.letters[static_cast<size_t>(byte)] = letter;
    alphabet.bytes[letter] = byte;
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string ToByteLevel(std::string_view bytes) {
  std::u32string letters;
  for (const char byte : bytes) letters.push_back(kAlphabet.letters[static_cast<uint8_t>(byte)]);
  return EncodeUtf8(letters);
}

std::optional<std::string> FromByteLevel(std::string_view letters) {
  std::string bytes;
  for (const char32_t letter : DecodeUtf8(letters)) {
    if (letter >= kAlphabet.bytes.size() || kAlphabet.bytes[letter] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.bytes[letter]));
  }
  return bytes;
}

}  // namespace fedumm::model
