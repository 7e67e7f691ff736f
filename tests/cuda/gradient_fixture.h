// Operands and double-precision references of the gradient kernels on the emulated machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"
#include "tests/cuda/machine/fixture.h"
#include "tests/cuda/machine/machine.h"
#include "tests/cuda/machine/numbers.h"

namespace fedumm::kernels {

// A row-major matrix in device memory. Its padding has no value, so that reading it is a violation.
class Tensor {
 public:
  Tensor(DType dtype, int64_t rows, int64_t columns, int64_t stride, const std::string& name,
         int64_t first = 0)
      : dtype_(dtype),
        units_(dtype == DType::kFloat32 ? 2 : 1),
        rows_(rows),
        columns_(columns),
        stride_(stride),
        data_(static_cast<size_t>(rows * columns == 0 ? 0 : (rows - 1) * stride + columns) * units_,
              name, static_cast<size_t>(first) * units_ * 2) {}

  template <typename Value>
  void Fill(Value value) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < columns_; ++j) Set(i, j, value());
    }
  }
  void Set(int64_t i, int64_t j, float value) {
    uint16_t* const to = data_.data() + At(i, j);
    if (dtype_ == DType::kFloat32) {
      std::memcpy(to, &value, 4);
    } else {
      *to = static_cast<uint16_t>(Bits(value));
    }
    data_.MarkInitialised(At(i, j), units_);
  }
  double Get(int64_t i, int64_t j) const {
    const uint16_t* const from = data_.data() + At(i, j);
    if (dtype_ == DType::kFloat32) {
      float value;
      std::memcpy(&value, from, 4);
      return value;
    }
    return dtype_ == DType::kBFloat16 ? cuda_machine::FromBf16(*from)
                                      : cuda_machine::FromFp16(*from);
  }
  // What an exact result is rounded to.
  double Rounded(double value) const {
    const auto f = static_cast<float>(value);
    return dtype_ == DType::kFloat32    ? f
           : dtype_ == DType::kBFloat16 ? cuda_machine::FromBf16(cuda_machine::ToBf16(f))
                                        : cuda_machine::FromFp16(cuda_machine::ToFp16(f));
  }
  bool WasWritten(int64_t i, int64_t j) const {
    for (size_t unit = 0; unit < units_; ++unit) {
      if (!data_.WasWritten(At(i, j) + unit)) return false;
    }
    return true;
  }
  void ReadOnly() { data_.ReadOnly(); }
  void Poison() { data_.Poison(); }
  std::vector<uint16_t> Contents() const { return {data_.data(), data_.data() + data_.size()}; }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  Matrix matrix() { return {data_.size() == 0 ? nullptr : data_.data(), stride_}; }
  float* floats() { return reinterpret_cast<float*>(data_.data()); }

 private:
  size_t At(int64_t i, int64_t j) const { return static_cast<size_t>(i * stride_ + j) * units_; }
  uint32_t Bits(float value) const {
    return dtype_ == DType::kBFloat16 ? cuda_machine::ToBf16(value) : cuda_machine::ToFp16(value);
  }

  DType dtype_;
  size_t units_;
  int64_t rows_, columns_, stride_;
  cuda_machine::Buffer<uint16_t> data_;
};

struct SegmentShape {
  int64_t rows = 0;
  std::vector<int64_t> ranks;  // one a module
};

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
  explicit Operands(const Batch& batch)
      : batch_(batch), random_(static_cast<std::mt19937_64::result_type>(batch.seed)) {
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
        b_.push_back(Random(batch.n[g], shape.ranks[g], "B"));
        segment.factors[g].a = a_.back()->matrix();
        segment.factors[g].b = b_.back()->matrix();
      }
      segments_.push_back(segment);
    }
    problem_.modules = modules_;
    problem_.segments = segments_;
    rows_ = LoraRows(problem_);
    for (int64_t g = 0; g < modules; ++g) {
      dy_.push_back(Random(rows_, batch.n[g], "dY"));
      dy_matrices_.push_back(dy_.back()->matrix());
    }
    x_ = Random(rows_, batch.k, "x");
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
      const Tensor& b = *b_[i * modules_.size() + g];
      const double factor = factors.scale / (1 - batch_.dropout);
      Comparison ds_error, db_error;
      for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
        for (int64_t j = 0; j < factors.rank; ++j) {
          double want = 0;
          for (int64_t t = 0; t < modules_[g].n; ++t) want += dy_[g]->Get(row, t) * b.Get(t, j);
          ds_error.Add(*ds_, row, s_column + j, factor * want);
        }
      }
      ds_error.Expect(limit, absl::StrCat("dS of segment ", i, " module ", g));
      Tensor* const db = Asked(db_, i, g);
      if (db == nullptr) return;
      for (int64_t t = 0; t < modules_[g].n; ++t) {
        for (int64_t j = 0; j < factors.rank; ++j) {
          double want = Old(db_before_, i, g, t * factors.rank + j);
          for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row)
            want += dy_[g]->Get(row, t) * s_->Get(row, s_column + j);
          db_error.Add(*db, t, j, want);
        }
      }
      db_error.Expect(limit, absl::StrCat("dB of segment ", i, " module ", g));
    });
  }
  void ExpectGradA(double limit) {
    const int64_t words = DropoutWords(batch_.k);
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      Tensor* const da = Asked(da_, i, g);
      if (da == nullptr) return;
      Comparison error;
      for (int64_t j = 0; j < da->rows(); ++j) {
        for (int64_t t = 0; t < batch_.k; ++t) {
          double want = Old(da_before_, i, g, j * batch_.k + t);
          for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
            const bool keep =
                batch_.dropout == 0 || ((*kept_)[row * words + t / 32] >> (t % 32) & 1) != 0;
            if (keep) want += ds_->Get(row, LoraSColumn(problem_, g) + j) * x_->Get(row, t);
          }
          error.Add(*da, j, t, want);
        }
      }
      error.Expect(limit, absl::StrCat("dA of segment ", i, " module ", g));
    });
  }

  // The bits of all results of one segment.
  std::vector<uint16_t> GradSBOf(size_t segment) const {
    std::vector<uint16_t> all = Contents(db_, segment);
    ForModules([&](size_t i, int64_t g, int64_t first_row) {
      if (i != segment) return;
      for (int64_t row = first_row; row < first_row + segments_[i].rows; ++row) {
        for (int64_t j = 0; j < segments_[i].factors[g].rank; ++j) {
          const auto value = static_cast<float>(ds_->Get(row, LoraSColumn(problem_, g) + j));
          uint16_t bits[2];
          std::memcpy(bits, &value, 4);
          all.insert(all.end(), bits, bits + 2);
        }
      }
    });
    return all;
  }
  std::vector<uint16_t> GradAOf(size_t segment) const { return Contents(da_, segment); }

  // Takes over the operands of one segment of `other`, whose only segment this one is.
  void CopySegment(const Operands& other, size_t segment) {
    segments_[0].dropout_key = other.segments_[segment].dropout_key;
    int64_t first_row = 0;
    for (size_t i = 0; i < segment; ++i) first_row += other.segments_[i].rows;
    const auto copy = [&](Tensor& to, const Tensor& from, int64_t first, int64_t from_column,
                          int64_t to_column, int64_t columns) {
      for (int64_t row = 0; row < to.rows(); ++row) {
        for (int64_t j = 0; j < columns; ++j)
          to.Set(row, to_column + j, static_cast<float>(from.Get(first + row, from_column + j)));
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
  Tensor& s() { return *s_; }
  Tensor& ds() { return *ds_; }
  Tensor& x() { return *x_; }
  const uint32_t* kept() { return kept_->data(); }
  float* workspace() { return workspace_->data(); }

 private:
  using Tensors = std::vector<std::unique_ptr<Tensor>>;

  struct Comparison {
    double error = 0, size = 0;
    int64_t wrong = 0, unwritten = 0;
    void Add(const Tensor& got, int64_t i, int64_t j, double want) {
      const double value = got.Get(i, j);
      unwritten += got.WasWritten(i, j) ? 0 : 1;
      wrong += value == got.Rounded(want) ? 0 : 1;
      error += std::isnan(value) ? INFINITY : (value - want) * (value - want);
      size += want * want;
    }
    void Expect(double limit, const std::string& what) const {
      EXPECT_EQ(unwritten, 0) << what << " has elements that were not written";
      if (limit == 0) {
        EXPECT_EQ(wrong, 0) << what << " has wrong elements";
      } else if (size > 0) {
        EXPECT_LE(std::sqrt(error / size), limit) << what;
      }
    }
  };

  int64_t Stride(int64_t columns) const {
    return (batch_.pad == 0 ? columns : (columns + batch_.pad - 1) / batch_.pad * batch_.pad) +
           batch_.odd;
  }
  std::unique_ptr<Tensor> New(int64_t rows, int64_t columns, const std::string& name) const {
    return std::make_unique<Tensor>(batch_.dtype, rows, columns, Stride(columns), name,
                                    batch_.first);
  }
  std::unique_ptr<Tensor> Random(int64_t rows, int64_t columns, const std::string& name) {
    auto tensor = New(rows, columns, name);
    tensor->Fill([&] { return Draw(); });
    return tensor;
  }
  std::unique_ptr<Tensor> Gradient(int64_t rows, int64_t columns, const std::string& name) {
    auto tensor = std::make_unique<Tensor>(DType::kFloat32, rows, columns, columns, name,
                                           batch_.first);  // dense
    if (batch_.add) tensor->Fill([&] { return Draw(); });
    return tensor;
  }
  float Draw() {
    if (batch_.exact) return static_cast<float>(static_cast<int>(random_() % 5) - 2);
    double sum = 0;  // about normal
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(random_() >> 11) * 0x1p-53 - 0.5;
    return static_cast<float>(sum * 1.7);
  }

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
  Tensor* Asked(const Tensors& gradients, size_t segment, int64_t module) const {
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
          values.push_back(batch_.add ? tensor->Get(i, j) : 0);
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
  std::vector<uint16_t> Contents(const Tensors& gradients, size_t segment) const {
    std::vector<uint16_t> all;
    for (size_t g = 0; g < modules_.size(); ++g) {
      const auto contents = gradients[segment * modules_.size() + g]->Contents();
      all.insert(all.end(), contents.begin(), contents.end());
    }
    return all;
  }

  Batch batch_;
  std::mt19937_64 random_;
  LoraProblem problem_;
  std::vector<LoraModule> modules_;
  std::vector<LoraSegment> segments_;
  int64_t rows_ = 0;
  Tensors frozen_, a_, b_, dy_, db_, da_;
  std::vector<std::vector<double>> db_before_, da_before_;
  std::vector<ConstMatrix> dy_matrices_;
  std::unique_ptr<Tensor> x_, s_, ds_;
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

}  // namespace fedumm::kernels
