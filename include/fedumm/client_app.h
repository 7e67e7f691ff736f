#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/context.h"
#include "fedumm/message.h"
#include "fedumm/mod.h"

namespace fedumm {

// What a node does with a message. Build it once, before it is used; Handle may then be called from
// several threads if the handlers allow it. A copy has the same handlers, which share their state,
// and a list of mods of its own.
//
//   ClientApp app;
//   app.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
//     RecordDict reply = *message.content;  // the arrays go back as they came
//     reply.Set("metrics", MetricRecord{{"num-examples", int64_t{1}}});
//     return reply;
//   });
class ClientApp {
 public:
  using Handler = ClientAppCall;

  // `mods` wrap every message, the first one outermost.
  explicit ClientApp(std::vector<Mod> mods = {}) : mods_(std::move(mods)) {}

  // The handler of a message type, and of an action of it ("train.warm_up" is OnTrain(…,
  // "warm_up")). A handler that is set twice replaces the first. `mods` wrap this handler only,
  // inside the app's own.
  ClientApp& OnTrain(Handler handler, std::string_view action = "default",
                     std::vector<Mod> mods = {});
  ClientApp& OnEvaluate(Handler handler, std::string_view action = "default",
                        std::vector<Mod> mods = {});
  ClientApp& OnQuery(Handler handler, std::string_view action = "default",
                     std::vector<Mod> mods = {});

  // Puts `mod` around every message of the app, outside all mods that it has: of two calls the
  // second one's mod sees an instruction first and a reply last. Works on any app, one that a
  // library function returned included.
  ClientApp& Wrap(Mod mod);

  // Runs the handler for the message's type. UNIMPLEMENTED, naming the type, if there is none. An
  // exception of the handler becomes INTERNAL.
  absl::StatusOr<RecordDict> Handle(const Message& message, Context& context) const;

 private:
  ClientApp& On(std::string_view type, std::string_view action, Handler handler,
                std::vector<Mod> mods);

  std::vector<Mod> mods_;
  std::map<std::string, Handler, std::less<>> handlers_;  // by full type: "train.default"
};

// The reply that carries `outcome`: its content, or an error message (code 2, or 1 for
// UNIMPLEMENTED) with the status text. Type, group and run are the instruction's, source and
// destination are swapped, ttl is what remains of the instruction's at `now_seconds`. message_id
// stays empty.
Message MakeReply(const Message& instruction, absl::StatusOr<RecordDict> outcome,
                  double now_seconds);

}  // namespace fedumm
