// Operands and double-precision references of the gradient kernels on the emulated machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "fedumm/kernels.h"
#include "tests/cuda/device_matrix.h"
#include "tests/cuda/machine/fixture.h"
#include "tests/cuda/machine/machine.h"

namespace fedumm::kernels {

struct Batch {
  DType dtype = DType::kBFloat16;
  int64_t k = 8;
  std::vector<int64_t> n;  // one a module
  std::vector<SegmentShape> segments;
  double dropout = 0;
  int64_t pad = 0;    // rows of operands are padded to a multiple of this, plus `odd`
  int64_t odd = 0;    // elements added to each stride
  int64_t first = 0;  // elements that operands start after an aligned address
  bool exact = true;  // small integers, whose sums have no rounding error
  bool add = false;
  std::vector<int> without;  // segment * modules + module: no gradient is asked for
  uint64_t seed = 1;
};

// What a call reads and writes, and the results in double precision.
class Operands {
 public:
  explicit Operands(const Batch& batch) : batch_(batch), random_(batch.seed) {
    const auto modules = static_cast<int64_t>(batch.n.size());
    problem_.dtype = batch.dtype;
    problem_.k = batch.k;
    problem_.dropout = batch.dropout;
    modules_.resize(batch.n.size());
    for (int64_t g = 0; g < modules; ++g) {
      modules_[g].n = batch.n[g];
      frozen_.push_back(New(batch.n[g], batch.k, "W"));  // which these kernels do not read
      modules_[g].w = frozen_.back()->matrix();
    }
    uint64_t key = batch.seed * 1000;
    for (const SegmentShape& shape : batch.segments) {
      LoraSegment segment;
      segment.rows = shape.rows;
      segment.dropout_key = ++key;
      for (int64_t g = 0; g < modules; ++g) {
        segment.factors[g].rank = shape.ranks[g];
        segment.factors[g].scale = batch.exact ? (g % 2 == 0 ? 2.0F : -0.5F) : 1.7F;
        a_.push_back(New(shape.ranks[g], batch.k, "A"));
        b_.push_back(Drawn(batch.n[g], shape.ranks[g], "B"));
        segment.factors[g].a = a_.back()->matrix();
        segment.factors[g].b = b_.back()->matrix();
      }
      segments_.push_back(segment);
    }
    problem_.modules = modules_;
    problem_.segments = segments_;
    rows_ = LoraRows(problem_);
    for (int64_t g = 0; g < modules; ++g) {
      dy_.push_back(Drawn(rows_, batch.n[g], "dY"));
      dy_matrices_.push_back(dy_.back()->matrix());
    }
    x_ = Drawn(rows_, batch.k, "x");
    s_ = New(rows_, LoraSColumns(problem_), "S");
    ds_ = New(rows_, LoraSColumns(problem_), "dS");
    ForRanks([&](int64_t row, int64_t column) { s_->Set(row, column, Draw()); });
    s_->ReadOnly();
    const int64_t words = DropoutWords(batch.k);
    kept_ = std::make_unique<cuda_machine::Buffer<uint32_t>>(rows_ * words, "kept");
    int64_t row = 0;
    for (const LoraSegment& segment : segments_) {
      for (int64_t i = 0; i < segment.rows; ++i, ++row) {
        for (int64_t word = 0; word < words; ++word)
          kept_->data()[row * words + word] =
              DropoutWord(batch.dropout, segment.dropout_key, i, word);
      }
    }
    kept_->MarkInitialised();
    kept_->ReadOnly();
    workspace_ = std::make_unique<cuda_machine::Buffer<float>>(LoraWorkspaceBytes(problem_) / 4,
                                                               "workspace");
    for (size_t i = 0; i < segments_.size(); ++i) {
      for (int64_t g = 0; g < modules; ++g) {
        const int64_t rank = batch.segments[i].ranks[g];
        db_.push_back(Gradient(batch.n[g], rank, "dB"));
        da_.push_back(Gradient(rank, batch.k, "dA"));
      }
    }
    db_before_ = Before(db_);
    da_before_ = Before(da_);
  }

  absl::Status GradSB() {
    Restart(db_, db_before_);
    ds_->Poison();
    return LoraGradSBCuda(problem_, dy_matrices_, s_->matrix(), ds_->matrix(), Pointers(db_),
                          batch_.add, workspace_->data(), nullptr);
  }
  // With random values as dS, rather than what GradSB left there.
  absl::Status GradA() {
    if (!ds_drawn_) {
      ds_->Poison();
      ForRanks([&](int64_t row, int64_t column) { ds_->Set(row, column, Draw()); });
      ds_->ReadOnly();
      ds_drawn_ = true;
    }
    Restart(da_, da_before_);
    return LoraGradACuda(problem_, ds_->matrix(), x_->matrix(),
                         batch_.dropout > 0 ? kept_->data() : nullptr, Pointers(da_), batch_.add,
                         workspace_->data(), nullptr);
  }

  // Compares all results; `limit` is the relative Frobenius error of each, 0 for equal bits.
  void ExpectGradSB(double limit) {
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      const LoraFactors& factors = segments_[i].factors[g];
      const int64_t s_column = LoraSColumn(problem_, g);
      const DeviceMatrix& b = *b_[i * modules_.size() + g];
      const double factor = factors.scale / (1 - batch_.dropout);
      Comparison ds_error(*ds_, limit, absl::StrCat("dS of segment ", i, " module ", g));
      for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
        for (int64_t j = 0; j < factors.rank; ++j) {
          double want = 0;
          for (int64_t t = 0; t < modules_[g].n; ++t) want += (*dy_[g])(row, t) * b(t, j);
          ds_error.Expect(row, s_column + j, factor * want);
        }
      }
      DeviceMatrix* const db = Asked(db_, i, g);
      if (db == nullptr) return;
      Comparison db_error(*db, limit, absl::StrCat("dB of segment ", i, " module ", g));
      for (int64_t t = 0; t < modules_[g].n; ++t) {
        for (int64_t j = 0; j < factors.rank; ++j) {
          double want = Old(db_before_, i, g, t * factors.rank + j);
          for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row)
            want += (*dy_[g])(row, t) * (*s_)(row, s_column + j);
          db_error.Expect(t, j, want);
        }
      }
    });
  }
  void ExpectGradA(double limit) {
    const int64_t words = DropoutWords(batch_.k);
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      DeviceMatrix* const da = Asked(da_, i, g);
      if (da == nullptr) return;
      Comparison error(*da, limit, absl::StrCat("dA of segment ", i, " module ", g));
      for (int64_t j = 0; j < da->rows(); ++j) {
        for (int64_t t = 0; t < batch_.k; ++t) {
          double want = Old(da_before_, i, g, j * batch_.k + t);
          for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
            const bool keep =
                batch_.dropout == 0 || ((*kept_)[row * words + t / 32] >> (t % 32) & 1) != 0;
            if (keep) want += (*ds_)(row, LoraSColumn(problem_, g) + j) * (*x_)(row, t);
          }
          error.Expect(j, t, want);
        }
      }
    });
  }

  // The bits of all results of one segment.
  std::vector<uint8_t> GradSBOf(size_t segment) const {
    std::vector<uint8_t> all = Contents(db_, segment);
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      if (i != segment) return;
      for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
        for (int64_t j = 0; j < segments_[i].factors[g].rank; ++j) {
          const uint32_t bits = ds_->Bits(row, LoraSColumn(problem_, g) + j);
          for (int shift = 0; shift < 32; shift += 8) {
            all.push_back(static_cast<uint8_t>(bits >> shift));
          }
        }
      }
    });
    return all;
  }
  std::vector<uint8_t> GradAOf(size_t segment) const { return Contents(da_, segment); }

  // Takes over the operands of one segment of `other`, whose only segment this one is.
  void CopySegment(const Operands& other, size_t segment) {
    segments_[0].dropout_key = other.segments_[segment].dropout_key;
    int64_t first_row = 0;
    for (size_t i = 0; i < segment; ++i) first_row += other.segments_[i].rows;
    const auto copy = [&](DeviceMatrix& to, const DeviceMatrix& from, int64_t first,
                          int64_t from_column, int64_t to_column, int64_t columns) {
      for (int64_t row = 0; row < to.rows(); ++row) {
        for (int64_t j = 0; j < columns; ++j)
          to.Set(row, to_column + j, static_cast<float>(from(first + row, from_column + j)));
      }
    };
    copy(*x_, *other.x_, first_row, 0, 0, batch_.k);
    ds_->Poison();
    for (int64_t g = 0; g < static_cast<int64_t>(modules_.size()); ++g) {
      const int64_t rank = segments_[0].factors[g].rank;
      copy(*dy_[g], *other.dy_[g], first_row, 0, 0, modules_[g].n);
      copy(*b_[g], *other.b_[segment * modules_.size() + g], 0, 0, 0, rank);
      const int64_t from = LoraSColumn(other.problem_, g), to = LoraSColumn(problem_, g);
      copy(*s_, *other.s_, first_row, from, to, rank);
      if (other.ds_drawn_) copy(*ds_, *other.ds_, first_row, from, to, rank);
    }
    ds_drawn_ = other.ds_drawn_;
    const int64_t words = DropoutWords(batch_.k);
    std::copy_n(other.kept_->data() + first_row * words, segments_[0].rows * words, kept_->data());
  }

  const LoraProblem& problem() const { return problem_; }
  const std::vector<ConstMatrix>& dy() const { return dy_matrices_; }
  DeviceMatrix& s() { return *s_; }
  DeviceMatrix& ds() { return *ds_; }
  DeviceMatrix& x() { return *x_; }
  const uint32_t* kept() { return kept_->data(); }
  float* workspace() { return workspace_->data(); }

 private:
  using Tensors = std::vector<std::unique_ptr<DeviceMatrix>>;

  int64_t Stride(int64_t columns) const {
    return (batch_.pad == 0 ? columns : (columns + batch_.pad - 1) / batch_.pad * batch_.pad) +
           batch_.odd;
  }
  std::unique_ptr<DeviceMatrix> New(int64_t rows, int64_t columns, const std::string& name) const {
    return std::make_unique<DeviceMatrix>(name, batch_.dtype, rows, columns, Stride(columns),
                                          batch_.first);
  }
  std::unique_ptr<DeviceMatrix> Drawn(int64_t rows, int64_t columns, const std::string& name) {
    auto tensor = New(rows, columns, name);
    tensor->Fill([&] { return Draw(); });
    return tensor;
  }
  std::unique_ptr<DeviceMatrix> Gradient(int64_t rows, int64_t columns, const std::string& name) {
    auto tensor = std::make_unique<DeviceMatrix>(name, DType::kFloat32, rows, columns, columns,
                                                 batch_.first);  // dense
    if (batch_.add) tensor->Fill([&] { return Draw(); });
    return tensor;
  }
  float Draw() { return kernels::Draw(random_, batch_.exact); }

  template <typename Function>
  void ForModules(Function function) const {
    int64_t first_row = 0;
    for (size_t i = 0; i < segments_.size(); ++i) {
      for (size_t g = 0; g < modules_.size(); ++g) function(i, static_cast<int64_t>(g), first_row);
      first_row += segments_[i].rows;
    }
  }
  // Each element of S that belongs to an adapter.
  template <typename Function>
  void ForRanks(Function function) const {
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
        for (int64_t j = 0; j < segments_[i].factors[g].rank; ++j)
          function(row, LoraSColumn(problem_, g) + j);
      }
    });
  }

  bool IsAsked(size_t at) const {
    return std::find(batch_.without.begin(), batch_.without.end(), static_cast<int>(at)) ==
           batch_.without.end();
  }
  DeviceMatrix* Asked(const Tensors& gradients, size_t segment, int64_t module) const {
    const size_t at = segment * modules_.size() + static_cast<size_t>(module);
    return IsAsked(at) ? gradients[at].get() : nullptr;
  }
  std::vector<float*> Pointers(const Tensors& gradients) const {
    std::vector<float*> pointers;
    for (size_t i = 0; i < gradients.size(); ++i)
      pointers.push_back(IsAsked(i) ? gradients[i]->floats() : nullptr);
    return pointers;
  }
  std::vector<std::vector<double>> Before(const Tensors& gradients) const {
    std::vector<std::vector<double>> all;
    for (const auto& tensor : gradients) {
      std::vector<double>& values = all.emplace_back();
      for (int64_t i = 0; i < tensor->rows(); ++i) {
        for (int64_t j = 0; j < tensor->columns(); ++j)
          values.push_back(batch_.add ? (*tensor)(i, j) : 0);
      }
    }
    return all;
  }
  double Old(const std::vector<std::vector<double>>& before, size_t segment, int64_t module,
             int64_t at) const {
    return before[segment * modules_.size() + static_cast<size_t>(module)][at];
  }
  // Gradients and workspace as before the first call.
  void Restart(Tensors& gradients, const std::vector<std::vector<double>>& before) {
    workspace_->Poison();
    for (size_t i = 0; i < gradients.size(); ++i) {
      gradients[i]->Poison();
      size_t at = 0;
      if (batch_.add) gradients[i]->Fill([&] { return static_cast<float>(before[i][at++]); });
    }
  }
  std::vector<uint8_t> Contents(const Tensors& gradients, size_t segment) const {
    std::vector<uint8_t> all;
    for (size_t g = 0; g < modules_.size(); ++g) {
      const auto contents = gradients[segment * modules_.size() + g]->Contents();
      all.insert(all.end(), contents.begin(), contents.end());
    }
    return all;
  }

  Batch batch_;
  Random random_;
  LoraProblem problem_;
  std::vector<LoraModule> modules_;
  std::vector<LoraSegment> segments_;
  int64_t rows_ = 0;
  Tensors frozen_, a_, b_, dy_, db_, da_;
  std::vector<std::vector<double>> db_before_, da_before_;
  std::vector<ConstMatrix> dy_matrices_;
  std::unique_ptr<DeviceMatrix> x_, s_, ds_;
  bool ds_drawn_ = false;
  std::unique_ptr<cuda_machine::Buffer<uint32_t>> kept_;
  std::unique_ptr<cuda_machine::Buffer<float>> workspace_;
};

// The relative error that float sums of random operands may have.
inline double Gate(DType dtype) {
  return dtype == DType::kFloat32 ? 5e-6 : dtype == DType::kBFloat16 ? 3e-3 : 5e-4;
}

// Schedules under which a missing barrier, wait or commit shows.
inline std::vector<cuda_machine::Options> Schedules() {
  std::vector<cuda_machine::Options> all;
  for (const auto order : {cuda_machine::Order::kRandom, cuda_machine::Order::kAscending,
                           cuda_machine::Order::kDescending}) {
    for (const bool early : {false, true}) {
      cuda_machine::Options options;
      options.order = order;
      options.land_early = early;
      options.seed = all.size() + 1;
      all.push_back(options);
    }
  }
  return all;
}

inline constexpr DType kTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

// What the tests of both gradient kernels do. `Kernel` has Call(Operands&), Expect(Operands&,
// limit) and Bits(const Operands&, segment).
template <typename Kernel>
class GradientTest : public cuda_machine::MachineTest {
 protected:
  static void Run(const Batch& batch) {
    Operands operands(batch);
    const absl::Status status = Kernel::Call(operands);
    ASSERT_TRUE(status.ok()) << status;
    Kernel::Expect(operands, batch.exact ? 0 : Gate(batch.dtype));
    cuda_machine::ExpectClean();
  }
  static void RunAllTypes(Batch batch, const std::string& what) {
    for (const DType dtype : kTypes) {
      SCOPED_TRACE(absl::StrCat(what, " dtype ", static_cast<int>(dtype)));
      batch.dtype = dtype;
      Run(batch);
    }
  }
  // Two runs and more give equal bits.
  static void ExpectEqualBitsInAnySchedule(Batch batch) {
    for (const DType dtype : kTypes) {
      batch.dtype = dtype;
      std::vector<uint8_t> first;
      for (const cuda_machine::Options& options : Schedules()) {
        cuda_machine::SetOptions(options);
        Operands operands(batch);
        ASSERT_TRUE(Kernel::Call(operands).ok());
        cuda_machine::ExpectClean();
        const std::vector<uint8_t> bits = Kernel::Bits(operands, 0);
        if (first.empty()) first = bits;
        EXPECT_EQ(bits, first);
      }
    }
  }
  static void ExpectASegmentsBitsAlone(Batch batch) {
    for (const DType dtype : kTypes) {
      batch.dtype = dtype;
      Operands all(batch);
      ASSERT_TRUE(Kernel::Call(all).ok());
      for (size_t i = 0; i < batch.segments.size(); ++i) {
        Batch alone = batch;
        alone.segments = {batch.segments[i]};
        alone.odd = 3;  // nor does the way that operands are copied show
        Operands again(alone);
        again.CopySegment(all, i);
        ASSERT_TRUE(Kernel::Call(again).ok());
        EXPECT_EQ(Kernel::Bits(again, 0), Kernel::Bits(all, i)) << "segment " << i;
      }
    }
  }
};

}  // namespace fedumm::kernels
