#include "fedumm/client_app.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/printable.h"
#include "base/text.h"

namespace fedumm {
namespace {

// `call` inside `mods`, the first one outermost. The mods must outlive the result.
ClientAppCall WrappedIn(const std::vector<Mod>& mods, ClientAppCall call) {
  for (auto mod = mods.rbegin(); mod != mods.rend(); ++mod) {
    call = [&mod = *mod, next = std::move(call)](const Message& message, Context& context) {
      return mod(message, context, next);
    };
  }
  return call;
}

absl::StatusOr<RecordDict> NoHandler(const Message& message, Context&) {
  return absl::UnimplementedError(
      absl::StrCat("no handler for message type: ", message.metadata.message_type));
}

}  // namespace

ClientApp& ClientApp::OnTrain(Handler handler, std::string_view action, std::vector<Mod> mods) {
  return On(message_type::kTrain, action, std::move(handler), std::move(mods));
}

ClientApp& ClientApp::OnEvaluate(Handler handler, std::string_view action, std::vector<Mod> mods) {
  return On(message_type::kEvaluate, action, std::move(handler), std::move(mods));
}

ClientApp& ClientApp::OnQuery(Handler handler, std::string_view action, std::vector<Mod> mods) {
  return On(message_type::kQuery, action, std::move(handler), std::move(mods));
}

ClientApp& ClientApp::On(std::string_view type, std::string_view action, Handler handler,
                         std::vector<Mod> mods) {
  handlers_[absl::StrCat(Text(type), ".", Text(action))] =
      mods.empty() ? std::move(handler)
                   : [mods = std::move(mods), handler = std::move(handler)](const Message& message,
                                                                            Context& context) {
                       return WrappedIn(mods, handler)(message, context);
                     };
  return *this;
}

ClientApp& ClientApp::Wrap(Mod mod) {
  mods_.insert(mods_.begin(), std::move(mod));
  return *this;
}

absl::StatusOr<RecordDict> ClientApp::Handle(const Message& message, Context& context) const {
  const std::string& type = message.metadata.message_type;
  auto handler = handlers_.find(type);
  if (handler == handlers_.end()) handler = handlers_.find(absl::StrCat(type, ".default"));
  try {
    return WrappedIn(mods_, handler == handlers_.end() ? NoHandler : handler->second)(message,
                                                                                      context);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("the handler of ", type, " threw: ", error.what()));
  } catch (...) {
    return absl::InternalError(absl::StrCat("the handler of ", type, " threw"));
  }
}

namespace {

constexpr size_t kMaxReasonCharacters = 1000;

}  // namespace

Message MakeReply(const Message& instruction, absl::StatusOr<RecordDict> outcome,
                  double now_seconds) {
  const Metadata& asked = instruction.metadata;
  Message reply;
  reply.metadata = {
      .run_id = asked.run_id,
      .src_node_id = asked.dst_node_id,
      .dst_node_id = asked.src_node_id,
      .reply_to_message_id = asked.message_id,
      .group_id = asked.group_id,
      .ttl = std::max(0.0, asked.created_at + asked.ttl - now_seconds),
      .message_type = asked.message_type,
      .created_at = now_seconds,
      .src_task_id = asked.dst_task_id,
      .dst_task_id = asked.src_task_id,
  };
  if (outcome.ok()) {
    reply.content = *std::move(outcome);
  } else {
    const bool unknown_type = absl::IsUnimplemented(outcome.status());
    reply.error =
        Error{unknown_type ? ErrorCode::kLoadClientAppFailed : ErrorCode::kClientAppRaisedException,
              // Protobuf refuses text that is not UTF-8. Whoever shows the reason escapes it.
              ValidUtf8(outcome.status().message(), kMaxReasonCharacters)};
  }
  return reply;
}

}  // namespace fedumm
