#include "node/node_loop.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "node/caller.h"
#include "node/heartbeat.h"
#include "node/membership.h"
#include "node/message_transfer.h"
#include "node/run_config.h"
#include "node/run_contexts.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr absl::Duration kPullTimeout =
    absl::Seconds(40);  // longer than any server holds an empty answer
constexpr absl::Duration kPollPause =
    absl::Milliseconds(500);  // between polls of a server that holds none
constexpr absl::Duration kFinalReplyTimeout =
    absl::Seconds(1);  // for a reply that is ready when the node is stopped
constexpr int kMaxFailedSessions =
    12;  // in a row: joined, and refused before the first pull was answered

// Errors after which the server cannot be used until the node has joined again, if at all. Any
// other concerns one message only.
bool EndsSession(const absl::Status& status) {
  return absl::IsCancelled(status) || absl::IsUnavailable(status) || absl::IsAborted(status) ||
         IsRefusal(status);
}

// Whether the sender of an instruction is told of the error: the server can be reached, and the run
// is not over.
bool IsForSender(const absl::Status& status) {
  return !EndsSession(status) && !absl::IsPermissionDenied(status);
}

absl::Status CheckInstruction(const Metadata& metadata, const flwr::proto::Message& message,
                              const flwr::proto::ObjectTree& tree, uint64_t node_id, double now) {
  if (!wire::IsObjectId(metadata.message_id) || metadata.message_id != tree.object_id()) {
    return absl::InvalidArgumentError("its id is not that of its root object");
  }
  if (metadata.dst_node_id != node_id) {
    return absl::InvalidArgumentError(absl::StrCat("it is for node ", metadata.dst_node_id));
  }
  if (!metadata.reply_to_message_id.empty() || message.has_error()) {
    return absl::InvalidArgumentError("it is no instruction");
  }
  if (!(metadata.created_at + metadata.ttl > now)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it expired: created at %.3f, ttl %.3f s, now %.3f", metadata.created_at,
                        metadata.ttl, now));
  }
  return absl::OkStatus();
}

// "train of run 7, round 3": the round if a record says so.
std::string Describe(const Message& instruction) {
  std::string text = absl::StrCat(Printable(instruction.metadata.message_type), " of run ",
                                  instruction.metadata.run_id);
  if (!instruction.content.has_value()) return text;
  for (const auto& [name, record] : *instruction.content) {
    const auto* config = std::get_if<ConfigRecord>(&record);
    if (config == nullptr || !config->contains("server-round")) continue;
    absl::StrAppend(&text, ", round ", NumberOr(*config, "server-round", 0));
  }
  return text;
}

class Node {
 public:
  Node(const ClientApp& app, FleetClient& fleet, std::string public_key_pem,
       const SuperNodeOptions& options, const NodeEnvironment& environment, std::stop_token stop)
      : app_(app),
        fleet_(fleet),
        options_(options),
        environment_(environment),
        stop_(std::move(stop)),
        membership_({.public_key_pem = std::move(public_key_pem),
                     .keeps_key = !options.private_key.empty(),
                     .seed = environment.seed,
                     .on_event = [this](const std::string& event) { Announce(event); }}),
        transfer_(options.limits) {}

  absl::Status Run() {
    const absl::Status ended = RunSessions();
    Leave();
    if (absl::IsAborted(ended)) Announce(std::string(ended.message()));
    return stop_.stop_requested() || absl::IsAborted(ended) ? absl::OkStatus() : ended;
  }

 private:
  // Joins, and joins again whenever the server no longer knows this node.
  absl::Status RunSessions() {
    Backoff backoff(environment_.seed);
    int num_failed_sessions = 0;
    while (true) {
      Caller joining = NewCaller(stop_);
      FEDUMM_ASSIGN_OR_RETURN(node_id_, membership_.Join(joining));
      Announce(absl::StrCat("registered as node ", node_id_, " at ", options_.superlink));
      pulled_ = false;
      transfer_.ResetServer();
      const absl::Status ended = RunSession();
      if (!IsRefusal(ended)) return ended;
      if (pulled_) {
        num_failed_sessions = 0;
        backoff.Reset();
      } else if (++num_failed_sessions >= kMaxFailedSessions) {
        return ended;
      }
      Announce(absl::StrCat("the server no longer knows this node, joining again: ",
                            Printable(ended.message())));
      FEDUMM_RETURN_IF_ERROR(joining.Wait(backoff.Next()));
    }
  }

  absl::Status RunSession() {
    std::stop_source session;
    const std::stop_callback relay(stop_, [&session] { session.request_stop(); });
    const Heartbeat heartbeat(fleet_, environment_, node_id_,
                              [&session] { session.request_stop(); });
    Caller caller = NewCaller(session.get_token());
    const absl::Status ended = PullAndAnswer(caller);
    if (absl::IsCancelled(ended) && !stop_.stop_requested()) {
      return absl::UnauthenticatedError("heartbeat refused");
    }
    return ended;
  }

  // Returns what ended the session.
  absl::Status PullAndAnswer(Caller& caller) {
    flwr::proto::PullMessagesRequest request;
    request.mutable_node()->set_node_id(node_id_);
    while (true) {
      const absl::Time asked = environment_.clock();
      const auto pulled = caller.Call(&FleetClient::PullMessages, request, kPullTimeout);
      if (!pulled.ok()) {
        if (EndsSession(pulled.status())) return pulled.status();
        FEDUMM_RETURN_IF_ERROR(caller.AwaitRetry(pulled.status()));
        continue;
      }
      pulled_ = true;
      const bool malformed = pulled->messages_list_size() != pulled->message_object_trees_size();
      if (malformed) Announce("skipped an answer whose messages and object trees do not pair up");
      if (malformed || pulled->messages_list().empty()) {
        // The clock may have been set back meanwhile.
        const absl::Duration pause =
            std::min(kPollPause - (environment_.clock() - asked), kPollPause);
        if (pause > absl::ZeroDuration()) FEDUMM_RETURN_IF_ERROR(caller.Wait(pause));
        continue;
      }
      for (int i = 0; i < pulled->messages_list_size(); ++i) {
        const absl::Status answered =
            Answer(caller, pulled->messages_list(i), pulled->message_object_trees(i));
        if (answered.ok()) continue;
        if (EndsSession(answered)) return answered;
        Announce(absl::StrCat("skipped a message: ", Printable(answered.message())));
      }
    }
  }

  // Takes one message from the first look to the pushed reply.
  absl::Status Answer(Caller& caller, const flwr::proto::Message& offered,
                      const flwr::proto::ObjectTree& tree) {
    FEDUMM_ASSIGN_OR_RETURN(const Metadata metadata,
                            wire::MetadataFromProto(offered.metadata(), options_.limits));
    FEDUMM_RETURN_IF_ERROR(CheckInstruction(metadata, offered, tree, node_id_, Now()));
    const absl::StatusOr<Context*> context = ContextOf(metadata.run_id, caller);
    if (!context.ok()) {
      if (!IsForSender(context.status())) return context.status();
      return PushError(caller, metadata, context.status(), ErrorCode::kMessageUnavailable);
    }

    absl::StatusOr<Message> instruction = transfer_.Fetch(caller, metadata, tree);
    if (!instruction.ok() && !IsForSender(instruction.status())) return instruction.status();
    flwr::proto::ConfirmMessageReceivedRequest receipt;
    receipt.mutable_node()->set_node_id(node_id_);
    receipt.set_run_id(metadata.run_id);
    receipt.set_message_object_id(metadata.message_id);
    FEDUMM_RETURN_IF_ERROR(caller.Call(&FleetClient::ConfirmMessageReceived, receipt).status());

    if (!instruction.ok()) {
      Announce(absl::StrCat("refused a message: ", Printable(instruction.status().message())));
      return PushError(caller, metadata, instruction.status(), ErrorCode::kMessageUnavailable);
    }
    const std::string description = Describe(*instruction);
    Announce(absl::StrCat("round message: ", description));
    const absl::Time started = environment_.clock();
    absl::StatusOr<RecordDict> outcome = app_.Handle(*instruction, **context);
    if (!outcome.ok()) {
      Announce(absl::StrCat(description, " failed: ", Printable(outcome.status().message())));
    }
    instruction->content.reset();
    const absl::Status pushed = Push(caller, MakeReply(*instruction, std::move(outcome), Now()),
                                     environment_.clock() - started, description);
    if (pushed.ok() || !IsForSender(pushed)) return pushed;
    Announce(absl::StrCat("the reply to ", description,
                          " cannot be delivered: ", Printable(pushed.message())));
    return PushError(caller, metadata,
                     absl::Status(pushed.code(), absl::StrCat("the node cannot deliver its reply: ",
                                                              pushed.message())),
                     ErrorCode::kReplyMessageUnavailable);
  }

  // Tells the sender, which would otherwise wait until the instruction expires.
  absl::Status PushError(Caller& caller, const Metadata& instruction, const absl::Status& reason,
                         ErrorCode code) {
    Message reply = MakeReply({.metadata = instruction}, reason, Now());
    reply.error->code = code;
    return Push(caller, std::move(reply), absl::ZeroDuration(), "the error");
  }

  absl::Status Push(Caller& caller, Message reply, absl::Duration runtime,
                    const std::string& description) {
    FEDUMM_RETURN_IF_ERROR(wire::CheckRecordSizes(reply, options_.limits));
    const wire::DeflatedMessage parts = wire::Deflater().Deflate(reply);
    reply.metadata.message_id = parts.message_id;
    if (reply.content.has_value()) reply.content.emplace();  // the parts carry it from here on
    absl::StatusOr<int64_t> pushed = transfer_.Push(caller, reply, parts, runtime);
    if (absl::IsCancelled(pushed.status()) && stop_.stop_requested()) {
      Caller final_caller = NewCaller({}, LeaveBy());
      pushed = transfer_.Push(final_caller, reply, parts, runtime);
    }
    FEDUMM_RETURN_IF_ERROR(pushed.status());
    last_reply_ = environment_.clock();
    Announce(absl::StrCat("answered ", description, " after ", absl::FormatDuration(runtime),
                          ": pushed ", *pushed, " of ", parts.objects.size(), " objects"));
    return absl::OkStatus();
  }

  // Asks for the run's settings when it is new.
  absl::StatusOr<Context*> ContextOf(uint64_t run_id, Caller& caller) {
    if (Context* const known = contexts_.Find(run_id)) {
      known->node_id = node_id_;  // a server that restarted may have given a new one
      return known;
    }
    Context context{.run_id = run_id, .node_id = node_id_, .node_config = options_.node_config};
    flwr::proto::GetRunRequest request;
    request.mutable_node()->set_node_id(node_id_);
    request.set_run_id(run_id);
    const auto answer = caller.Call(&FleetClient::GetRun, request);
    if (answer.ok()) {
      FEDUMM_ASSIGN_OR_RETURN(ConfigRecord defaults, DefaultsOf(answer->run(), caller));
      FEDUMM_ASSIGN_OR_RETURN(context.run_config,
                              RunConfig(std::move(defaults), answer->run(), options_.limits));
    } else if (EndsSession(answer.status()) || absl::IsPermissionDenied(answer.status())) {
      return answer.status();
    } else {
      Announce(absl::StrCat("run ", run_id,
                            " is taken without settings: ", Printable(answer.status().message())));
    }
    return &contexts_.Add(std::move(context));
  }

  // A run without a bundle, or with one that is of no use, has no defaults.
  absl::StatusOr<ConfigRecord> DefaultsOf(const flwr::proto::Run& run, Caller& caller) const {
    if (run.fab_hash().empty()) return ConfigRecord();
    absl::StatusOr<ConfigRecord> defaults = FabConfig(caller, node_id_, run);
    const absl::Status& status = defaults.status();
    const bool refused = absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
    if (defaults.ok() || (EndsSession(status) && !refused) || absl::IsPermissionDenied(status)) {
      return defaults;
    }
    Announce(absl::StrCat("run ", run.run_id(),
                          " is taken without its app's defaults: ", Printable(status.message())));
    return ConfigRecord();
  }

  // A reply that a polling server has not fetched yet is lost when its node deactivates: lingers,
  // but not long.
  void Leave() {
    const absl::Duration linger =
        std::min(last_reply_ + options_.linger, LeaveBy()) - environment_.clock();
    if (stop_.stop_requested() && linger > absl::ZeroDuration()) environment_.wait(linger, {});
    Caller leaving = NewCaller({}, environment_.clock() + absl::Seconds(1), {.max_retries = 0});
    membership_.Leave(leaving);
  }

  // When to be done with replies, counted from the first time that a stop is noticed.
  absl::Time LeaveBy() {
    if (leave_by_ == absl::InfiniteFuture()) leave_by_ = environment_.clock() + kFinalReplyTimeout;
    return leave_by_;
  }

  Caller NewCaller(std::stop_token cancel, absl::Time deadline = absl::InfiniteFuture()) const {
    return NewCaller(std::move(cancel), deadline, {options_.max_retries, options_.max_wait_time});
  }
  Caller NewCaller(std::stop_token cancel, absl::Time deadline, RetryLimits limits) const {
    return Caller(fleet_, environment_,
                  {.server = options_.superlink,
                   .limits = limits,
                   .on_event = options_.on_event,
                   .cancel = std::move(cancel),
                   .deadline = deadline});
  }

  void Announce(const std::string& event) const {
    if (options_.on_event) options_.on_event(event);
  }
  double Now() const { return absl::ToUnixNanos(environment_.clock()) * 1e-9; }

  const ClientApp& app_;
  FleetClient& fleet_;
  const SuperNodeOptions& options_;
  const NodeEnvironment& environment_;
  const std::stop_token stop_;
  Membership membership_;
  MessageTransfer transfer_;
  RunContexts contexts_;
  uint64_t node_id_ = 0;
  bool pulled_ = false;  // in this session
  absl::Time last_reply_ = absl::InfinitePast();
  absl::Time leave_by_ = absl::InfiniteFuture();
};

}  // namespace

absl::Status RunNode(const ClientApp& app, FleetClient& fleet, std::string public_key_pem,
                     const SuperNodeOptions& options, const NodeEnvironment& environment,
                     std::stop_token stop) {
  return Node(app, fleet, std::move(public_key_pem), options, environment, std::move(stop)).Run();
}

}  // namespace fedumm
