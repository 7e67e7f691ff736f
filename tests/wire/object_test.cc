#include "wire/object.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"
#include "wire/body.h"
#include "wire/json.h"

namespace fedumm::wire {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string Id(int n) {
  std::string digits = std::to_string(n);
  return std::string(64 - digits.size(), '0') + digits;
}

std::string WithNul(std::string header, const std::string& body) {
  return header + std::string(1, '\0') + body;
}

TEST(ObjectTest, ParseObject_ReadsTypeChildrenAndBody) {
  const std::string bytes = FormatObject("Array", {Id(1), Id(2)}, "body");
  EXPECT_EQ(bytes, WithNul("Array " + Id(1) + "," + Id(2) + " 4", "body"));
  ASSERT_OK_AND_ASSIGN(const ObjectView view, ParseObject(bytes, Limits()));
  EXPECT_EQ(view.type, "Array");
  EXPECT_THAT(view.children, ElementsAre(Id(1), Id(2)));
  EXPECT_EQ(view.body, "body");
}

TEST(ObjectTest, ParseObject_RefusesWhatIsNotStrictlyWellFormed) {
  const std::string upper = std::string(63, '0') + "A";
  for (const std::string& bytes : std::vector<std::string>{
           "",
           "ArrayChunk  3",
           WithNul("", ""),
           WithNul("ArrayChunk 0", ""),
           WithNul("ArrayChunk   0", ""),
           WithNul(" ArrayChunk  0", ""),
           WithNul("arraychunk  0", ""),
           WithNul("Thing  0", ""),
           WithNul("ArrayChunk  3", "ab"),
           WithNul("ArrayChunk  3", "abcd"),
           WithNul("ArrayChunk  03", "abc"),
           WithNul("ArrayChunk  +3", "abc"),
           WithNul("ArrayChunk  0_3", "abc"),
           WithNul("ArrayChunk  3 ", "abc"),
           WithNul("ArrayChunk  ", ""),
           WithNul("ArrayChunk  -0", ""),
           WithNul("ArrayChunk " + Id(1) + " 0", ""),
           WithNul("ConfigRecord " + Id(1) + " 0", ""),
           WithNul("MetricRecord " + Id(1) + " 0", ""),
           WithNul("Message " + Id(1) + "," + Id(2) + " 0", ""),
           WithNul("Array " + upper + " 0", ""),
           WithNul("Array " + Id(1).substr(1) + " 0", ""),
           WithNul("Array " + Id(1) + ", 0", ""),
           WithNul("Array ," + Id(1) + " 0", ""),
           WithNul("Array " + Id(1) + ";" + Id(2) + " 0", ""),
           WithNul("Array " + Id(1) + "," + Id(1) + " 0", ""),
           WithNul("Array " + Id(1) + " " + Id(2) + " 0", ""),
       }) {
    EXPECT_THAT(ParseObject(bytes, Limits()), StatusIs(kInvalid)) << bytes;
  }
}

TEST(ObjectTest, ParseObject_HoldsItsLimitsExactly) {
  const std::string object = FormatObject("Array", {Id(1), Id(2)}, "body");
  const int64_t size = static_cast<int64_t>(object.size());
  const int64_t header = size - 5;
  EXPECT_THAT(ParseObject(object, {.max_object_bytes = size}), IsOk());
  EXPECT_THAT(ParseObject(object, {.max_object_bytes = size - 1}), StatusIs(kInvalid));
  EXPECT_THAT(ParseObject(object, {.max_header_bytes = header}), IsOk());
  EXPECT_THAT(ParseObject(object, {.max_header_bytes = header - 1}), StatusIs(kInvalid));
  EXPECT_THAT(ParseObject(object, {.max_objects_per_message = 2}), IsOk());
  EXPECT_THAT(ParseObject(object, {.max_objects_per_message = 1}), StatusIs(kInvalid));
}

TEST(ObjectTest, QuoteJson_EscapesAsPythonDoes) {
  EXPECT_EQ(QuoteJson("a/b'~"), R"("a/b'~")");
  EXPECT_EQ(QuoteJson("\"\\\n\r\t\f\b"), R"("\"\\\n\r\t\f\b")");
  EXPECT_EQ(QuoteJson(std::string("\0\x1f\x7f", 3)), R"("\u0000\u001f\u007f")");
  EXPECT_EQ(QuoteJson("ä€😀"), R"("\u00e4\u20ac\ud83d\ude00")");
}

TEST(ObjectTest, QuoteJson_ReplacesWhatIsNoUtf8) {
  for (const char* text : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80"}) {
    EXPECT_THAT(QuoteJson(text), HasSubstr("\\ufffd"));
  }
}

TEST(ObjectTest, EveryCodePointGoesThroughJsonUnchanged) {
  std::string text;
  for (const char* piece :
       {"ascii \x01\x7f", "\u0080\u07ff", "\u0800\uffff", "\U00010000\U0010ffff"}) {
    text += piece;
  }
  const std::string quoted = QuoteJson(text);
  EXPECT_THAT(JsonReader(quoted).String(1000), IsOkAndHolds(Eq(text)));
  const std::string raw = "\"" + text.substr(7) + "\"";
  EXPECT_THAT(JsonReader(raw).String(1000), IsOkAndHolds(Eq(text.substr(7))));
}

TEST(ObjectTest, JsonStringsThatAreNoTextAreRefused) {
  for (const char* json : {"", "\"", "\"a", "a\"", "\"\n\"", "\"\xff\"", "\"\xed\xa0\x80\"",
                           R"("\x")", R"("\u12")", R"("\u12g4")", R"("\ud83d")", R"("\ud83d\n")",
                           R"("\ud83d\u0041")", R"("\ude00\ud83d")", "\"\\"}) {
    EXPECT_THAT(JsonReader(json).String(1000), StatusIs(kInvalid)) << json;
  }
}

TEST(ObjectTest, ArrayBody_IsReadInAnyOrderOfItsKeys) {
  const ArrayBody body{.format = {.dtype = "float32", .shape = {2, 0}, .stype = "numpy.ndarray"},
                       .chunks = {0, 1, 0}};
  EXPECT_THAT(ParseArrayBody(PrintArrayBody(body), Limits()), IsOkAndHolds(Eq(body)));
  EXPECT_THAT(ParseArrayBody("{ \"arraychunk_ids\":[0,1,0],\"stype\":\"numpy.ndarray\" ,"
                             "\"shape\":[2,0],\"dtype\":\"float32\"}\n",
                             Limits()),
              IsOkAndHolds(Eq(body)));
}

TEST(ObjectTest, ArrayBody_RefusesOtherJson) {
  for (const char* json :
       {"", "[]", "{}", R"({"dtype": "f", "shape": [], "stype": "n"})",
        R"({"dtype": "f", "dtype": "f", "shape": [], "stype": "n"})",
        R"({"dtype": "f", "shape": [], "stype": "n", "arraychunk_ids": [], "x": 1})",
        R"({"dtype": "f", "shape": [-1], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": "f", "shape": [1.0], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": "f", "shape": [1,], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": "f", "shape": [01], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": "f", "shape": [9223372036854775808], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": 1, "shape": [], "stype": "n", "arraychunk_ids": []})",
        R"({"dtype": "f", "shape": [], "stype": "n", "arraychunk_ids": []} x)",
        R"({"dtype": "f", "shape": [], "stype": "n", "arraychunk_ids": [])"}) {
    EXPECT_THAT(ParseArrayBody(json, Limits()), StatusIs(kInvalid)) << json;
  }
}

TEST(ObjectTest, IdMap_KeepsOrderAndRefusesRepeatedNamesAndBadIds) {
  const IdMap ids{{"z", Id(1)}, {"a", Id(2)}, {"m", Id(1)}};
  EXPECT_THAT(ParseIdMap(PrintIdMap(ids), Limits()), IsOkAndHolds(Eq(ids)));
  EXPECT_THAT(ParseIdMap(PrintIdMap({{"a", Id(1)}, {"a", Id(2)}}), Limits()),
              StatusIs(kInvalid, HasSubstr("repeated name in a record: a")));
  EXPECT_THAT(ParseIdMap(R"({"a": "abc"})", Limits()), StatusIs(kInvalid));
  EXPECT_THAT(ParseIdMap(R"({"a": 1})", Limits()), StatusIs(kInvalid));
  EXPECT_THAT(ParseIdMap(R"({"a": {}})", Limits()), StatusIs(kInvalid));
}

TEST(ObjectTest, Bodies_HoldTheirLimitsExactly) {
  const std::string two = PrintIdMap({{"four", Id(1)}, {"b", Id(2)}});
  EXPECT_THAT(ParseIdMap(two, {.max_record_items = 2}), IsOk());
  EXPECT_THAT(ParseIdMap(two, {.max_record_items = 1}), StatusIs(kInvalid));
  EXPECT_THAT(ParseIdMap(two, {.max_key_bytes = 4}), IsOk());
  EXPECT_THAT(ParseIdMap(two, {.max_key_bytes = 3}), StatusIs(kInvalid));
  const std::string array = PrintArrayBody(
      {.format = {.dtype = "f", .shape = {1, 1}, .stype = "n"}, .chunks = {0, 0, 0}});
  EXPECT_THAT(ParseArrayBody(array, {.max_list_values = 3, .max_array_dims = 2}), IsOk());
  EXPECT_THAT(ParseArrayBody(array, {.max_list_values = 2}), StatusIs(kInvalid));
  EXPECT_THAT(ParseArrayBody(array, {.max_array_dims = 1}), StatusIs(kInvalid));
}

flwr::proto::ObjectTree Leaf(int n) {
  flwr::proto::ObjectTree tree;
  tree.set_object_id(Id(n));
  return tree;
}

TEST(ObjectTest, TreeIds_GivesChildrenBeforeParentsAndEachIdOnce) {
  flwr::proto::ObjectTree tree = Leaf(1);
  flwr::proto::ObjectTree& left = *tree.add_children() = Leaf(2);
  *left.add_children() = Leaf(4);
  flwr::proto::ObjectTree& right = *tree.add_children() = Leaf(3);
  *right.add_children() = Leaf(4);
  EXPECT_THAT(TreeIds(tree, Limits()), IsOkAndHolds(ElementsAre(Id(4), Id(2), Id(3), Id(1))));
}

TEST(ObjectTest, TreeIds_HoldsItsLimitsExactly) {
  flwr::proto::ObjectTree chain = Leaf(1);
  flwr::proto::ObjectTree* end = &chain;
  for (int i = 2; i <= 6; ++i) end = &(*end->add_children() = Leaf(i));
  EXPECT_THAT(TreeIds(chain, {.max_tree_depth = 6}), IsOk());
  EXPECT_THAT(TreeIds(chain, {.max_tree_depth = 5}), StatusIs(kInvalid, HasSubstr("deeper")));
  EXPECT_THAT(TreeIds(chain, {.max_objects_per_message = 6}), IsOk());
  EXPECT_THAT(TreeIds(chain, {.max_objects_per_message = 5}),
              StatusIs(kInvalid, HasSubstr("more than 5 nodes")));
  // The same id a thousand times is a thousand nodes.
  flwr::proto::ObjectTree wide = Leaf(1);
  for (int i = 0; i < 1000; ++i) *wide.add_children() = Leaf(2);
  EXPECT_THAT(TreeIds(wide, {.max_objects_per_message = 1001}), IsOk());
  EXPECT_THAT(TreeIds(wide, {.max_objects_per_message = 1000}), StatusIs(kInvalid));
  end->set_object_id("");
  EXPECT_THAT(TreeIds(chain, Limits()), StatusIs(kInvalid, HasSubstr("no object id")));
}

TEST(ObjectTest, TreeIds_NeedsNoStackForDepth) {
  flwr::proto::ObjectTree deep = Leaf(1);
  flwr::proto::ObjectTree* end = &deep;
  for (int i = 0; i < 5000; ++i) end = &(*end->add_children() = Leaf(1));
  EXPECT_THAT(TreeIds(deep, {.max_tree_depth = 5001}), IsOkAndHolds(ElementsAre(Id(1))));
  EXPECT_THAT(TreeIds(deep, Limits()), StatusIs(kInvalid, HasSubstr("deeper than 6")));
}

TEST(ObjectTest, CheckRecordSizes_CountsIntegersAsTheyAreWritten) {
  const auto size_check = [](const ConfigRecord& record) {
    Message message;
    message.content = RecordDict{{"config", record}};
    return CheckRecordSizes(message, {.max_object_bytes = 1000});
  };
  EXPECT_THAT(size_check({{"mask", std::vector<int64_t>(900, -1)}}), IsOk());
  EXPECT_THAT(size_check({{"mask", std::vector<int64_t>(200, INT64_MIN)}}),
              StatusIs(kInvalid, HasSubstr("record 'config' has 2004 bytes, limit 1000")));
  EXPECT_THAT(size_check({{"mask", std::vector<uint64_t>(200, UINT64_MAX)}}), StatusIs(kInvalid));
  EXPECT_THAT(size_check({{"mask", std::vector<bool>(900, true)}}), IsOk());
}

}  // namespace
}  // namespace fedumm::wire
