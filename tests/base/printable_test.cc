#include "base/printable.h"

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"

namespace fedumm {
namespace {

TEST(PrintableTest, TextOfAnyLanguageStaysAsItIs) {
  for (const char* text : {"Gerät fehlt", "设备丢失", "الجهاز مفقود", "устройство", "기기 없음",
                           "נעלם", "👩‍🔬 a 'b' \\n \"c\""}) {
    EXPECT_EQ(Printable(text), text);
    EXPECT_EQ(Quoted(text), absl::StrCat("'", text, "'"));
  }
}

TEST(PrintableTest, ControlCharactersAreEscaped) {
  EXPECT_EQ(Printable(absl::string_view("a\nb\rc\td\0e", 9)), "a\\nb\\rc\\td\\x00e");
  EXPECT_EQ(Printable("\x1b[31mred\x7f"), "\\x1b[31mred\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m\xc2\x85"),
            "\\u009b31m\\u0085");
  EXPECT_EQ(Printable("a\u2028b\u2029c"), "a\\u2028b\\u2029c");
}

TEST(PrintableTest, CharactersThatChangeTheDirectionOfTextAreEscaped) {
  EXPECT_EQ(Printable("user\u202etxt.exe"), "user\\u202etxt.exe");
  EXPECT_EQ(Printable("\u061c\u200e\u200f\u202a\u2066\u2069"),
            "\\u061c\\u200e\\u200f\\u202a\\u2066\\u2069");
}

TEST(PrintableTest, BytesThatAreNotUtf8AreEscapedOneByOne) {
  EXPECT_EQ(Printable("Ger\xe4t"), "Ger\\xe4t");
  EXPECT_EQ(Printable("\xc3"), "\\xc3");                             // cut
  EXPECT_EQ(Printable("\xc0\xaf"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(Printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");           // overlong
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // a surrogate
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  EXPECT_EQ(Printable("\xff\xfe"), "\\xff\\xfe");
}

TEST(PrintableTest, ASecondPassChangesNothing) {
  const std::string once = Printable("Gerät\n\x1b[0m\xff\u202e'\"\\");
  EXPECT_EQ(Printable(once), once);
}

TEST(PrintableTest, LongTextIsCutBetweenTwoCharacters) {
  std::string text;
  for (int i = 0; i < 201; ++i) text += "备";
  EXPECT_EQ(Printable(text), text.substr(0, 600) + "...");
  EXPECT_EQ(Printable(text.substr(0, 600)), text.substr(0, 600));
  EXPECT_EQ(Printable("abc", 2), "ab...");
}

TEST(ValidUtf8Test, OnlyBytesThatAreNotUtf8AreReplaced) {
  EXPECT_EQ(ValidUtf8("Gerät\nfehlt\x1b", 100), "Gerät\nfehlt\x1b");
  EXPECT_EQ(ValidUtf8("Ger\xe4t", 100), "Ger\uFFFDt");
  EXPECT_EQ(ValidUtf8("备备备", 2), "备备");
}

}  // namespace
}  // namespace fedumm
