#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
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
using ::fedumm::testing::StatusIs;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::Optional;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

// A store of objects by id.
class Store {
 public:
  std::string Put(std::string_view type, const std::vector<std::string>& children,
                  std::string_view body) {
    auto bytes = std::make_shared<const std::string>(FormatObject(type, children, body));
    const std::string id = Sha256Hex(*bytes);
    objects_[id] = std::move(bytes);
    return id;
  }
  void Put(const DeflatedMessage& deflated) {
    for (const Object& object : deflated.objects) objects_[object.id] = object.bytes;
  }
  void Replace(const std::string& id, std::string bytes) {
    objects_[id] = std::make_shared<const std::string>(std::move(bytes));
  }
  void Erase(const std::string& id) { objects_.erase(id); }

  absl::StatusOr<Message> Inflate(const std::string& id, const Limits& limits = {},
                                  bool verified = false) const {
    const auto find = [this](std::string_view wanted) {
      const auto found = objects_.find(std::string(wanted));
      return found == objects_.end() ? nullptr : found->second;
    };
    return wire::Inflate(id, find, limits, verified);
  }

  const std::map<std::string, ObjectBytes>& objects() const { return objects_; }

 private:
  std::map<std::string, ObjectBytes> objects_;
};

std::string MessageBody() {
  flwr::proto::Message body;
  body.mutable_metadata()->set_run_id(1);
  return body.SerializeAsString();
}

// The message whose only record is the object `record`.
std::string PutMessage(Store& store, const std::string& record) {
  const std::string dict = store.Put("RecordDict", {record}, PrintIdMap({{"r", record}}));
  return store.Put("Message", {dict}, MessageBody());
}

// The message whose only array is the object `array`.
std::string PutMessageOfArray(Store& store, const std::string& array) {
  return PutMessage(store, store.Put("ArrayRecord", {array}, PrintIdMap({{"a", array}})));
}

std::string PutArray(Store& store, const ArrayFormat& format, const std::string& data) {
  const std::string chunk = store.Put("ArrayChunk", {}, data);
  return store.Put("Array", {chunk}, PrintArrayBody({.format = format, .chunks = {0}}));
}

Array Counting(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0.0f);
  return Array::FromFloats({n}, values);
}

Message MakeMessage(RecordDict content) {
  Message message;
  message.metadata = {.run_id = 5,
                      .src_node_id = 1,
                      .dst_node_id = 9,
                      .message_type = "train",
                      .created_at = 1'760'000'000};
  message.content = std::move(content);
  return message;
}

TEST(InflateTest, MessagesOfAllRecordsComeBackAsTheyWere) {
  const ConfigRecord config{
      {"text", std::string("ä\n")}, {"empty", std::vector<double>()}, {"u", uint64_t{5}}};
  const Message message =
      MakeMessage({{"arrays", ArrayRecord{{"b", Counting(7)},
                                          {"a", Array::FromDoubles({}, std::vector<double>{2})},
                                          {"none", Array()}}},
                   {"config", config},
                   {"metrics", MetricRecord{{"loss", 0.25}}},
                   {"config again", config},
                   {"", ConfigRecord()}});
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_EQ(inflated.content, message.content);
  EXPECT_EQ(inflated.metadata.message_id, deflated.message_id);
  EXPECT_EQ(inflated.metadata.run_id, 5);
  EXPECT_FALSE(inflated.has_error());
}

TEST(InflateTest, ErrorsComeBackAsTheyWere) {
  Message message = MakeMessage({});
  message.content.reset();
  message.error = Error{.code = ErrorCode::kClientAppCrashed, .reason = "gone"};
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  ASSERT_EQ(deflated.objects.size(), 1);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_THAT(inflated.error, Optional(Eq(*message.error)));
  EXPECT_FALSE(inflated.content.has_value());
}

TEST(InflateTest, ArraysAreCutAtTheChunkSizeAndJoinedAgain) {
  const int64_t in_one = (kChunkBytes - 128) / sizeof(float);
  for (const auto& [n, chunks] : std::map<int64_t, int>{
           {in_one - 1, 1}, {in_one, 1}, {in_one + 1, 2}, {2'621'408, 2}, {2'621'409, 3}}) {
    const Message message = MakeMessage({{"r", ArrayRecord{{"a", Counting(n)}}}});
    Deflater deflater;
    const DeflatedMessage deflated = deflater.Deflate(message);
    EXPECT_EQ(deflated.objects.size(), chunks + 4) << n;
    Store store;
    store.Put(deflated);
    ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
    EXPECT_TRUE(inflated.content == message.content) << n;
  }
}

TEST(InflateTest, EqualChunksAreOneObject) {
  const Array zeros = Array::FromFloats({5'242'880}, std::vector<float>(5'242'880));
  const Message message = MakeMessage({{"r", ArrayRecord{{"a", zeros}}}});
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  EXPECT_EQ(deflated.objects.size(), 3 + 4);  // of five chunks, the three in the middle are equal
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_TRUE(inflated.content == message.content);
  // What is named again counts again: two chunks of 5 MiB are stored, four are joined.
  const auto within = [](int64_t bytes) { return Limits{.max_message_bytes = bytes}; };
  EXPECT_THAT(store.Inflate(deflated.message_id, within(7 * int64_t{kChunkBytes})), IsOk());
  EXPECT_THAT(store.Inflate(deflated.message_id, within(6 * int64_t{kChunkBytes})),
              StatusIs(kInvalid, HasSubstr("bytes")));
}

TEST(InflateTest, ArraysOfOneChunkUseItsBytesInPlace) {
  // A header of 20 bytes leaves the floats aligned.
  const Message message = MakeMessage({{"r", ArrayRecord{{"a", Counting(500'000)}}}});
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  const char* data = inflated.content->FindArrays("r")->Find("a")->bytes().data();
  EXPECT_TRUE(std::ranges::any_of(store.objects(), [data](const auto& entry) {
    const std::string& bytes = *entry.second;
    return data > bytes.data() && data < bytes.data() + bytes.size();
  }));
}

TEST(InflateTest, ArraysNamedTwiceShareTheirBytes) {
  const Array array = Counting(3);
  Deflater deflater;
  const DeflatedMessage deflated =
      deflater.Deflate(MakeMessage({{"r", ArrayRecord{{"a", array}, {"b", array}}}}));
  EXPECT_EQ(deflated.objects.size(), 5);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  const ArrayRecord& arrays = *inflated.content->FindArrays("r");
  EXPECT_EQ(arrays.Find("a")->bytes().data(), arrays.Find("b")->bytes().data());
}

TEST(DeflaterTest, MessagesThatShareAModelShareItsObjects) {
  const ArrayRecord model{{"a", Counting(10)}, {"b", Counting(20)}};
  Deflater deflater;
  const DeflatedMessage first = deflater.Deflate(MakeMessage({{"m", model}}));
  Message other = MakeMessage({{"m", model}});
  other.metadata.dst_node_id = 10;
  const DeflatedMessage second = deflater.Deflate(other);
  EXPECT_NE(first.message_id, second.message_id);
  for (size_t i = 0; i < 4; ++i) {  // the chunk and the Array of each
    EXPECT_EQ(first.objects[i].id, second.objects[i].id);
    EXPECT_EQ(first.objects[i].bytes.get(), second.objects[i].bytes.get());
  }
}

TEST(DeflaterTest, OneBufferInTwoShapesIsTwoArrays) {
  const auto buffer = std::make_shared<const std::string>(16, '\1');
  ASSERT_OK_AND_ASSIGN(const Array flat, Array::Create(DType::kFloat32, {4}, buffer, 0));
  ASSERT_OK_AND_ASSIGN(const Array square, Array::Create(DType::kFloat32, {2, 2}, buffer, 0));
  ASSERT_OK_AND_ASSIGN(const Array ints, Array::Create(DType::kInt32, {4}, buffer, 0));
  const Message message =
      MakeMessage({{"r", ArrayRecord{{"f", flat}, {"s", square}, {"i", ints}}}});
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_EQ(inflated.content, message.content);
}

TEST(DeflaterTest, ObjectsComeChildrenFirst) {
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(
      MakeMessage({{"r", ArrayRecord{{"a", Counting(2)}}}, {"c", ConfigRecord{{"k", true}}}}));
  std::set<std::string, std::less<>> before;
  for (const Object& object : deflated.objects) {
    ASSERT_OK_AND_ASSIGN(const ObjectView view, ParseObject(*object.bytes, Limits()));
    for (const std::string_view child : view.children) EXPECT_TRUE(before.contains(child));
    before.insert(object.id);
  }
  EXPECT_EQ(deflated.objects.back().id, deflated.message_id);
}

TEST(InflateTest, BFloat16TravelsUnderAnStypeOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(const Array array,
                       Array::Create(DType::kBFloat16, {2}, std::string("\x80\x3f\x00\xc0", 4)));
  const Message message = MakeMessage({{"r", ArrayRecord{{"a", array}}}});
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  EXPECT_THAT(*deflated.objects[1].bytes, HasSubstr(R"("stype": "fedumm.bfloat16")"));
  EXPECT_THAT(*deflated.objects[0].bytes, HasSubstr("'<u2'"));
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_EQ(inflated.content, message.content);
}

TEST(InflateTest, LegacyArraysSayNothingBesideTheirStream) {
  Store store;
  const std::string data = WriteNpy(Counting(3));
  const std::string array =
      PutArray(store, {.dtype = "", .shape = {}, .stype = "numpy.ndarray"}, data);
  ASSERT_OK_AND_ASSIGN(const Message message, store.Inflate(PutMessageOfArray(store, array)));
  EXPECT_EQ(*message.content->FindArrays("r")->Find("a"), Counting(3));
}

TEST(InflateTest, LegacyArraysWithoutDataAreEmpty) {
  Store store;
  const ArrayFormat format{.dtype = "", .shape = {}, .stype = "numpy.ndarray"};
  const std::string none = store.Put("Array", {}, PrintArrayBody({.format = format, .chunks = {}}));
  ASSERT_OK_AND_ASSIGN(const Message message, store.Inflate(PutMessageOfArray(store, none)));
  EXPECT_EQ(*message.content->FindArrays("r")->Find("a"), Array());
  const std::string bad = store.Put(
      "Array", {},
      PrintArrayBody(
          {.format = {.dtype = "float32", .shape = {}, .stype = "numpy.ndarray"}, .chunks = {}}));
  EXPECT_THAT(store.Inflate(PutMessageOfArray(store, bad)), StatusIs(kInvalid));
}

TEST(InflateTest, ArraysThatAreNotWhatTheyWereAnnouncedAsAreRefused) {
  const std::string data = WriteNpy(Array::FromFloats({2, 1}, std::vector<float>{1, 2}));
  const auto inflate = [&data](ArrayFormat format) {
    Store store;
    return store.Inflate(PutMessageOfArray(store, PutArray(store, format, data)));
  };
  EXPECT_THAT(inflate({.dtype = "float32", .shape = {2, 1}, .stype = "numpy.ndarray"}), IsOk());
  EXPECT_THAT(inflate({.dtype = "<f4", .shape = {2, 1}, .stype = "numpy.ndarray"}), IsOk());
  for (const ArrayFormat& format : std::vector<ArrayFormat>{
           {.dtype = "float64", .shape = {2, 1}, .stype = "numpy.ndarray"},
           {.dtype = ">f4", .shape = {2, 1}, .stype = "numpy.ndarray"},
           {.dtype = "float32", .shape = {1, 2}, .stype = "numpy.ndarray"},
           {.dtype = "float32", .shape = {}, .stype = "numpy.ndarray"},
           {.dtype = "", .shape = {2, 1}, .stype = "numpy.ndarray"},
           {.dtype = "bfloat16", .shape = {2, 1}, .stype = "fedumm.bfloat16"}}) {
    EXPECT_THAT(inflate(format), StatusIs(kInvalid)) << format.dtype;
  }
  EXPECT_THAT(inflate({.dtype = "float32", .shape = {2, 1}, .stype = "pickle"}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("'pickle'")));
}

TEST(InflateTest, MissingOrChangedObjectsAreDataLoss) {
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(
      MakeMessage({{"r", ArrayRecord{{"a", Counting(2)}}}, {"c", ConfigRecord{{"k", true}}}}));
  for (const Object& object : deflated.objects) {
    Store store;
    store.Put(deflated);
    store.Erase(object.id);
    EXPECT_THAT(store.Inflate(deflated.message_id), StatusIs(kDataLoss, HasSubstr(object.id)));
    std::string changed = *object.bytes;
    changed.back() ^= 1;
    store.Replace(object.id, changed);
    EXPECT_THAT(store.Inflate(deflated.message_id),
                StatusIs(kDataLoss, HasSubstr("does not match")));
  }
}

TEST(InflateTest, VerifiedObjectsAreNotHashedAgain) {
  Store store;
  const std::string id =
      PutMessage(store, store.Put("ConfigRecord", {}, ConfigRecordToProto({}).SerializeAsString()));
  flwr::proto::Message body;
  body.mutable_metadata()->set_run_id(2);
  store.Replace(id, FormatObject("Message", {}, body.SerializeAsString()));
  EXPECT_THAT(store.Inflate(id), StatusIs(kDataLoss));
  // Without the hash it is read, and fails only because it has no content.
  EXPECT_THAT(store.Inflate(id, {}, /*verified=*/true), StatusIs(kInvalid));
}

TEST(InflateTest, ObjectsOfTheWrongTypeAreRefused) {
  Store store;
  const std::string config = store.Put("ConfigRecord", {}, "");
  const std::string chunk = store.Put("ArrayChunk", {}, "x");
  const std::string dict = store.Put("RecordDict", {}, "{}");
  EXPECT_THAT(store.Inflate(config), StatusIs(kInvalid, HasSubstr("expected Message")));
  EXPECT_THAT(store.Inflate(store.Put("Message", {config}, MessageBody())),
              StatusIs(kInvalid, HasSubstr("expected RecordDict")));
  EXPECT_THAT(store.Inflate(PutMessage(store, chunk)),
              StatusIs(kInvalid, HasSubstr("expected ArrayRecord")));
  EXPECT_THAT(store.Inflate(PutMessageOfArray(store, chunk)),
              StatusIs(kInvalid, HasSubstr("expected Array")));
  const std::string array =
      store.Put("Array", {dict},
                PrintArrayBody({.format = {.dtype = "", .shape = {}, .stype = "numpy.ndarray"},
                                .chunks = {0}}));
  EXPECT_THAT(store.Inflate(PutMessageOfArray(store, array)),
              StatusIs(kInvalid, HasSubstr("expected ArrayChunk")));
}

TEST(InflateTest, MessagesHaveExactlyOneOfContentAndError) {
  Store store;
  const std::string dict = store.Put("RecordDict", {}, "{}");
  EXPECT_THAT(store.Inflate(store.Put("Message", {dict}, MessageBody())), IsOk());
  EXPECT_THAT(store.Inflate(store.Put("Message", {}, MessageBody())),
              StatusIs(kInvalid, HasSubstr("exactly one")));
  flwr::proto::Message body;
  body.mutable_metadata()->set_run_id(1);
  body.mutable_error()->set_code(2);
  EXPECT_THAT(store.Inflate(store.Put("Message", {}, body.SerializeAsString())), IsOk());
  EXPECT_THAT(store.Inflate(store.Put("Message", {dict}, body.SerializeAsString())),
              StatusIs(kInvalid, HasSubstr("exactly one")));
  body.clear_error();
  body.mutable_content();
  EXPECT_THAT(store.Inflate(store.Put("Message", {dict}, body.SerializeAsString())),
              StatusIs(kInvalid));
  EXPECT_THAT(store.Inflate(store.Put("Message", {dict}, "\xff")),
              StatusIs(kInvalid, HasSubstr("malformed flwr.proto.Message")));
  EXPECT_THAT(store.Inflate("abc"), StatusIs(kInvalid, HasSubstr("no object id")));
}

TEST(InflateTest, BodiesNameTheirChildrenAndNoOthers) {
  Store store;
  const std::string config = store.Put("ConfigRecord", {}, "");
  const std::string metrics = store.Put("MetricRecord", {}, "");
  const auto inflate = [&store](const std::vector<std::string>& children, const IdMap& ids) {
    return store.Inflate(
        store.Put("Message", {store.Put("RecordDict", children, PrintIdMap(ids))}, MessageBody()));
  };
  EXPECT_THAT(inflate({config, metrics}, {{"a", metrics}, {"b", config}}), IsOk());
  EXPECT_THAT(inflate({config}, {{"a", config}, {"b", metrics}}), StatusIs(kInvalid));
  EXPECT_THAT(inflate({config, metrics}, {{"a", config}}), StatusIs(kInvalid));
  EXPECT_THAT(inflate({config}, {{"a", metrics}}), StatusIs(kInvalid));
}

TEST(InflateTest, ArraysUseEachOfTheirChunks) {
  const std::string stream = WriteNpy(Counting(2));
  Store store;
  const std::vector<std::string> chunks{store.Put("ArrayChunk", {}, stream.substr(0, 130)),
                                        store.Put("ArrayChunk", {}, stream.substr(130))};
  const auto inflate = [&](const std::vector<int64_t>& places) {
    const ArrayBody body{.format = {.dtype = "float32", .shape = {2}, .stype = "numpy.ndarray"},
                         .chunks = places};
    return store.Inflate(
        PutMessageOfArray(store, store.Put("Array", chunks, PrintArrayBody(body))));
  };
  EXPECT_THAT(inflate({0, 1}), IsOk());
  EXPECT_THAT(inflate({1, 0}), StatusIs(kInvalid));
  EXPECT_THAT(inflate({0}), StatusIs(kInvalid, HasSubstr("uses 1 of its 2 chunks")));
  EXPECT_THAT(inflate({}), StatusIs(kInvalid));
  EXPECT_THAT(inflate({0, 2}), StatusIs(kInvalid, HasSubstr("uses chunk 2 of 2")));
}

TEST(InflateTest, LimitsOfAMessageHoldExactly) {
  const Array array = Counting(2);
  Deflater deflater;
  // Six objects, the array twice: seven names.
  const DeflatedMessage deflated = deflater.Deflate(
      MakeMessage({{"r", ArrayRecord{{"a", array}, {"b", array}}}, {"c", ConfigRecord()}}));
  Store store;
  store.Put(deflated);
  int64_t bytes = 0;
  for (const Object& object : deflated.objects) bytes += static_cast<int64_t>(object.bytes->size());
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_objects_per_message = 7}), IsOk());
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_objects_per_message = 6}),
              StatusIs(kInvalid, HasSubstr("more than 6 objects")));
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_message_bytes = bytes}), IsOk());
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_message_bytes = bytes - 1}),
              StatusIs(kInvalid, HasSubstr("bytes")));
}

// An array of floats that names one chunk of zeros many times after a first one with its header.
std::string PutRepeatedChunk(Store& store, int64_t num_elements, int64_t times) {
  std::string dict =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", num_elements, ",), }");
  dict.resize(117, ' ');
  const std::string preamble =
      absl::StrCat(absl::string_view("\x93NUMPY\x01\0\x76\0", 10), dict, "\n");
  const std::string first = store.Put("ArrayChunk", {}, preamble);
  const std::string chunk = store.Put("ArrayChunk", {}, std::string(kChunkBytes, '\0'));
  ArrayBody body{.format = {.dtype = "float32", .shape = {num_elements}, .stype = "numpy.ndarray"},
                 .chunks = std::vector<int64_t>(static_cast<size_t>(times) + 1, 1)};
  body.chunks[0] = 0;
  return PutMessageOfArray(store, store.Put("Array", {first, chunk}, PrintArrayBody(body)));
}

TEST(InflateTest, AChunkNamedAMillionTimesIsRefusedBeforeItIsJoined) {
  Store store;
  const std::string message = PutRepeatedChunk(store, /*num_elements=*/100, /*times=*/999'999);
  EXPECT_THAT(store.Inflate(message), StatusIs(kInvalid, HasSubstr("repeat their chunks")));
  EXPECT_THAT(store.Inflate(message, {.max_repeated_bytes = INT64_MAX}),
              StatusIs(kInvalid, HasSubstr("more than 8589934592 bytes")));
}

TEST(InflateTest, RepeatedChunksThatExceedTheAnnouncedShapeAreRefusedBeforeTheyAreJoined) {
  Store store;
  const std::string message = PutRepeatedChunk(store, /*num_elements=*/100, /*times=*/3);
  EXPECT_THAT(store.Inflate(message),
              StatusIs(kInvalid, HasSubstr("its header and shape ask for 528")));
}

TEST(InflateTest, RepeatedChunksAreCountedUpToTheirLimit) {
  constexpr int64_t kTimes = 4;
  Store store;
  const std::string message = PutRepeatedChunk(store, kTimes * int64_t{kChunkBytes} / 4, kTimes);
  const int64_t repeated = (kTimes - 1) * int64_t{kChunkBytes};
  EXPECT_THAT(store.Inflate(message, {.max_repeated_bytes = repeated}), IsOk());
  EXPECT_THAT(store.Inflate(message, {.max_repeated_bytes = repeated - 1}),
              StatusIs(kInvalid, HasSubstr("repeat their chunks")));
}

TEST(InflateTest, ARecordOfSeventeenMegabytesIsOneObject) {
  const Message message =
      MakeMessage({{"r", ConfigRecord{{"blob", Bytes{std::string(17'000'000, 'x')}}}}});
  const DeflatedMessage deflated = Deflater().Deflate(message);
  EXPECT_EQ(deflated.objects.size(), 3);
  Store store;
  store.Put(deflated);
  ASSERT_OK_AND_ASSIGN(const Message inflated, store.Inflate(deflated.message_id));
  EXPECT_TRUE(inflated.content == message.content);
}

TEST(InflateTest, TheValuesOfARecordAreCountedBeforeItIsParsed) {
  const Message message = MakeMessage(
      {{"r", ConfigRecord{{"list", std::vector<double>(50)}, {"x", int64_t{1}}, {"y", "text"}}}});
  const DeflatedMessage deflated = Deflater().Deflate(message);
  Store store;
  store.Put(deflated);
  // Four fields an item, the field of the list's values, and these.
  constexpr int64_t kValues = 3 * 4 + 1 + 50;
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_record_values = kValues}), IsOk());
  EXPECT_THAT(store.Inflate(deflated.message_id, {.max_record_values = kValues - 1}),
              StatusIs(kInvalid, HasSubstr("more than")));
}

}  // namespace
}  // namespace fedumm::wire
