// A strategy of one's own: FedAvg whose server steps with momentum (FedAvgM, arXiv 1909.06335). It
// runs here on virtual nodes; a SuperLink's CreateRun gives the same Grid over the network.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fedumm/simulation.h"
#include "fedumm/strategies.h"

using namespace fedumm;

class FedAvgM final : public FedAvg {
 public:
  FedAvgM() : FedAvg({.fraction_evaluate = 0}) {}

  absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate) override {
    ArrayRecord next;
    for (const auto& [key, mean] : aggregate) {
      std::vector<double> x = round.arrays.Find(key)->ToDoubles();
      const std::vector<double> target = mean.ToDoubles();
      std::vector<double>& velocity = velocity_[key];
      velocity.resize(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        velocity[i] = 0.5 * velocity[i] + (target[i] - x[i]);
        x[i] += velocity[i];
      }
      next.Set(key, Array::FromDoubles({mean.shape().begin(), mean.shape().end()}, x));
    }
    return next;
  }

 private:
  std::map<std::string, std::vector<double>> velocity_;
};

int main() {
  ClientApp app;  // node i pulls the model a tenth of the way towards i
  app.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const double goal = NumberOr(context.node_config, "partition-id", 0);
    double x = message.content->FindArrays("arrays")->Find("x")->ToDoubles().at(0);
    x += 0.1 * (goal - x);
    RecordDict reply;
    reply.Set("arrays", ArrayRecord{{"x", Array::FromDoubles({1}, {{x}})}});
    reply.Set("metrics", MetricRecord{{"num-examples", int64_t{1}}});
    return reply;
  });

  const absl::StatusOr<std::unique_ptr<Grid>> grid = NewSimulation(app, {.num_nodes = 5});
  if (!grid.ok()) return 1;
  FedAvgM strategy;
  const absl::StatusOr<Result> result =
      strategy.Start(**grid, {{"x", Array::FromDoubles({1}, {{10.0}})}}, {.num_rounds = 60});
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  std::printf("x = %.4f (the nodes' mean goal is 2)\n",
              result->arrays.Find("x")->ToDoubles().at(0));
  return 0;
}
