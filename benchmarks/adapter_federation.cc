// The processes that the scripts beside this file time: a server with a federated-averaging
// strategy, nodes that add a constant to every array, and the floor that both are measured against.
// Public API only. Prints JSON, one object a line.
#include <openssl/sha.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fedumm/simulation.h"
#include "fedumm/strategies.h"
#include "fedumm/super_link.h"
#include "fedumm/super_node.h"

namespace {

using namespace fedumm;

constexpr char kUsage[] =
    R"(usage: adapter_federation server [--work null|adapter] [--nodes N] [--rounds N] [--fleet HOST:PORT] [--http HOST:PORT] [--adapter HOST:PORT]
       adapter_federation node --superlink HOST:PORT [--transport auto|grpc-rere|grpc-adapter|http] [--index I] [--count N]
       adapter_federation idle-server [--fleet HOST:PORT] [--http HOST:PORT]
       adapter_federation floor [--work null|adapter] [--nodes N]
       adapter_federation simulate [--work null|adapter] [--nodes N] [--rounds N] [--threads N]

  server       waits for N nodes, plays the rounds, and prints ports, rounds, CPU and memory
  node         N nodes in this process, until SIGTERM
  idle-server  no strategy: serves until SIGTERM, then prints CPU and memory
  simulate     the nodes of the server in one process, without a wire
  floor        hashes and copies, once, the bytes that one round with N nodes moves
)";

std::atomic<bool> interrupted = false;
void Interrupt(int) { interrupted = true; }

void WaitForSignal() {
  while (!interrupted) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

using Flags = std::map<std::string, std::string>;

std::string TextFlag(const Flags& flags, const std::string& name, const std::string& fallback) {
  const auto it = flags.find(name);
  return it == flags.end() ? fallback : it->second;
}

int64_t NumberFlag(const Flags& flags, const std::string& name, int64_t fallback) {
  const std::string text = TextFlag(flags, name, std::to_string(fallback));
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    std::fprintf(stderr, "--%s is no number: %s\n", name.c_str(), text.c_str());
    std::exit(2);
  }
  return value;
}

// A line of /proc/self/status in bytes: VmRSS (memory now) or VmHWM (its peak).
int64_t StatusBytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(name + ":", 0) == 0) return std::atoll(line.c_str() + name.size() + 1) * 1024;
  }
  return 0;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// "adapter": the LoRA adapter of rank 16 on four projections of 36 layers, 288 arrays, 7,372,800
// parameters, 29,491,200 bytes. "null": one array of one number.
ArrayRecord Work(const std::string& work) {
  if (work == "null") return {{"x", Array::FromFloats({1}, {{0.5f}})}};
  if (work != "adapter") {
    std::fprintf(stderr, "--work is null or adapter: %s\n", work.c_str());
    std::exit(2);
  }
  ArrayRecord arrays;
  std::vector<float> values(size_t{16} * 1600);
  uint64_t state = 1;
  for (int i = 0; i < 288; ++i) {
    for (float& value : values) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      value = static_cast<float>(static_cast<int64_t>(state) >> 40) * 0x1p-30f;
    }
    std::vector<int64_t> shape =
        i % 2 == 0 ? std::vector<int64_t>{16, 1600} : std::vector<int64_t>{1600, 16};
    arrays.Set("layer." + std::to_string(i / 2) + (i % 2 == 0 ? ".lora_A" : ".lora_B"),
               Array::FromFloats(std::move(shape), values));
  }
  return arrays;
}

int64_t NumBytes(const ArrayRecord& arrays) {
  int64_t bytes = 0;
  for (const auto& [key, array] : arrays) bytes += static_cast<int64_t>(array.bytes().size());
  return bytes;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

SuperLinkOptions ServerOptions(const Flags& flags) {
  return {.fleet_api_address = TextFlag(flags, "fleet", "127.0.0.1:0"),
          .http_address = TextFlag(flags, "http", ""),
          .grpc_adapter_address = TextFlag(flags, "adapter", ""),
          .insecure = true};
}

void PrintPorts(const SuperLink& link) {
  std::printf(
      "{\"event\": \"ready\", \"fleet_port\": %d, \"http_port\": %d, "
      "\"grpc_adapter_port\": %d, \"rss_bytes\": %lld}\n",
      link.fleet_port(), link.http_port(), link.grpc_adapter_port(),
      static_cast<long long>(StatusBytes("VmRSS")));
}

int RunServer(const Flags& flags) {
  const int64_t num_nodes = NumberFlag(flags, "nodes", 2);
  const std::string work = TextFlag(flags, "work", "null");
  auto link = SuperLink::Start(ServerOptions(flags));
  if (!link.ok()) return Fail(link.status());
  PrintPorts(**link);
  ArrayRecord initial = Work(work);
  const int64_t payload = 2 * num_nodes * NumBytes(initial);
  auto grid = (*link)->CreateRun({});
  if (!grid.ok()) return Fail(grid.status());
  const int64_t loaded_bytes = StatusBytes("VmRSS");

  FedAvg strategy({.fraction_evaluate = 0,
                   .min_train_nodes = num_nodes,
                   .min_evaluate_nodes = num_nodes,
                   .min_available_nodes = num_nodes});
  double cpu = 0;
  StartOptions options = {.num_rounds = NumberFlag(flags, "rounds", 10),
                          .timeout = absl::Minutes(10),
                          .quorum = num_nodes,
                          .wait_for_nodes = absl::Minutes(2)};
  bool complete = true;
  options.on_round = [&](const RoundResult& round) {
    uint64_t up = 0, down = 0;
    for (const NodeOutcome& node : round.nodes) {
      up += node.traffic.bytes_up;
      down += node.traffic.bytes_down;
      complete = complete && node.accepted;
    }
    const double now = CpuSeconds();
    std::printf(
        "{\"event\": \"round\", \"round\": %lld, \"ms\": %.3f, \"server_cpu_ms\": %.3f, "
        "\"bytes_up\": %llu, \"bytes_down\": %llu, \"payload_bytes\": %lld}\n",
        static_cast<long long>(round.number), absl::ToDoubleMilliseconds(round.duration),
        1e3 * (now - cpu), static_cast<unsigned long long>(up),
        static_cast<unsigned long long>(down), static_cast<long long>(payload));
    cpu = now;
  };
  const absl::StatusOr<Result> result =
      strategy.Start(**grid, std::move(initial), std::move(options));
  if (!result.ok()) return Fail(result.status());
  std::printf(
      "{\"event\": \"done\", \"complete\": %s, \"loaded_rss_bytes\": %lld, "
      "\"peak_rss_bytes\": %lld, \"rss_bytes\": %lld}\n",
      complete ? "true" : "false", static_cast<long long>(loaded_bytes),
      static_cast<long long>(StatusBytes("VmHWM")), static_cast<long long>(StatusBytes("VmRSS")));
  return complete ? 0 : 1;
}

int RunIdleServer(const Flags& flags) {
  auto link = SuperLink::Start(ServerOptions(flags));
  if (!link.ok()) return Fail(link.status());
  PrintPorts(**link);
  size_t most_online = 0;
  while (!interrupted) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    size_t online = 0;
    for (const NodeStatus& node : (*link)->Nodes()) online += node.online ? 1 : 0;
    if (online <= most_online) continue;
    most_online = online;
    std::printf("{\"event\": \"online\", \"nodes\": %zu, \"cpu_s\": %.3f, \"rss_bytes\": %lld}\n",
                online, CpuSeconds(), static_cast<long long>(StatusBytes("VmRSS")));
  }
  std::printf("{\"event\": \"done\", \"cpu_s\": %.3f, \"peak_rss_bytes\": %lld}\n", CpuSeconds(),
              static_cast<long long>(StatusBytes("VmHWM")));
  return 0;
}

// Adds a number that differs between nodes, so that no two replies share objects.
RecordDict Trained(const Message& message, int64_t index) {
  const float step = 0.01f + 0.0001f * static_cast<float>(index);
  ArrayRecord trained;
  const ArrayRecord* arrays = message.content->FindArrays("arrays");
  if (arrays != nullptr) {
    std::vector<float> values;
    for (const auto& [key, array] : *arrays) {
      const auto floats = array.floats();
      if (!floats.ok()) continue;
      values.assign(floats->begin(), floats->end());
      for (float& value : values) value += step;
      trained.Set(key, Array::FromFloats({array.shape().begin(), array.shape().end()}, values));
    }
  }
  RecordDict reply;
  reply.Set("arrays", std::move(trained));
  reply.Set("metrics", MetricRecord{{"num-examples", 10 + index}, {"train_loss", 1.0}});
  return reply;
}

bool TransportFlag(const Flags& flags, Transport& transport) {
  const std::string name = TextFlag(flags, "transport", "grpc-rere");
  const std::map<std::string, Transport> transports = {{"auto", Transport::kAuto},
                                                       {"grpc-rere", Transport::kGrpcRere},
                                                       {"grpc-adapter", Transport::kGrpcAdapter},
                                                       {"http", Transport::kHttp}};
  const auto it = transports.find(name);
  if (it == transports.end()) return false;
  transport = it->second;
  return true;
}

int RunNodes(const Flags& flags) {
  const int64_t first = NumberFlag(flags, "index", 0);
  const int64_t count = NumberFlag(flags, "count", 1);
  Transport transport = Transport::kGrpcRere;
  if (!TransportFlag(flags, transport)) {
    std::fprintf(stderr, "unknown transport\n%s", kUsage);
    return 2;
  }
  std::stop_source stop;
  std::atomic<int64_t> failures = 0;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int64_t i = first; i < first + count; ++i) {
    threads.emplace_back([&, i] {
      ClientApp app;
      app.OnTrain([i](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
        return Trained(message, i);
      });
      SuperNodeOptions options = {.superlink = TextFlag(flags, "superlink", "127.0.0.1:9092"),
                                  .transport = transport,
                                  .insecure = true};
      options.node_config = {{"partition-id", i}};
      options.linger = absl::ZeroDuration();
      options.on_event = [&](const std::string& event) {
        if (event.find("unreachable") == std::string::npos) return;
        ++failures;
        const std::lock_guard lock(mutex);
        std::fprintf(stderr, "%s\n", event.c_str());
      };
      const absl::Status status = RunSuperNode(app, std::move(options), stop.get_token());
      if (status.ok()) return;
      ++failures;
      const std::lock_guard lock(mutex);
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    });
  }
  std::printf("{\"event\": \"started\", \"rss_bytes\": %lld}\n",
              static_cast<long long>(StatusBytes("VmRSS")));
  WaitForSignal();
  const double cpu = CpuSeconds();
  const int64_t peak = StatusBytes("VmHWM");
  stop.request_stop();
  for (std::thread& thread : threads) thread.join();
  std::printf(
      "{\"event\": \"done\", \"failures\": %lld, \"cpu_s\": %.3f, "
      "\"peak_rss_bytes\": %lld}\n",
      static_cast<long long>(failures.load()), cpu, static_cast<long long>(peak));
  return failures == 0 ? 0 : 1;
}

int RunSimulation(const Flags& flags) {
  ClientApp app;
  app.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    return Trained(message, static_cast<int64_t>(context.node_id));
  });
  const int64_t num_nodes = NumberFlag(flags, "nodes", 16);
  auto grid =
      NewSimulation(app, {.num_nodes = num_nodes, .num_threads = NumberFlag(flags, "threads", 1)});
  if (!grid.ok()) return Fail(grid.status());
  FedAvg strategy({.fraction_evaluate = 0});
  StartOptions options = {.num_rounds = NumberFlag(flags, "rounds", 3),
                          .timeout = absl::Minutes(30),
                          .quorum = num_nodes};
  double cpu = CpuSeconds();
  options.on_round = [&](const RoundResult& round) {
    const double now = CpuSeconds();
    std::printf("{\"event\": \"round\", \"round\": %lld, \"ms\": %.3f, \"cpu_ms\": %.3f}\n",
                static_cast<long long>(round.number), absl::ToDoubleMilliseconds(round.duration),
                1e3 * (now - cpu));
    cpu = now;
  };
  const absl::StatusOr<Result> result =
      strategy.Start(**grid, Work(TextFlag(flags, "work", "adapter")), std::move(options));
  if (!result.ok()) return Fail(result.status());
  std::printf("{\"event\": \"done\", \"peak_rss_bytes\": %lld}\n",
              static_cast<long long>(StatusBytes("VmHWM")));
  return 0;
}

// Each payload byte hashed once and copied once, by one thread. The arrays of the nodes differ, so
// nothing stays in a cache that would not in a round.
int RunFloor(const Flags& flags) {
  const ArrayRecord arrays = Work(TextFlag(flags, "work", "adapter"));
  const int64_t copies = 2 * NumberFlag(flags, "nodes", 4);
  std::string to(static_cast<size_t>(NumBytes(arrays)), '\1');
  double best = 1e9;
  unsigned sum = 0;
  for (int turn = 0; turn < 5; ++turn) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < copies; ++i) {
      char* out = to.data();
      for (const auto& [key, array] : arrays) {
        std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
        std::memcpy(out, array.bytes().data(), array.bytes().size());
        SHA256(reinterpret_cast<const unsigned char*>(out), array.bytes().size(), digest.data());
        out += array.bytes().size();
        sum += digest[0];
      }
    }
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  std::printf("{\"event\": \"floor\", \"ms\": %.3f, \"bytes\": %lld, \"check\": %u}\n", best,
              static_cast<long long>(copies * NumBytes(arrays)), sum);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::signal(SIGTERM, Interrupt);
  std::signal(SIGINT, Interrupt);
  Flags flags;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::strncmp(argv[i], "--", 2) == 0) flags[argv[i] + 2] = argv[i + 1];
  }
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "server") return RunServer(flags);
  if (mode == "node") return RunNodes(flags);
  if (mode == "idle-server") return RunIdleServer(flags);
  if (mode == "simulate") return RunSimulation(flags);
  if (mode == "floor") return RunFloor(flags);
  std::fprintf(stderr, "%s", kUsage);
  return 2;
}
