// Two virtual nodes average a vector: what an application that trains no LibTorch model links.
#include <cstdio>
#include <memory>
#include <string>

#include "fedumm/client_app.h"
#include "fedumm/simulation.h"
#include "fedumm/strategies.h"
#include "fedumm/testing/conformance.h"

int main() {
  fedumm::ClientApp app;
  app.OnTrain([](const fedumm::Message&,
                 fedumm::Context& context) -> absl::StatusOr<fedumm::RecordDict> {
    const float value =
        fedumm::NumberOr(context.node_config, "partition-id", -1) == 0 ? 1.0f : 3.0f;
    fedumm::RecordDict reply;
    reply.Set("arrays", fedumm::ArrayRecord{{"w", fedumm::Array::FromFloats({1}, {&value, 1})}});
    reply.Set("metrics", fedumm::MetricRecord{{"num-examples", int64_t{1}}});
    return reply;
  });
  auto grid = fedumm::NewSimulation(app, {.num_nodes = 2});
  if (!grid.ok()) return 1;
  fedumm::FedAvg strategy({.fraction_evaluate = 0});
  const float zero = 0;
  auto result = strategy.Start(**grid, {{"w", fedumm::Array::FromFloats({1}, {&zero, 1})}},
                               {.num_rounds = 1});
  if (!result.ok()) {
    std::printf("%s\n", result.status().ToString().c_str());
    return 1;
  }
  const float mean = (*result->arrays.Find("w")->floats())[0];
  std::printf("mean of 1 and 3: %g\n", mean);
  // What a user's own tests would do with their strategy.
  const fedumm::testing::Findings findings = fedumm::testing::CheckStrategy({.make = [] {
    return std::make_unique<fedumm::FedAvgMomentum>(fedumm::StrategyOptions(), 1, 0.9);
  }});
  for (const std::string& finding : findings) std::printf("%s\n", finding.c_str());
  return mean == 2 && findings.empty() ? 0 : 1;
}
