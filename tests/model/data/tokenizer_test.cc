#include "fedumm/model/tokenizer.h"

#include <filesystem>
#include <fstream>

#include "model/data/byte_level.h"
#include "model/data/regex_split.h"
#include "model/data/utf8.h"
#include "tests/model/data/test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::ReadTestData;
using ::fedumm::testing::ReadTestJson;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

nlohmann::json TinyJson() { return ReadTestJson("tokenizer/tiny_tokenizer.json"); }

Tokenizer Tiny() {
  return Tokenizer::FromTokenizerJson(ReadTestData("tokenizer/tiny_tokenizer.json")).value();
}

TEST(Tokenizer, EncodesAsTheTokenizersLibrary) {
  const nlohmann::json golden = ReadTestJson("tokenizer/tiny_vectors.json");
  const Tokenizer tokenizer = Tiny();
  EXPECT_EQ(tokenizer.vocab_size(), golden["vocab_size"].get<int64_t>());
  for (const auto& [token, id] : golden["special_tokens"].items()) {
    EXPECT_EQ(tokenizer.TokenId(token), id.get<int64_t>());
  }
  ASSERT_EQ(golden["vectors"].size(), 236);
  for (const nlohmann::json& vector : golden["vectors"]) {
    const std::string text = vector["text"];
    const auto ids = vector["ids"].get<std::vector<int64_t>>();
    EXPECT_THAT(tokenizer.Encode(text), IsOkAndHolds(ids)) << text;
    EXPECT_EQ(tokenizer.Decode(ids), Nfc(text).value());
  }
}

TEST(Tokenizer, VocabAndMergesFilesGiveTheSameTokenizer) {
  const nlohmann::json json = TinyJson();
  const std::string folder = std::filesystem::path(ScratchPath("x")).parent_path();
  std::ofstream(folder + "/vocab.json") << json["model"]["vocab"];
  std::ofstream merges(folder + "/merges.txt");
  merges << "#version: 0.2\n";
  for (const nlohmann::json& merge : json["model"]["merges"]) {
    merges << merge[0].get<std::string>() << " " << merge[1].get<std::string>() << "\n";
  }
  merges.close();
  nlohmann::json config;
  for (const nlohmann::json& token : json["added_tokens"]) {
    config["added_tokens_decoder"][std::to_string(token["id"].get<int>())] = token;
  }
  std::ofstream(folder + "/tokenizer_config.json") << config;

  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer, Tokenizer::Load(folder));
  const nlohmann::json vectors = ReadTestJson("tokenizer/tiny_vectors.json");
  for (const nlohmann::json& vector : vectors["vectors"]) {
    EXPECT_THAT(tokenizer.Encode(vector["text"].get<std::string>()),
                IsOkAndHolds(vector["ids"].get<std::vector<int64_t>>()));
  }
}

TEST(Tokenizer, MergesMayBeStringsAndTokenizerJsonComesFirst) {
  nlohmann::json json = TinyJson();
  for (nlohmann::json& merge : json["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const std::string path = ScratchPath("tokenizer.json");
  std::ofstream(path) << json;
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer,
                       Tokenizer::Load(std::filesystem::path(path).parent_path()));
  EXPECT_EQ(tokenizer.Encode("Hello, world!").value(), Tiny().Encode("Hello, world!").value());
  EXPECT_THAT(Tokenizer::Load("/nonexistent"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(Tokenizer, SplitsWordsAsTheReferenceExpression) {
  const nlohmann::json golden = ReadTestJson("tokenizer/qwen_vectors.json");
  const Tokenizer tokenizer = Tiny();
  ASSERT_EQ(golden["pretokenizer_vectors"].size(), 225);
  for (const nlohmann::json& vector : golden["pretokenizer_vectors"]) {
    ASSERT_OK_AND_ASSIGN(const std::string text, Nfc(vector["text"].get<std::string>()));
    EXPECT_THAT(tokenizer.SplitWords(text),
                IsOkAndHolds(vector["pieces"].get<std::vector<std::string>>()));
  }
}

TEST(Tokenizer, TakesTheLongestAddedTokenAtTheLeftmostPlace) {
  nlohmann::json json = TinyJson();
  json["added_tokens"].push_back({{"id", 700}, {"content", "<|im"}});
  json["added_tokens"].push_back({{"id", 701}, {"content", "|im_end|>x"}});
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer, Tokenizer::FromTokenizerJson(json.dump()));
  EXPECT_EQ(tokenizer.vocab_size(), 702);
  EXPECT_THAT(tokenizer.Encode("<|im_end|>"), IsOkAndHolds(ElementsAre(642)));
  EXPECT_THAT(tokenizer.Encode("<|im_end|>|im_end|>x"), IsOkAndHolds(ElementsAre(642, 701)));
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> ids, tokenizer.Encode("<|im_e"));
  EXPECT_EQ(ids.front(), 700);
}

TEST(Tokenizer, ANormalizedAddedTokenIsFoundInTextOfAnyNormalForm) {
  nlohmann::json json = TinyJson();
  json["added_tokens"].push_back({{"id", 700}, {"content", "caf\u00e9"}, {"normalized", true}});
  ASSERT_OK_AND_ASSIGN(const Tokenizer normalized, Tokenizer::FromTokenizerJson(json.dump()));
  EXPECT_THAT(normalized.Encode("caf\u00e9"), IsOkAndHolds(ElementsAre(700)));
  EXPECT_THAT(normalized.Encode("cafe\u0301"), IsOkAndHolds(ElementsAre(700)));
  json["added_tokens"].back()["normalized"] = false;
  ASSERT_OK_AND_ASSIGN(const Tokenizer literal, Tokenizer::FromTokenizerJson(json.dump()));
  EXPECT_THAT(literal.Encode("caf\u00e9"), IsOkAndHolds(ElementsAre(700)));
  EXPECT_THAT(literal.Encode("cafe\u0301"), IsOkAndHolds(::testing::Not(ElementsAre(700))));
}

TEST(Tokenizer, AddedTokensAreFoundAsInTheTokenizersLibrary) {
  for (const nlohmann::json& variant : ReadTestJson("tokenizer/added_tokens.json")) {
    nlohmann::json json = TinyJson();
    if (!variant["normalizer"].get<bool>()) json["normalizer"] = nullptr;
    for (const nlohmann::json& token : variant["added_tokens"]) {
      json["added_tokens"].push_back(token);
    }
    ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer, Tokenizer::FromTokenizerJson(json.dump()));
    for (const nlohmann::json& item : variant["cases"]) {
      EXPECT_THAT(tokenizer.Encode(item["text"].get<std::string>()),
                  IsOkAndHolds(item["ids"].get<std::vector<int64_t>>()))
          << variant["added_tokens"] << item["text"];
    }
  }
}

TEST(Tokenizer, DecodeReplacesBrokenCharactersAndLeavesOutUnknownIds) {
  const Tokenizer tokenizer = Tiny();
  const int64_t lead = tokenizer.TokenId(ToByteLevel("\xe4")).value();
  const int64_t rest = tokenizer.TokenId(ToByteLevel("\xbd")).value();
  const int64_t letter = tokenizer.TokenId("a").value();
  EXPECT_EQ(tokenizer.Decode(std::vector<int64_t>{lead, rest, letter}),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(tokenizer.Decode(std::vector<int64_t>{letter, 99'999, -1, letter}), "aa");
  EXPECT_EQ(tokenizer.Decode(std::vector<int64_t>{641, letter, 642}), "<|im_start|>a<|im_end|>");
  EXPECT_EQ(tokenizer.Decode(std::vector<int64_t>{641, letter, 642}, true), "a");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  EXPECT_THAT(Tiny().Encode("a\xff"), StatusIs(kInvalid));
  EXPECT_THAT(Tiny().SplitWords("\xed\xa0\x80"), StatusIs(kInvalid));
}

TEST(Tokenizer, LongTextTakesLinearTime) {
  const Tokenizer tokenizer = Tiny();
  const std::string text(200'000, 'a');
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> ids, tokenizer.Encode(text));
  EXPECT_EQ(tokenizer.Decode(ids), text);
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> spaces,
                       tokenizer.Encode(std::string(200'000, ' ') + "x"));
  EXPECT_EQ(tokenizer.Decode(spaces).size(), 200'001);
}

TEST(Tokenizer, RefusesWhatItWouldTokenizeDifferently) {
  const auto changed = [](const char* pointer, const nlohmann::json& value) {
    nlohmann::json json = TinyJson();
    json[nlohmann::json::json_pointer(pointer)] = value;
    return Tokenizer::FromTokenizerJson(json.dump()).status();
  };
  EXPECT_THAT(changed("/version", "1.0"), IsOk());
  EXPECT_THAT(changed("/normalizer", nullptr), IsOk());
  EXPECT_THAT(changed("/normalizer/type", "NFKC"), StatusIs(kInvalid, HasSubstr("normalizer")));
  EXPECT_THAT(changed("/model/type", "WordPiece"), StatusIs(kInvalid, HasSubstr("BPE")));
  EXPECT_THAT(changed("/model/byte_fallback", true),
              StatusIs(kInvalid, HasSubstr("byte_fallback")));
  EXPECT_THAT(changed("/model/dropout", 0.1), StatusIs(kInvalid, HasSubstr("dropout")));
  EXPECT_THAT(changed("/pre_tokenizer/pretokenizers/1/use_regex", true),
              StatusIs(kInvalid, HasSubstr("use_regex")));
  EXPECT_THAT(changed("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), StatusIs(kInvalid));
  EXPECT_THAT(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", "("),
              StatusIs(kInvalid, HasSubstr("bad regular expression")));
  EXPECT_THAT(changed("/added_tokens/0/lstrip", true), StatusIs(kInvalid, HasSubstr("lstrip")));
  EXPECT_THAT(changed("/added_tokens/0/id", 5), StatusIs(kInvalid, HasSubstr("another token")));
  EXPECT_THAT(changed("/added_tokens/0/id", -5), StatusIs(kInvalid, HasSubstr("valid id")));
  EXPECT_THAT(changed("/model/vocab/a", 1), StatusIs(kInvalid, HasSubstr("two tokens")));
  EXPECT_THAT(changed("/model/vocab/ \n", 999), StatusIs(kInvalid, HasSubstr("alphabet")));
  EXPECT_THAT(changed("/model/merges/0", "a b c"), StatusIs(kInvalid, HasSubstr("two tokens")));
  EXPECT_THAT(changed("/model/merges/0", nlohmann::json{"z", "z"}),
              StatusIs(kInvalid, HasSubstr("'zz' is not in the vocabulary")));
  EXPECT_THAT(changed("/model/vocab", nlohmann::json::object()), StatusIs(kInvalid));
  EXPECT_THAT(Tokenizer::FromTokenizerJson("[]"), StatusIs(kInvalid));
  EXPECT_THAT(Tokenizer::FromTokenizerJson(""), StatusIs(kInvalid));
}

TEST(ByteLevel, AlphabetCoversEveryByteOnce) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  EXPECT_EQ(FromByteLevel(ToByteLevel(bytes)), bytes);
  EXPECT_EQ(ToByteLevel(" red\n"), "\xc4\xa0red\xc4\x8a");
  EXPECT_EQ(FromByteLevel("a b"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\xe4\xbd\xa0"), std::nullopt);
}

TEST(RegexSplit, KeepsWhatLiesBetweenMatchesAndStopsRunawayExpressions) {
  ASSERT_OK_AND_ASSIGN(const RegexSplit digits, RegexSplit::Compile(R"(\d*)"));
  EXPECT_THAT(digits.Split("a12\xc3\xa9"
                           "3b"),
              IsOkAndHolds(ElementsAre("a", "12", "\xc3\xa9", "3", "b")));
  ASSERT_OK_AND_ASSIGN(const RegexSplit runaway, RegexSplit::Compile(R"((x+x+)+\d)"));
  EXPECT_THAT(runaway.Split(std::string(200, 'x')), StatusIs(kInvalid, HasSubstr("match limit")));
}

TEST(Utf8, ReplacesEachBrokenCharacterOnceAsPythonDoes) {
  const auto fixed = [](std::string_view text) { return EncodeUtf8(DecodeUtf8(text)); };
  const std::string mark = "\xef\xbf\xbd";
  EXPECT_EQ(fixed("\xe4\xbd"), mark);
  EXPECT_EQ(fixed("\xf0\x9f\x98"), mark);
  EXPECT_EQ(fixed("\xf0\x9f\x98"
                  "a"),
            mark + "a");
  EXPECT_EQ(fixed("\xed\xa0\x80"), mark + mark + mark);  // a surrogate
  EXPECT_EQ(fixed("\xc0\xaf\xfe"), mark + mark + mark);
  EXPECT_EQ(fixed("\xe0\x80\x80"), mark + mark + mark);
  EXPECT_EQ(Nfc("e\xcc\x81").value(), "\xc3\xa9");
  EXPECT_EQ(Nfc(std::string_view("\0\xc3\xa9", 3)).value(), std::string_view("\0\xc3\xa9", 3));
}

TEST(RenderChat, InsertsTheSystemPromptAndOpensTheAnswer) {
  const std::vector<ChatMessage> messages = {
      {.role = "user",
       .text = "Please generate image based on the following caption: a photo of two clocks"}};
  EXPECT_EQ(RenderChat(messages, true) + "[IMG]",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease "
            "generate image based on the following caption: a photo of two "
            "clocks<|im_end|>\n<|im_start|>assistant\n[IMG]");
}

TEST(RenderChat, RepeatsThePadForEachImageToken) {
  const std::vector<ChatMessage> messages = {{.role = "system", .text = "Be brief."},
                                             {.role = "user", .text = "What?", .images = {2, 1}},
                                             {.role = "assistant", .text = "A cat."}};
  EXPECT_EQ(RenderChat(messages, false),
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
            "<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
            "<|im_start|>assistant\nA cat.<|im_end|>\n");
}

}  // namespace
}  // namespace fedumm::model
