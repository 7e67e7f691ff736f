// Runs the strategy of custom_strategy.h on virtual nodes; a SuperLink's CreateRun gives the same
// Grid over the network.
#include "custom_strategy.h"

#include <cstdio>
#include <memory>

#include "fedumm/simulation.h"

using namespace fedumm;

int main() {
  ClientApp app;  // node i pulls the model a tenth of the way towards i
  app.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const double goal = NumberOr(context.node_config, "partition-id", 0);
    const Array& x = *message.content->FindArrays("arrays")->Find("x");
    const double next = x.ToDoubles().at(0) + 0.1 * (goal - x.ToDoubles().at(0));
    RecordDict reply;
    reply.Set("arrays", ArrayRecord{{"x", Array::FromDoublesLike(x, {{next}})}});
    reply.Set("metrics", MetricRecord{{"num-examples", int64_t{1}}});
    return reply;
  });

  const absl::StatusOr<std::unique_ptr<Grid>> grid = NewSimulation(app, {.num_nodes = 5});
  if (!grid.ok()) return 1;
  Nesterov strategy({.fraction_evaluate = 0});
  const absl::StatusOr<Result> result =
      strategy.Start(**grid, {{"x", Array::FromFloats({1}, {{10}})}}, {.num_rounds = 60});
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  std::printf("x = %.4f (the nodes' mean goal is 2)\n",
              result->arrays.Find("x")->ToDoubles().at(0));
  return 0;
}
