// A client of one's own: joins any Flower SuperLink (fedumm's, or Flower's over gRPC) and fits a
// mean to numbers that never leave it.
//   example_custom_client HOST:PORT 1.0 2.5 4.0
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "fedumm/super_node.h"

using namespace fedumm;

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s HOST:PORT NUMBER...\n", argv[0]);
    return 2;
  }
  const std::vector<double> numbers = [&] {
    std::vector<double> values;
    for (int i = 2; i < argc; ++i) values.push_back(std::atof(argv[i]));
    return values;
  }();

  ClientApp app;
  app.OnTrain([&](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
    const ArrayRecord* arrays = message.content->FindArrays("arrays");
    if (arrays == nullptr || !arrays->contains("mean")) {
      return absl::InvalidArgumentError("the model needs an array named 'mean'");
    }
    double mean = arrays->Find("mean")->ToDoubles().at(0);
    for (const double number : numbers) mean += 0.5 * (number - mean);  // gradient steps
    RecordDict reply;
    reply.Set("arrays", ArrayRecord{{"mean", Array::FromDoubles({1}, {{mean}})}});
    reply.Set("metrics", MetricRecord{{"num-examples", static_cast<int64_t>(numbers.size())}});
    return reply;
  });

  SuperNodeOptions options{.superlink = argv[1], .insecure = true};
  options.on_event = [](const std::string& event) { std::printf("%s\n", event.c_str()); };
  const absl::Status status = RunSuperNode(app, options, std::stop_token());
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
