#include "node/run_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/fab.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr absl::Duration kFabTimeout = absl::Minutes(2);  // 10 MiB on a slow line

}  // namespace

absl::StatusOr<ConfigRecord> FabConfig(Caller& caller, uint64_t node_id,
                                       const flwr::proto::Run& run) {
  flwr::proto::GetFabRequest request;
  request.mutable_node()->set_node_id(node_id);
  request.set_run_id(run.run_id());
  request.set_hash_str(run.fab_hash());
  FEDUMM_ASSIGN_OR_RETURN(auto response, caller.Call(&FleetClient::GetFab, request, kFabTimeout));
  FEDUMM_ASSIGN_OR_RETURN(const Fab fab,
                          Fab::Parse(std::move(*response.mutable_fab()->mutable_content())));
  if (fab.hash() != run.fab_hash()) {
    return absl::DataLossError(absl::StrCat("the app bundle has another hash: ", fab.hash()));
  }
  return fab.config();
}

absl::StatusOr<ConfigRecord> RunConfig(ConfigRecord defaults, const flwr::proto::Run& run,
                                       const Limits& limits) {
  FEDUMM_ASSIGN_OR_RETURN(const ConfigRecord overrides,
                          wire::ConfigFromScalars(run.override_config(), limits));
  for (const auto& [key, value] : overrides) defaults.Set(key, value);
  return defaults;
}

}  // namespace fedumm
