// Every golden object both ways: built from its values, and read and printed again.
#include "tests/wire/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "base/sha256.h"
#include "record/npy.h"
#include "tests/testing/status_matchers.h"
#include "wire/body.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::wire {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::testing::Eq;

// Objects by id, as a store keeps them.
using Objects = std::map<std::string, ObjectBytes, std::less<>>;

void AddTo(Objects& objects, const DeflatedMessage& deflated) {
  for (const Object& object : deflated.objects) objects[object.id] = object.bytes;
}

// All objects of all golden values, made once: the large ones take a while.
const Objects& BuiltObjects() {
  static const auto& objects = *[] {
    auto* built = new Objects;
    Deflater deflater;
    const auto add = [&](RecordDict content) {
      AddTo(*built, deflater.Deflate({.metadata = {}, .content = std::move(content)}));
    };
    for (const auto& [name, value] : GoldenValues()) {
      if (const auto* message = std::get_if<Message>(&value)) {
        AddTo(*built, deflater.Deflate(*message));
      } else if (const auto* dict = std::get_if<RecordDict>(&value)) {
        add(*dict);
      } else if (const auto* array = std::get_if<Array>(&value)) {
        add({{"x", ArrayRecord{{"x", *array}}}});
      } else if (const auto* arrays = std::get_if<ArrayRecord>(&value)) {
        add({{"x", *arrays}});
      } else if (const auto* metrics = std::get_if<MetricRecord>(&value)) {
        add({{"x", *metrics}});
      } else {
        add({{"x", std::get<ConfigRecord>(value)}});
      }
    }
    return built;
  }();
  return objects;
}

// The objects of an array that NumPy keeps in a layout which we only read.
Objects ForeignArray(const Array& array, NpyLayout layout, const std::string& dtype) {
  const std::string chunk = FormatObject("ArrayChunk", {}, WriteNpy(array, layout));
  const std::string chunk_id = Sha256Hex(chunk);
  const ArrayBody body{.format = {.dtype = dtype,
                                  .shape = {array.shape().begin(), array.shape().end()},
                                  .stype = "numpy.ndarray"},
                       .chunks = {0}};
  const std::string object = FormatObject("Array", {chunk_id}, PrintArrayBody(body));
  return {{chunk_id, std::make_shared<std::string>(chunk)},
          {Sha256Hex(object), std::make_shared<std::string>(object)}};
}

ObjectBytes Build(const GoldenEntry& entry) {
  Objects objects;
  if (entry.name == "chunk_abc") {
    return std::make_shared<std::string>(FormatObject("ArrayChunk", {}, "abc"));
  }
  if (entry.name == "f32_F_order") {
    objects = ForeignArray(Array::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4}),
                           {.fortran_order = true}, "float32");
  } else if (entry.name == "f32_big_endian") {
    objects =
        ForeignArray(Array::FromFloats({2}, std::vector<float>{1, 2}), {.big_endian = true}, ">f4");
  } else {
    objects = BuiltObjects();
  }
  const auto found = objects.find(entry.object_id);
  return found == objects.end() ? nullptr : found->second;
}

absl::StatusOr<std::string> ReprintBody(const ObjectView& object) {
  const Limits limits;
  const std::string body(object.body);
  if (object.type == "Array") {
    absl::StatusOr<ArrayBody> parsed = ParseArrayBody(body, limits);
    if (!parsed.ok()) return parsed.status();
    return PrintArrayBody(*parsed);
  }
  if (object.type == "ArrayRecord" || object.type == "RecordDict") {
    absl::StatusOr<IdMap> parsed = ParseIdMap(body, limits);
    if (!parsed.ok()) return parsed.status();
    return PrintIdMap(*parsed);
  }
  if (object.type == "ConfigRecord") {
    flwr::proto::ConfigRecord proto;
    proto.ParseFromString(body);
    absl::StatusOr<ConfigRecord> parsed = ConfigRecordFromProto(proto, limits);
    if (!parsed.ok()) return parsed.status();
    return ConfigRecordToProto(*parsed).SerializeAsString();
  }
  if (object.type == "MetricRecord") {
    flwr::proto::MetricRecord proto;
    proto.ParseFromString(body);
    absl::StatusOr<MetricRecord> parsed = MetricRecordFromProto(proto, limits);
    if (!parsed.ok()) return parsed.status();
    return MetricRecordToProto(*parsed).SerializeAsString();
  }
  return body;  // chunks; messages have a test of their own
}

void ExpectSameTree(const flwr::proto::ObjectTree& tree, const nlohmann::json& golden) {
  EXPECT_EQ(tree.object_id(), golden.at("id"));
  ASSERT_EQ(tree.children_size(), golden.at("children").size());
  for (int i = 0; i < tree.children_size(); ++i) {
    ExpectSameTree(tree.children(i), golden.at("children").at(i));
  }
}

class GoldenTest : public ::testing::TestWithParam<GoldenEntry> {};

TEST_P(GoldenTest, IsBuiltByteForByte) {
  const GoldenEntry& entry = GetParam();
  const ObjectBytes built = Build(entry);
  ASSERT_NE(built, nullptr) << "no built object has the id " << entry.object_id;
  EXPECT_EQ(built->size(), entry.size);
  EXPECT_EQ(Sha256Hex(*built), entry.object_id);
  const size_t end = built->find('\0');
  EXPECT_EQ(built->substr(0, end), entry.header);
  EXPECT_EQ(Sha256Hex(std::string_view(*built).substr(end + 1)), entry.body_sha256);
  if (!entry.content.empty()) {
    EXPECT_EQ(*built, entry.content);
  }
}

TEST_P(GoldenTest, IsReadAndPrintedAgain) {
  const GoldenEntry& entry = GetParam();
  const std::string content = entry.content.empty() ? *Build(entry) : entry.content;
  ASSERT_EQ(Sha256Hex(content), entry.object_id);
  ASSERT_OK_AND_ASSIGN(const ObjectView object, ParseObject(content, Limits()));
  EXPECT_EQ(object.type, entry.kind);
  const std::vector<std::string> children(object.children.begin(), object.children.end());
  EXPECT_EQ(children, entry.children);
  ASSERT_OK_AND_ASSIGN(const std::string body, ReprintBody(object));
  EXPECT_EQ(FormatObject(object.type, children, body), content);
}

INSTANTIATE_TEST_SUITE_P(Flower, GoldenTest, ::testing::ValuesIn(GoldenEntries()),
                         [](const auto& info) { return info.param.name; });

TEST(GoldenFileTest, HoldsAllEntries) { EXPECT_EQ(GoldenEntries().size(), 38); }

TEST(GoldenNpyTest, StreamsAreReadAsTheirValuesAndWrittenByteForByte) {
  int compared = 0;
  for (const auto& [name, value] : GoldenValues()) {
    const auto* array = std::get_if<Array>(&value);
    if (array == nullptr || Golden(name).npy.empty()) continue;
    SCOPED_TRACE(name);
    const auto stream = std::make_shared<const std::string>(Golden(name).npy);
    EXPECT_THAT(ReadNpy(stream, 0, Limits()), IsOkAndHolds(Eq(*array)));
    EXPECT_EQ(WriteNpy(*array), *stream);
    ++compared;
  }
  EXPECT_EQ(compared, 8);
}

TEST(GoldenNpyTest, ForeignLayoutsAreReadAsRowMajorLittleEndian) {
  const auto read = [](const char* name) {
    return ReadNpy(std::make_shared<const std::string>(Golden(name).npy), 0, Limits());
  };
  EXPECT_THAT(read("f32_F_order"),
              IsOkAndHolds(Eq(Array::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4}))));
  EXPECT_THAT(read("f32_big_endian"),
              IsOkAndHolds(Eq(Array::FromFloats({2}, std::vector<float>{1, 2}))));
}

class GoldenMessageTest : public ::testing::TestWithParam<std::string> {
 protected:
  const GoldenEntry& entry() const { return Golden(GetParam()); }
  const Message& message() const { return std::get<Message>(GoldenValues().at(GetParam())); }
};

TEST_P(GoldenMessageTest, TravelsByteForByte) {
  EXPECT_EQ(MetadataToProto(message().metadata).SerializeAsString(), entry().metadata_proto);
  EXPECT_EQ(MessageToWire(message()).SerializeAsString(), entry().wire_message);
  flwr::proto::Metadata proto;
  ASSERT_TRUE(proto.ParseFromString(entry().metadata_proto));
  EXPECT_THAT(MetadataFromProto(proto, Limits()), IsOkAndHolds(Eq(message().metadata)));
}

TEST_P(GoldenMessageTest, HasTheTreeOfItsObjects) {
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message());
  EXPECT_EQ(deflated.message_id, entry().object_id);
  ExpectSameTree(deflated.tree, entry().object_tree);
  std::set<std::string> ids;
  for (const Object& object : deflated.objects) ids.insert(object.id);
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> tree_ids, TreeIds(deflated.tree, Limits()));
  EXPECT_EQ(tree_ids.size(), deflated.objects.size());
  EXPECT_EQ(std::set<std::string>(tree_ids.begin(), tree_ids.end()), ids);
}

TEST_P(GoldenMessageTest, IsPutTogetherFromGoldenObjects) {
  const auto find = [](std::string_view id) -> ObjectBytes {
    for (const GoldenEntry& golden : GoldenEntries()) {
      if (golden.object_id == id) return std::make_shared<const std::string>(golden.content);
    }
    return nullptr;
  };
  ASSERT_OK_AND_ASSIGN(const Message inflated, Inflate(entry().object_id, find, Limits()));
  EXPECT_EQ(inflated.metadata, message().metadata);
  EXPECT_EQ(inflated.content, message().content);
  EXPECT_EQ(inflated.error, message().error);
}

INSTANTIATE_TEST_SUITE_P(Flower, GoldenMessageTest,
                         ::testing::Values("M_train_R", "M_error_reply", "M_train_full",
                                           "M_train_reply", "M_task_ids"));

}  // namespace
}  // namespace fedumm::wire
