#include "fedumm/client_app.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Message Instruction(std::string type) {
  return {.metadata = {.run_id = 7,
                       .message_id = "abc",
                       .src_node_id = 1,
                       .dst_node_id = 42,
                       .group_id = "3",
                       .ttl = 100,
                       .message_type = std::move(type),
                       .created_at = 1000,
                       .src_task_id = 5,
                       .dst_task_id = 6},
          .content = RecordDict()};
}

ClientApp::Handler Answering(std::string text) {
  return [text](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    return RecordDict{{"said", ConfigRecord{{"text", text}}}};
  };
}

std::string Said(const absl::StatusOr<RecordDict>& reply) {
  return reply.ok() ? TextOr(*reply->FindConfig("said"), "text", "") : reply.status().ToString();
}

// Notes when it is entered and left.
Mod Noting(std::string name, std::vector<std::string>& notes) {
  return [name, &notes](const Message& message, Context& context, const ClientAppCall& next) {
    notes.push_back(name + " in");
    auto reply = next(message, context);
    notes.push_back(name + " out");
    return reply;
  };
}

TEST(ClientApp, RunsTheHandlerOfTheTypeAndAction) {
  ClientApp app;
  app.OnTrain(Answering("train")).OnTrain(Answering("warm"), "warm_up").OnQuery(Answering("query"));
  Context context;
  EXPECT_EQ(Said(app.Handle(Instruction("train"), context)), "train");
  EXPECT_EQ(Said(app.Handle(Instruction("train.default"), context)), "train");
  EXPECT_EQ(Said(app.Handle(Instruction("train.warm_up"), context)), "warm");
  EXPECT_EQ(Said(app.Handle(Instruction("query"), context)), "query");
}

TEST(ClientApp, AHandlerThatIsSetTwiceReplacesTheFirst) {
  ClientApp app;
  app.OnTrain(Answering("first")).OnTrain(Answering("second"));
  Context context;
  EXPECT_EQ(Said(app.Handle(Instruction("train"), context)), "second");
}

TEST(ClientApp, NamesTheTypeThatItCannotHandle) {
  ClientApp app;
  app.OnTrain(Answering("train"));
  Context context;
  for (const char* type : {"evaluate", "train.other", "get_parameters", ""}) {
    EXPECT_THAT(app.Handle(Instruction(type), context),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(type)));
  }
}

TEST(ClientApp, TurnsAnExceptionIntoAnError) {
  ClientApp app;
  app.OnTrain([](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    throw std::runtime_error("out of memory");
  });
  app.OnQuery([](const Message&, Context&) -> absl::StatusOr<RecordDict> { throw 1; });
  Context context;
  EXPECT_THAT(app.Handle(Instruction("train"), context),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("out of memory")));
  EXPECT_THAT(app.Handle(Instruction("query"), context), StatusIs(absl::StatusCode::kInternal));
}

TEST(ClientApp, WrapsTheFirstModOutermostAndHandlerModsInside) {
  std::vector<std::string> notes;
  ClientApp app({Noting("a", notes), Noting("b", notes)});
  app.OnTrain(Answering("train"), "default", {Noting("c", notes)});
  Context context;
  EXPECT_THAT(app.Handle(Instruction("train"), context), IsOk());
  EXPECT_THAT(notes, ElementsAre("a in", "b in", "c in", "c out", "b out", "a out"));
}

TEST(ClientApp, AModThatWrapsLaterIsOutside) {
  std::vector<std::string> notes;
  ClientApp app({Noting("a", notes)});
  app.OnTrain(Answering("train"), "default", {Noting("inner", notes)});
  app.Wrap(Noting("b", notes)).Wrap(Noting("c", notes));
  app.OnQuery(Answering("query"));
  Context context;
  EXPECT_EQ(Said(app.Handle(Instruction("train"), context)), "train");
  EXPECT_THAT(notes, ElementsAre("c in", "b in", "a in", "inner in", "inner out", "a out", "b out",
                                 "c out"));
  notes.clear();
  EXPECT_EQ(Said(app.Handle(Instruction("query"), context)), "query");
  EXPECT_THAT(notes, ElementsAre("c in", "b in", "a in", "a out", "b out", "c out"));
}

TEST(ClientApp, ACopySharesTheHandlersStateAndHasItsOwnMods) {
  std::vector<std::string> notes;
  ClientApp app;
  const auto count = std::make_shared<int>(0);
  app.OnTrain([count](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    ++*count;
    return RecordDict();
  });
  ClientApp copy = app;
  copy.Wrap(Noting("copy", notes));
  Context context;
  EXPECT_THAT(app.Handle(Instruction("train"), context), IsOk());
  EXPECT_THAT(notes, ElementsAre());
  EXPECT_THAT(copy.Handle(Instruction("train"), context), IsOk());
  EXPECT_THAT(notes, ElementsAre("copy in", "copy out"));
  EXPECT_EQ(*count, 2);
}

TEST(MakeReply, TurnsTheAddressesRound) {
  const Message reply = MakeReply(Instruction("train"), RecordDict(), 1030);
  EXPECT_EQ(reply.metadata, (Metadata{.run_id = 7,
                                      .src_node_id = 42,
                                      .dst_node_id = 1,
                                      .reply_to_message_id = "abc",
                                      .group_id = "3",
                                      .ttl = 70,
                                      .message_type = "train",
                                      .created_at = 1030,
                                      .src_task_id = 6,
                                      .dst_task_id = 5}));
  EXPECT_TRUE(reply.content.has_value());
  EXPECT_FALSE(reply.has_error());
}

TEST(MakeReply, AReasonOfAnyLanguageTravelsAsItIs) {
  const auto reason_of = [](const std::string& text) {
    return MakeReply(Instruction("train"), absl::InternalError(text), 1030).error->reason;
  };
  EXPECT_EQ(reason_of("Gerät fehlt\n设备丢失\x1b"), "Gerät fehlt\n设备丢失\x1b");
  EXPECT_EQ(reason_of("Ger\xe4t"), "Ger\uFFFDt");  // Protobuf takes UTF-8 only
  std::string text;
  for (int i = 0; i < 1001; ++i) text += "备";
  EXPECT_EQ(reason_of(text), text.substr(0, 3000));
}

TEST(MakeReply, CarriesAnErrorInsteadOfContent) {
  const Message failed = MakeReply(Instruction("train"), absl::InternalError("no memory"), 1030);
  EXPECT_FALSE(failed.content.has_value());
  EXPECT_EQ(failed.error, (Error{ErrorCode::kClientAppRaisedException, "no memory"}));
  const Message unknown = MakeReply(Instruction("x"), absl::UnimplementedError("no handler"), 1030);
  EXPECT_EQ(unknown.error, (Error{ErrorCode::kLoadClientAppFailed, "no handler"}));
}

}  // namespace
}  // namespace fedumm
