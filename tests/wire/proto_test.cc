#include "wire/proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"
#include "wire/protobuf_log.h"

namespace fedumm::wire {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

ConfigRecord EveryKind() {
  return {{"double", -0.5},
          {"int", INT64_MIN},
          {"uint", UINT64_MAX},
          {"small uint", uint64_t{1}},
          {"bool", false},
          {"text", std::string("ä")},
          {"bytes", Bytes{std::string("\0\xff", 2)}},
          {"doubles", std::vector<double>{1.5, -2}},
          {"ints", std::vector<int64_t>{INT64_MIN, INT64_MAX}},
          {"uints", std::vector<uint64_t>{0, UINT64_MAX}},
          {"bools", std::vector<bool>{true, false, true}},
          {"texts", std::vector<std::string>{"", "b"}},
          {"all bytes", std::vector<Bytes>{{""}, {"\xfe"}}},
          {"no doubles", std::vector<double>()},
          {"no texts", std::vector<std::string>()}};
}

TEST(ProtoTest, ConfigRecord_ComesBackWithEveryKindOfValue) {
  EXPECT_THAT(ConfigRecordFromProto(ConfigRecordToProto(EveryKind()), Limits()),
              IsOkAndHolds(Eq(EveryKind())));
}

TEST(ProtoTest, MetricRecord_ComesBackWithEveryKindOfValue) {
  const MetricRecord record{{"double", -0.5},
                            {"int", int64_t{-1}},
                            {"uint", UINT64_MAX},
                            {"doubles", std::vector<double>{1.5}},
                            {"ints", std::vector<int64_t>{-1}},
                            {"uints", std::vector<uint64_t>{1}}};
  EXPECT_THAT(MetricRecordFromProto(MetricRecordToProto(record), Limits()),
              IsOkAndHolds(Eq(record)));
}

TEST(ProtoTest, MetricRecord_ComesBackWithAListOfMillionsOfValues) {
  const MetricRecord record{{"doubles", std::vector<double>(4'000'000, 0.1)}};
  ASSERT_OK_AND_ASSIGN(const MetricRecord parsed,
                       MetricRecordFromProto(MetricRecordToProto(record), Limits()));
  EXPECT_TRUE(parsed == record);
}

TEST(ProtoTest, RecordDict_ComesBackWithItsArraysInline) {
  ASSERT_OK_AND_ASSIGN(const Array brain, Array::Create(DType::kBFloat16, {1}, "\x80\x3f"));
  ASSERT_OK_AND_ASSIGN(const Array wide, Array::Create(DType::kInt8, {int64_t{1} << 40, 0}, ""));
  const RecordDict records{
      {"arrays", ArrayRecord{{"f", Array::FromFloats({1, 2}, std::vector<float>{1, 2})},
                             {"b", brain},
                             {"wide", wide}}},
      {"config", EveryKind()},
      {"metrics", MetricRecord{{"m", 1.0}}}};
  const flwr::proto::RecordDict proto = RecordDictToProto(records);
  EXPECT_THAT(RecordDictFromProto(proto, Limits()), IsOkAndHolds(Eq(records)));
  // A dimension that the proto cannot carry is left to the stream.
  EXPECT_EQ(proto.items(0).array_record().items(2).value().shape_size(), 0);
}

TEST(ProtoTest, RecordDict_RefusesArraysThatContradictTheirStream) {
  RecordDict records{{"a", ArrayRecord{{"x", Array::FromFloats({2}, std::vector<float>{1, 2})}}}};
  flwr::proto::RecordDict proto = RecordDictToProto(records);
  flwr::proto::Array& array =
      *proto.mutable_items(0)->mutable_array_record()->mutable_items(0)->mutable_value();
  array.set_shape(0, -2);
  EXPECT_THAT(RecordDictFromProto(proto, Limits()), StatusIs(kInvalid, HasSubstr("announced")));
  array.set_shape(0, 2);
  array.set_stype("other");
  EXPECT_THAT(RecordDictFromProto(proto, Limits()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("other")));
  proto.mutable_items(0)->clear_value();
  EXPECT_THAT(RecordDictFromProto(proto, Limits()), StatusIs(kInvalid, HasSubstr("not set: a")));
}

TEST(ProtoTest, Records_RefuseRepeatedKeysAndValuesThatAreNotSet) {
  flwr::proto::ConfigRecord proto = ConfigRecordToProto({{"k", true}});
  *proto.add_items() = proto.items(0);
  EXPECT_THAT(ConfigRecordFromProto(proto, Limits()), StatusIs(kInvalid, HasSubstr("repeated")));
  proto.mutable_items(1)->set_key("other");
  EXPECT_THAT(ConfigRecordFromProto(proto, Limits()), IsOk());
  proto.mutable_items(1)->clear_value();
  EXPECT_THAT(ConfigRecordFromProto(proto, Limits()), StatusIs(kInvalid, HasSubstr("not set")));
}

TEST(ProtoTest, Records_HoldTheirLimitsExactly) {
  const flwr::proto::ConfigRecord proto =
      ConfigRecordToProto({{"abc", std::vector<bool>(4)}, {"b", true}});
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_record_items = 2}), IsOk());
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_record_items = 1}), StatusIs(kInvalid));
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_list_values = 4}), IsOk());
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_list_values = 3}), StatusIs(kInvalid));
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_key_bytes = 3}), IsOk());
  EXPECT_THAT(ConfigRecordFromProto(proto, {.max_key_bytes = 2}), StatusIs(kInvalid));
}

TEST(ProtoTest, Metadata_RefusesTextsBeyondTheLimit) {
  const Metadata metadata{.group_id = "12345", .message_type = "train"};
  const flwr::proto::Metadata proto = MetadataToProto(metadata);
  EXPECT_THAT(MetadataFromProto(proto, {.max_key_bytes = 5}), IsOkAndHolds(Eq(metadata)));
  EXPECT_THAT(MetadataFromProto(proto, {.max_key_bytes = 4}),
              StatusIs(kInvalid, HasSubstr("group_id has 5 bytes, limit 4")));
}

TEST(ProtoTest, Error_KeepsCodesThatWeDoNotKnow) {
  const Error error{.code = static_cast<ErrorCode>(-77), .reason = "?"};
  EXPECT_EQ(ErrorFromProto(ErrorToProto(error)), error);
}

TEST(ProtoTest, Scalars_HoldEveryKindButLists) {
  const ConfigRecord config{{"b", true},          {"d", 0.5},         {"i", int64_t{-1}},
                            {"s", std::string()}, {"u", uint64_t{7}}, {"y", Bytes{"\xff"}}};
  ScalarMap scalars;
  ASSERT_THAT(ConfigToScalars(config, scalars), IsOk());
  EXPECT_THAT(ConfigFromScalars(scalars, Limits()), IsOkAndHolds(Eq(config)));
  EXPECT_THAT(ConfigFromScalars(scalars, {.max_record_items = 6}), IsOk());
  EXPECT_THAT(ConfigFromScalars(scalars, {.max_record_items = 5}), StatusIs(kInvalid));
  EXPECT_THAT(ConfigToScalars({{"list", std::vector<bool>()}}, scalars),
              StatusIs(kInvalid, HasSubstr("list")));
  scalars.clear();
  scalars["unset"];
  EXPECT_THAT(ConfigFromScalars(scalars, Limits()), StatusIs(kInvalid));
}

TEST(ProtobufLogTest, TextThatIsNoUtf8WritesNothingToStderr) {
  RedirectProtobufLog();
  flwr::proto::Metadata metadata;
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(metadata.ParseFromString("\x12\x02\xff\xfe"));  // message_id
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace fedumm::wire
