#include "fedumm/fab.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fab/zip_writer.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

ZipEntry Project() { return {.path = "pyproject.toml", .content = std::string(kProject)}; }
std::string DataPath(const std::string& name) { return FEDUMM_TEST_DATA "/fab/" + name; }

void ExpectRefused(std::string bytes, const std::string& reason) {
  const absl::StatusOr<Fab> fab = Fab::Parse(std::move(bytes));
  EXPECT_EQ(fab.status().code(), absl::StatusCode::kInvalidArgument) << fab.status();
  EXPECT_THAT(std::string(fab.status().message()), HasSubstr(reason));
}
void ExpectEntryRefused(ZipEntry entry, const std::string& reason) {
  ExpectRefused(Bundle({Project(), std::move(entry)}), reason);
}

TEST(FabTest, ABundleOfFlowersIsRead) {
  const absl::StatusOr<Fab> fab = Fab::Load(DataPath("mean-app.fab"));
  ASSERT_TRUE(fab.ok()) << fab.status();
  EXPECT_EQ(fab->id(), "fedumm/mean-app");
  EXPECT_EQ(fab->version(), "1.2.0");
  EXPECT_EQ(fab->hash(), Sha256Hex(ReadFile(DataPath("mean-app.fab")).value()));
  EXPECT_THAT(fab->hash(), ::testing::StartsWith("93b24c55"));  // as `flwr build` named the file
  EXPECT_EQ(fab->config(), (ConfigRecord{{"note", "no note"},
                                         {"num-server-rounds", int64_t{2}},
                                         {"train.rate", 0.5},
                                         {"train.steps", int64_t{1}},
                                         {"verbose", false}}));
}

TEST(FabTest, ABundleOfFlowersNewFormatIsRead) {
  const absl::StatusOr<Fab> fab = Fab::Load(DataPath("mean-app-format1.fab"));
  ASSERT_TRUE(fab.ok()) << fab.status();
  EXPECT_EQ(fab->id(), "fedumm/mean-app");
  EXPECT_EQ(fab->config().size(), 5);
}

TEST(FabTest, StoredAndDeflatedFilesAndFoldersAreRead) {
  const absl::StatusOr<Fab> fab =
      Fab::Parse(Bundle({Project(),
                         {.path = "app/", .mode = 040755},
                         {.path = "app/a.py", .content = std::string(5000, 'a'), .deflate = true},
                         {.path = "app/b.py", .content = "b = 1\n", .mode = 0},
                         {.path = "app/\xc3\xa4.py", .content = "umlaut"}}));
  ASSERT_TRUE(fab.ok()) << fab.status();
  EXPECT_EQ(fab->id(), "us/app");
}

TEST(FabTest, AMissingFileIsNotFound) {
  EXPECT_THAT(Fab::Load(DataPath("none.fab")), StatusIs(absl::StatusCode::kNotFound));
}

TEST(FabTest, WhatIsNoZipIsRefused) {
  ExpectRefused("", "no zip");
  ExpectRefused(std::string(1000, 'x'), "no zip");
  ExpectRefused(std::string((10 << 20) + 1, 'x'), "too many bytes");
}

TEST(FabTest, EveryCutAndEveryChangedByteOfAZipIsRefused) {
  const std::string whole = Bundle(kProject);
  ASSERT_TRUE(Fab::Parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(Fab::Parse(whole.substr(0, size)).ok()) << size;
  }
  const size_t content = whole.find("name");  // inside of pyproject.toml
  for (size_t i = content; i < content + 20; ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(Fab::Parse(changed).ok()) << i;
  }
}

TEST(FabTest, BytesAroundTheZipAreRefused) {
  const std::string whole = Bundle(kProject);
  ExpectRefused(whole + "x", "follows its end");
  ExpectRefused("x" + whole, "belong to nothing");
  // Two ends: readers differ in which of them they take.
  ExpectEntryRefused({.path = "second.zip", .content = whole}, "follows its end");
}

TEST(FabTest, PathsThatLeadOutOfTheBundleAreRefused) {
  for (const char* const path : {"../a", "a/../../b", "/etc/passwd", "./a", "a//b", "a/.", ".."}) {
    ExpectEntryRefused({.path = path}, "lead out");
  }
  for (const char* const path : {"a\\b", "C:/a", "a\nb", "a\x7f"}) {
    ExpectEntryRefused({.path = path}, "character");
  }
  ExpectEntryRefused({.path = ""}, "no path");
  ExpectEntryRefused({.path = std::string(1025, 'a')}, "very long");
}

TEST(FabTest, LinksAndDevicesAreRefused) {
  ExpectEntryRefused({.path = "a", .content = "/etc/passwd", .mode = 0120777}, "a link");
  ExpectEntryRefused({.path = "a", .mode = 0020644}, "a link or a device");
  ExpectEntryRefused({.path = "a/", .mode = 0120777}, "a link");
}

TEST(FabTest, EncryptedFilesAndUnknownMethodsAreRefused) {
  ExpectEntryRefused({.path = "a", .content = "abcdefghijklmnop", .flags = 0x0801}, "encrypted");
  ExpectEntryRefused({.path = "a", .content = "abc", .method = 14}, "unknown way: 14");
}

TEST(FabTest, DoubledPathsAreRefused) {
  ExpectEntryRefused({.path = "pyproject.toml", .content = "x"}, "broken");
  ExpectRefused(Bundle({Project(), {.path = "a", .content = "x"}, {.path = "a/b"}}),
                "a file and a folder");
}

TEST(FabTest, ZipBombsAreRefusedBeforeTheyAreUnpacked) {
  ExpectEntryRefused({.path = "a", .content = std::string(17 << 20, 'a'), .deflate = true},
                     "too many bytes");
  ExpectEntryRefused({.path = "a", .content = std::string(2 << 20, 'a'), .deflate = true},
                     "no source code");
  // Each one below the limits, together above.
  const std::string half_mib(1 << 19, 'a');
  std::vector<ZipEntry> many = {Project()};
  for (int i = 0; i < 129; ++i) {
    many.push_back({.path = absl::StrCat(i), .content = half_mib, .deflate = true});
  }
  ExpectRefused(Bundle(many), "unpacks to more than");
  // One that says that it is small.
  ExpectEntryRefused(
      {.path = "a", .content = std::string(2 << 20, 'a'), .deflate = true, .declared = 100}, "'a'");
}

TEST(FabTest, TooManyEntriesAreRefused) {
  ZipWriter zip;
  for (int i = 0; i <= 10'000; ++i) zip.Add({.path = absl::StrCat(i)});
  ExpectRefused(zip.Finish(), "too many entries: 10001");
}

TEST(FabTest, TheListOfFilesMustFit) {
  ZipWriter none;
  none.Add(Project());
  ExpectRefused(none.Finish(), "no .info/CONTENT");
  const std::string hash = Sha256Hex(kProject);
  const std::string bits = absl::StrCat(kProject.size() * 8);
  const std::string right = absl::StrCat("pyproject.toml,", hash, ",", bits);
  const auto with_list = [](const std::string& list) {
    ZipWriter zip;
    zip.Add(Project());
    zip.Add({.path = ".info/CONTENT", .content = list});
    return zip.Finish();
  };
  EXPECT_TRUE(Fab::Parse(with_list(right)).ok());
  EXPECT_TRUE(Fab::Parse(with_list(right + "\n")).ok());
  for (const std::string& list :
       {std::string(), absl::StrCat("pyproject.toml,", hash), absl::StrCat(right, "0"),
        absl::StrCat("pyproject.toml,", std::string(64, '0'), ",", bits),
        absl::StrCat(right, "\n", right), absl::StrCat(right, "\nother.py,", hash, ",", bits)}) {
    ExpectRefused(with_list(list), "does not match");
  }
  ZipWriter unlisted;
  unlisted.Add(Project());
  unlisted.Add({.path = "a.py"});
  unlisted.Add({.path = ".info/CONTENT", .content = right});
  ExpectRefused(unlisted.Finish(), "does not list 'a.py'");
}

TEST(FabTest, WhatANodeNeedsMustBeInTheProject) {
  ExpectRefused(Bundle(std::vector<ZipEntry>{{.path = "a.py"}}), "no pyproject.toml");
  ExpectRefused(Bundle("not toml ="), "line 1");
  for (const std::string key : {"name", "version", "publisher", "clientapp", "serverapp"}) {
    std::string project(kProject);
    project.replace(project.find(key), key.size(), "other");
    ExpectRefused(Bundle(project), key);
  }
  for (const std::string text : {"../app", "a b", "", "a/b"}) {
    std::string project(kProject);
    project.replace(project.find("\"app\""), 5, "\"" + text + "\"");
    ExpectRefused(Bundle(project), "project.name cannot be part of a path");
  }
}

TEST(FabTest, NestedConfigIsFlattened) {
  const absl::StatusOr<Fab> fab = Fab::Parse(Bundle(absl::StrCat(std::string(kProject), R"(
[tool.flwr.app.config]
a = 1
b.c = -2.5
"x.y" = "text"
[tool.flwr.app.config.deep.er]
z = true
)")));
  ASSERT_TRUE(fab.ok()) << fab.status();
  EXPECT_EQ(fab->config(),
            (ConfigRecord{{"a", int64_t{1}}, {"b.c", -2.5}, {"deep.er.z", true}, {"x.y", "text"}}));
}

TEST(FabTest, AConfigThatFlowerHasNoTypeForIsRefusedByItsKey) {
  const auto with = [](const std::string& config) {
    return Bundle(absl::StrCat(std::string(kProject), "[tool.flwr.app.config]\n", config));
  };
  ExpectRefused(with("a.list = [1, 2]"), "config.a.list");
  ExpectRefused(with("a.date = 2024-10-01"), "config.a.date");
  ExpectRefused(with("\"a.b\" = 1\na.b = 2"), "config.a.b is there twice");
  std::string project(kProject);
  project.insert(project.find("publisher"), "config = 1\n");
  ExpectRefused(Bundle(project), "config is no table");
}

TEST(FabTest, TextsMayHoldAnyCharacterAndNothingElseMay) {
  const auto with = [](const std::string& lines) {
    return Fab::Parse(
        Bundle(absl::StrCat(std::string(kProject), "[tool.flwr.app.config]\n", lines)));
  };
  const auto fab = with(
      "a = \"\xc3\xa4~~e4\" # \xef\xb1\xbf\n\"\xef\xb1\xbf\" = '\xf0\x9f\x8c\xbb'\n"
      "b = \"\"\"x\\\n \xef\xb1\xbfy\"\"\"");
  ASSERT_TRUE(fab.ok()) << fab.status();
  EXPECT_EQ(TextOr(fab->config(), "a", ""), "\xc3\xa4~~e4");
  EXPECT_EQ(TextOr(fab->config(), "b", ""), "x\xef\xb1\xbfy");
  EXPECT_EQ(TextOr(fab->config(), "\xef\xb1\xbf", ""), "\xf0\x9f\x8c\xbb");
  for (const std::string line : {"\xef\xb1\xbf = 1", "a = 1 \xef\xb1\xbf", "a = +i\"\xc9\x8a\"",
                                 "a = \"\xc3\"", "a = \"\xed\xa0\x80\"", "a = \"\xc0\xaf\""}) {
    EXPECT_FALSE(with(line).ok()) << line;
  }
}

TEST(FabTest, DeepTablesAreRefusedBeforeTheyAreBuilt) {
  std::string deep = "[a";
  for (int i = 0; i < 500'000; ++i) deep += ".a";
  ExpectRefused(Bundle(absl::StrCat(std::string(kProject), deep, "]")), "too many dotted keys");
  // Behind a text that ends with a quote of its own.
  std::string hidden = "x = [\"\"\"a\"\"\"\", {a";
  for (int i = 0; i < 3000; ++i) hidden += ".a";
  ExpectRefused(Bundle(absl::StrCat(std::string(kProject), hidden, " = 1}]")),
                "too many dotted keys");
  // Dots in texts and comments are no keys.
  const std::string dots(5000, '.');
  EXPECT_TRUE(Fab::Parse(Bundle(absl::StrCat(std::string(kProject), "# ", dots, "\n[x]\na = \"\\\"",
                                             dots, "\"\nb = '''\n", dots, "'''")))
                  .ok());
}

}  // namespace
}  // namespace fedumm
