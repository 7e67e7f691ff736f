#include "tests/wire/golden.h"

#include <fstream>
#include <limits>
#include <stdexcept>

#include "absl/strings/escaping.h"

namespace fedumm::wire {
namespace {

std::string Unhex(const nlohmann::json& entry, const char* key) {
  return absl::HexStringToBytes(entry.value(key, ""));
}

std::vector<GoldenEntry> LoadEntries() {
  std::ifstream file(FEDUMM_TEST_DATA "/flower/golden-1.42.0.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  std::vector<GoldenEntry> entries;
  for (const nlohmann::json& json : golden.at("entries")) {
    entries.push_back({.name = json.at("name"),
                       .kind = json.at("kind"),
                       .object_id = json.at("object_id"),
                       .header = json.at("header"),
                       .body_sha256 = json.at("body_sha256"),
                       .content = Unhex(json, "content_hex"),
                       .npy = Unhex(json, "npy_hex"),
                       .size = json.at("size"),
                       .children = json.value("children", std::vector<std::string>()),
                       .metadata_proto = Unhex(json, "metadata_proto_hex"),
                       .wire_message = Unhex(json, "wire_message_without_content_hex"),
                       .object_tree = json.value("object_tree", nlohmann::json())});
  }
  return entries;
}

template <typename T>
Array ArrayOf(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return Array::Create(
             dtype, std::move(shape),
             std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)))
      .value();
}

Array Zeros(int64_t n) {
  return Array::FromFloats({n}, std::vector<float>(static_cast<size_t>(n)));
}

void AddArrays(std::map<std::string, GoldenValue>& values) {
  values["A_f32_2x2"] = Array::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4});
  values["f32_1d_3"] = Array::FromFloats({3}, std::vector<float>{0.5f, -1.25f, 3e38f});
  values["f64_0d"] = Array::FromDoubles({}, std::vector<double>{1.5});
  values["f32_0x4"] = Array::FromFloats({0, 4}, {});
  values["f16_1d"] = ArrayOf<uint16_t>(DType::kFloat16, {3}, {0x3C00, 0x3800, 0xC000});
  values["i64_1d"] = ArrayOf<int64_t>(DType::kInt64, {3}, {1, -2, 3});
  values["bool_1d"] = ArrayOf<uint8_t>(DType::kBool, {2}, {1, 0});
  values["u8_1d"] = ArrayOf<uint8_t>(DType::kUInt8, {5}, {0, 1, 2, 3, 4});
  values["f32_3Mi_zeros"] = Zeros(3 << 20);
  values["f32_5242880_zeros"] = Zeros(5'242'880);
}

void AddRecords(std::map<std::string, GoldenValue>& values) {
  const Array a = std::get<Array>(values.at("A_f32_2x2"));
  values["AR_w_v_same"] = ArrayRecord{{"w", a}, {"v", a}};
  values["AR_order"] =
      ArrayRecord{{"z", a}, {"a", Array::FromFloats({1}, std::vector<float>{7})}, {"m", a}};
  values["AR_unicode"] = ArrayRecord{{"ä", a}};
  values["AR_emoji"] = ArrayRecord{{"\U0001F600/\"\\", a}};
  values["AR_empty"] = ArrayRecord();

  values["CR_mixed"] = ConfigRecord{{"lr", 0.1},       {"n", int64_t{3}},
                                    {"b", true},       {"s", std::string("x")},
                                    {"y", Bytes{"z"}}, {"el", std::vector<bool>()}};
  values["CR_all_types"] = ConfigRecord{
      {"neg", int64_t{-5}},
      {"big", std::numeric_limits<int64_t>::max()},
      {"u", std::numeric_limits<uint64_t>::max()},
      {"zero", int64_t{0}},
      {"f0", 0.0},
      {"false", false},
      {"empty", std::string()},
      {"eb", Bytes()},
      {"li", std::vector<int64_t>{1, -2, 3}},
      {"lf", std::vector<double>{0.5, 1.5}},
      {"lb", std::vector<bool>{true, false}},
      {"ls", std::vector<std::string>{"a", "ä"}},
      {"lby", std::vector<Bytes>{{std::string(1, '\0')}, {"\xff"}}},
      {"lu", std::vector<uint64_t>{uint64_t{1} << 63, 1}},
  };
  values["CR_server_round_1"] = ConfigRecord{{"server-round", int64_t{1}}};
  values["CR_empty"] = ConfigRecord();

  const double infinity = std::numeric_limits<double>::infinity();
  values["MR_basic"] =
      MetricRecord{{"num-examples", int64_t{10}}, {"loss", 0.5}, {"l", std::vector<double>()}};
  values["MR_lists"] = MetricRecord{{"a", std::vector<int64_t>{1, 2}},
                                    {"b", std::vector<double>{1.0}},
                                    {"c", int64_t{-7}},
                                    {"d", uint64_t{1} << 63}};
  values["MR_nan_inf"] = MetricRecord{
      {"nan", std::numeric_limits<double>::quiet_NaN()}, {"inf", infinity}, {"ninf", -infinity}};

  const auto arrays = std::get<ArrayRecord>(values.at("AR_w_v_same"));
  const auto config = std::get<ConfigRecord>(values.at("CR_server_round_1"));
  const auto metrics = std::get<MetricRecord>(values.at("MR_basic"));
  values["RD_arrays_config"] = RecordDict{{"arrays", arrays}, {"config", config}};
  values["RD_config"] = RecordDict{{"config", config}};
  values["RD_empty"] = RecordDict();
  values["RD_reply"] = RecordDict{{"arrays", arrays}, {"metrics", metrics}};
}

void AddMessages(std::map<std::string, GoldenValue>& values) {
  const auto dict = [&values](const char* name) { return std::get<RecordDict>(values.at(name)); };
  Message instruction{.metadata = {.run_id = 7,
                                   .src_node_id = 1,
                                   .dst_node_id = 42,
                                   .group_id = "1",
                                   .message_type = "train",
                                   .created_at = 1'760'000'000.5},
                      .content = dict("RD_config")};
  instruction.metadata.message_id = Golden("M_train_R").object_id;
  values["M_train_R"] = instruction;
  instruction.metadata.src_task_id = 5;
  instruction.metadata.dst_task_id = 6;
  instruction.metadata.message_id = Golden("M_task_ids").object_id;
  values["M_task_ids"] = instruction;
  values["M_error_reply"] =
      Message{.metadata = {.run_id = 7,
                           .message_id = Golden("M_error_reply").object_id,
                           .src_node_id = 42,
                           .dst_node_id = 1,
                           .reply_to_message_id = Golden("M_train_R").object_id,
                           .group_id = "1",
                           .ttl = 43'199,
                           .message_type = "train",
                           .created_at = 1'760'000'001.5},
              .error = Error{.code = ErrorCode::kClientAppRaisedException, .reason = "boom"}};
  const uint64_t run_id = UINT64_MAX - 2;
  const uint64_t node_id = (uint64_t{1} << 63) + 5;
  values["M_train_full"] = Message{.metadata = {.run_id = run_id,
                                                .message_id = Golden("M_train_full").object_id,
                                                .src_node_id = 1,
                                                .dst_node_id = node_id,
                                                .message_type = "train",
                                                .created_at = 1'760'000'000.5},
                                   .content = dict("RD_arrays_config")};
  values["M_train_reply"] =
      Message{.metadata = {.run_id = run_id,
                           .message_id = Golden("M_train_reply").object_id,
                           .src_node_id = node_id,
                           .dst_node_id = 1,
                           .reply_to_message_id = Golden("M_train_full").object_id,
                           .ttl = 43'198.25,
                           .message_type = "train",
                           .created_at = 1'760'000'002.25},
              .content = dict("RD_reply")};
}

}  // namespace

const std::vector<GoldenEntry>& GoldenEntries() {
  static const auto& entries = *new std::vector<GoldenEntry>(LoadEntries());
  return entries;
}

const GoldenEntry& Golden(std::string_view name) {
  for (const GoldenEntry& entry : GoldenEntries()) {
    if (entry.name == name) return entry;
  }
  throw std::out_of_range("no golden entry " + std::string(name));
}

const std::map<std::string, GoldenValue>& GoldenValues() {
  static const auto& values = *[] {
    auto* made = new std::map<std::string, GoldenValue>;
    AddArrays(*made);
    AddRecords(*made);
    AddMessages(*made);
    return made;
  }();
  return values;
}

}  // namespace fedumm::wire
