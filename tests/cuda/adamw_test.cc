// AdamWCuda on the emulated machine.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"
#include "tests/cuda/machine/fixture.h"
#include "tests/cuda/machine/machine.h"
#include "tests/cuda/machine/numbers.h"

namespace fedumm::kernels {
namespace {

using cuda_machine::Buffer;

// One client's arrays on the device and the same update in double precision.
struct Client {
  Client(int64_t count_, DType shadow_dtype, int64_t first = 0)
      : count(count_),
        p(count, "p", first * 4),
        g(count, "g", first * 4),
        m(count, "m", first * 4),
        v(count, "v", first * 4),
        shadow(shadow_dtype == DType::kFloat32 ? 2 * count : count, "shadow",
               first * (shadow_dtype == DType::kFloat32 ? 4 : 2)) {
    p.Fill([](size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 101) - 50) / 64; });
    m.Fill([](size_t i) { return static_cast<float>(static_cast<int>(i * 11 % 17) - 8) / 128; });
    v.Fill([](size_t i) { return static_cast<float>(i * 7 % 13) / 1024; });
    SetGradients(1, 1.0 / 64);
  }
  void SetGradients(int64_t step, double scale) {
    g.Fill([&](size_t i) {
      return static_cast<float>((static_cast<int>((i * 53 + step * 17) % 89) - 44) * scale);
    });
  }
  void ZeroMoments() {
    m.Fill([](size_t) { return 0.0F; });
    v.Fill([](size_t) { return 0.0F; });
  }
  AdamWClient Arguments(int64_t step, float learning_rate) {
    return {count, p.data(), g.data(), m.data(), v.data(), shadow.data(), step, learning_rate};
  }
  struct Values {
    std::vector<double> p, m, v;
    double norm = 0;
  };
  Values Expected(const AdamWOptions& options, int64_t step, double learning_rate) const {
    Values out;
    for (int64_t i = 0; i < count; ++i) out.norm += double{g[i]} * g[i];
    out.norm = std::sqrt(out.norm);
    double clip = 1;
    if (options.max_norm > 0) clip = std::min(1.0, options.max_norm / (out.norm + 1e-6));
    for (int64_t i = 0; i < count; ++i) {
      const double gradient = clip * g[i];
      out.m.push_back(options.beta1 * m[i] + (1 - options.beta1) * gradient);
      out.v.push_back(options.beta2 * v[i] + (1 - options.beta2) * gradient * gradient);
      const double correction1 = 1 - std::pow(options.beta1, step);
      const double correction2 = 1 - std::pow(options.beta2, step);
      out.p.push_back(p[i] * (1 - learning_rate * options.weight_decay) -
                      learning_rate / correction1 * out.m[i] /
                          (std::sqrt(out.v[i]) / std::sqrt(correction2) + options.epsilon));
    }
    return out;
  }
  void Expect(const Values& want, DType shadow_dtype) const {
    for (int64_t i = 0; i < count; ++i) {
      EXPECT_NEAR(p[i], want.p[i], 1e-6 * (1 + std::fabs(want.p[i]))) << i;
      EXPECT_NEAR(m[i], want.m[i], 1e-6 * (0.1 + std::fabs(want.m[i]))) << i;
      EXPECT_NEAR(v[i], want.v[i], 1e-6 * (1e-3 + std::fabs(want.v[i]))) << i;
      if (shadow_dtype == DType::kBFloat16) {
        EXPECT_EQ(shadow[i], cuda_machine::ToBf16(p[i])) << i;
      } else if (shadow_dtype == DType::kFloat16) {
        EXPECT_EQ(shadow[i], cuda_machine::ToFp16(p[i])) << i;
      } else {
        EXPECT_EQ(reinterpret_cast<const float*>(shadow.data())[i], p[i]) << i;
      }
    }
  }

  int64_t count;
  Buffer<float> p, g, m, v;
  Buffer<uint16_t> shadow;
};

class AdamWTest : public cuda_machine::MachineTest {
 protected:
  // Runs one update of all clients and compares it with double precision.
  static void Run(const AdamWOptions& options,
                  const std::vector<std::unique_ptr<Client>>& clients) {
    std::vector<AdamWClient> arguments;
    std::vector<Client::Values> want;
    for (size_t i = 0; i < clients.size(); ++i) {
      const auto step = static_cast<int64_t>(1 + i * 3);
      const float rate = 1e-3F * static_cast<float>(i + 1);
      arguments.push_back(clients[i]->Arguments(step, rate));
      want.push_back(clients[i]->Expected(options, step, rate));
    }
    Buffer<float> norms(clients.size(), "norms");
    Buffer<float> workspace(AdamWWorkspaceBytes(arguments) / 4, "workspace");
    const absl::Status status =
        AdamWCuda(options, arguments, norms.data(), workspace.data(), nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < clients.size(); ++i) {
      SCOPED_TRACE(absl::StrCat("client ", i, " of ", clients[i]->count));
      clients[i]->Expect(want[i], options.shadow_dtype);
      EXPECT_TRUE(norms.WasWritten(i));
      EXPECT_NEAR(norms[i], want[i].norm, 1e-6 * want[i].norm);
    }
    cuda_machine::ExpectClean();
  }
};

TEST_F(AdamWTest, EveryCountAndAlignmentMatchesDoublePrecision) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    for (const int64_t first : {0, 1}) {
      std::vector<std::unique_ptr<Client>> clients;
      for (const int64_t count : {1, 0, 3, 4, 5, 255, 1024, 1027, 4096, 4097, 9001})
        clients.push_back(std::make_unique<Client>(count, dtype, first));
      Run({.max_norm = 0.5F, .shadow_dtype = dtype}, clients);
      Run({.weight_decay = 0, .shadow_dtype = dtype}, clients);
    }
  }
}

TEST_F(AdamWTest, ManyPartsOfANormAreSummed) {
  std::vector<std::unique_ptr<Client>> clients;
  clients.push_back(std::make_unique<Client>(5 * 16384 + 77, DType::kBFloat16));
  Run({.max_norm = 1}, clients);
}

TEST_F(AdamWTest, MoreClientsThanALaunchTakesMatchDoublePrecision) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int64_t i = 0; i < 260; ++i)
    clients.push_back(std::make_unique<Client>(i % 7, DType::kBFloat16, i % 5));
  Run({.max_norm = 0.25F}, clients);
}

// Numbers of torch.optim.AdamW (PyTorch 2.11) and torch.nn.utils.clip_grad_norm_ on a CPU.
TEST_F(AdamWTest, TheNumbersOfTorchAreMatched) {
  struct Case {
    AdamWOptions options;
    float learning_rate;
    double gradient_scale;
    std::vector<float> p, m, v, norms;
  };
  const Case cases[] = {
      {{},
       1e-3F,
       1.0 / 32,
       {-0.778824687, -0.205441177, 0.375583887, -0.626081169, -0.0496838093, 0.53372705},
       {-0.0745937526, 0.0961250141, 0.0693750009, -0.0102187451, 0.213343754, -0.0915312544},
       {0.00085590122, 0.00328398426, 0.000707764761, 0.00276314747, 0.00225129491, 0.000984545797},
       {2.03581214, 1.86429238, 1.79952252}},
      {{.beta1 = 0.8, .beta2 = 0.99, .epsilon = 1e-6F, .weight_decay = 0.1F, .max_norm = 1},
       0.05F,
       1.0 / 8,
       {-0.67976445, -0.300373167, 0.422120839, -0.670526624, -0.142119721, 0.62059021},
       {-0.0998373777, 0.208013147, -0.001092872, 0.00838708971, 0.0976516306, -0.111454383},
       {0.0019815194, 0.00677218707, 0.000370949565, 0.00667619379, 0.00173273426, 0.00236641266},
       {8.14324856, 7.45716953}},
      {{.weight_decay = 0, .max_norm = 100},
       0.01F,
       1.0 / 1024,
       {-0.77125001, -0.21312499, 0.38499999, -0.63499999, -0.056874983, 0.54124999},
       {-0.0026367188, 0.00253906264, -0.0009765625, 0.00419921894, 0.000683593738, -0.00283203134},
       {6.95228607e-07, 6.44683837e-07, 9.53674402e-08, 1.7633439e-06, 4.67300438e-08,
        8.0204012e-07},
       {0.0636191294}}};
  for (const Case& torch : cases) {
    Client client(6, DType::kBFloat16);
    client.ZeroMoments();
    for (size_t i = 0; i < torch.norms.size(); ++i) {
      const auto step = static_cast<int64_t>(i + 1);
      client.SetGradients(step, torch.gradient_scale);
      const std::vector<AdamWClient> arguments = {client.Arguments(step, torch.learning_rate)};
      Buffer<float> norms(1, "norms");
      Buffer<float> workspace(AdamWWorkspaceBytes(arguments) / 4, "workspace");
      ASSERT_TRUE(
          AdamWCuda(torch.options, arguments, norms.data(), workspace.data(), nullptr).ok());
      EXPECT_NEAR(norms[0], torch.norms[i], 2e-7 * torch.norms[i]);
    }
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(client.p[i], torch.p[i], 3e-7 * std::fabs(torch.p[i])) << i;
      EXPECT_NEAR(client.m[i], torch.m[i], 1e-6 * std::fabs(torch.m[i])) << i;
      EXPECT_NEAR(client.v[i], torch.v[i], 1e-6 * std::fabs(torch.v[i])) << i;
    }
  }
}

TEST_F(AdamWTest, AGradientThatIsNotFiniteSpoilsOnlyItsClient) {
  const auto update = [](float bad, Client& spoiled, Client& other) {
    spoiled.g.Fill([&](size_t i) { return i == 3 ? bad : 1.0F; });
    const std::vector<AdamWClient> arguments = {spoiled.Arguments(1, 1e-3F),
                                                other.Arguments(1, 1e-3F)};
    Buffer<float> norms(2, "norms");
    Buffer<float> workspace(AdamWWorkspaceBytes(arguments) / 4, "workspace");
    EXPECT_TRUE(
        AdamWCuda({.max_norm = 1}, arguments, norms.data(), workspace.data(), nullptr).ok());
    return norms[0];
  };
  Client with_nan(5, DType::kBFloat16), with_infinity(5, DType::kBFloat16);
  Client good(5, DType::kBFloat16), same(5, DType::kBFloat16);
  EXPECT_TRUE(std::isnan(update(std::numeric_limits<float>::quiet_NaN(), with_nan, good)));
  EXPECT_TRUE(std::isinf(update(std::numeric_limits<float>::infinity(), with_infinity, same)));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(std::isnan(with_nan.p[i]));  // as clip_grad_norm_ does: the coefficient is NaN
    EXPECT_EQ(std::isnan(with_infinity.p[i]), i == 3);
    EXPECT_TRUE(std::isfinite(good.p[i]));
    EXPECT_EQ(good.p[i], same.p[i]);
  }
}

TEST_F(AdamWTest, AClientHasTheSameBitsAloneUnalignedAndInAnySchedule) {
  const auto run = [](const std::vector<Client*>& clients) {
    std::vector<AdamWClient> arguments;
    for (Client* client : clients) arguments.push_back(client->Arguments(5, 1e-2F));
    Buffer<float> norms(clients.size(), "norms");
    Buffer<float> workspace(AdamWWorkspaceBytes(arguments) / 4, "workspace");
    EXPECT_TRUE(
        AdamWCuda({.max_norm = 0.1F}, arguments, norms.data(), workspace.data(), nullptr).ok());
    return norms[clients.size() - 1];
  };
  constexpr int64_t kCount = 20001;
  Client alone(kCount, DType::kBFloat16);
  const float norm = run({&alone});
  for (const auto order : {cuda_machine::Order::kRandom, cuda_machine::Order::kAscending,
                           cuda_machine::Order::kDescending}) {
    cuda_machine::Options options;
    options.order = order;
    cuda_machine::SetOptions(options);
    Client other(300, DType::kBFloat16), unaligned(kCount, DType::kBFloat16, 1);
    EXPECT_EQ(run({&other, &unaligned}), norm);
    cuda_machine::ExpectClean();
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(unaligned.p[i], alone.p[i]);
      ASSERT_EQ(unaligned.v[i], alone.v[i]);
    }
  }
}

TEST_F(AdamWTest, AlignedArraysAreReadWithoutWaste) {
  cuda_machine::Options options;
  options.statistics = true;
  cuda_machine::SetOptions(options);
  std::vector<std::unique_ptr<Client>> clients;
  clients.push_back(std::make_unique<Client>(16384, DType::kBFloat16));
  Run({}, clients);
  const cuda_machine::Statistics statistics = cuda_machine::TakeStatistics();
  EXPECT_LE(statistics.Ratio(false), 1.02) << statistics.ToString();
}

TEST_F(AdamWTest, OperandsAreChecked) {
  Client client(9, DType::kBFloat16);
  Buffer<float> norms(1, "norms");
  Buffer<float> workspace(64, "workspace");
  const auto code = [&](const AdamWOptions& options, AdamWClient arguments) {
    return AdamWCuda(options, {arguments}, norms.data(), workspace.data(), nullptr).code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.beta1 = 1}, client.Arguments(1, 1)), invalid);
  EXPECT_EQ(code({.max_norm = -1}, client.Arguments(1, 1)), invalid);
  EXPECT_EQ(code({}, client.Arguments(0, 1)), invalid);
  EXPECT_EQ(code({}, client.Arguments(1, std::numeric_limits<float>::infinity())), invalid);
  AdamWClient broken = client.Arguments(1, 1);
  broken.gradients = nullptr;
  EXPECT_EQ(code({}, broken), invalid);
  broken = client.Arguments(1, 1);
  broken.count = -1;
  EXPECT_EQ(code({}, broken), invalid);
  EXPECT_EQ(AdamWCuda({}, {}, nullptr, nullptr, nullptr).code(), absl::StatusCode::kOk);
  EXPECT_EQ(AdamWCuda({}, {client.Arguments(1, 1)}, nullptr, workspace.data(), nullptr).code(),
            invalid);
}

}  // namespace
}  // namespace fedumm::kernels
