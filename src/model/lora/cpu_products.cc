#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "fedumm/kernels.h"
#include "model/lora/kernel_type.h"
#include "model/lora/low_rank_products.h"

namespace fedumm::model {
namespace {

using kernels::CpuActivation;
using kernels::PackedFactor;

constexpr int64_t kMultiplyAddsPerThread = int64_t{1} << 19;  // that are worth a thread
constexpr int64_t kColumnsTogether = 64;                      // of a gradient that go together

CpuActivation Activation(const at::Tensor& x, const at::Tensor& mask = {}) {
  CpuActivation activation{.dtype = *KernelType(x.scalar_type()),
                           .matrix = {const_cast<void*>(x.const_data_ptr()), x.size(1)}};
  if (mask.defined()) {
    activation.kept = static_cast<const uint32_t*>(mask.const_data_ptr());
    activation.kept_stride = mask.size(1);
  }
  return activation;
}

CpuActivation RowsFrom(CpuActivation activation, int64_t row) {
  const int64_t bytes = activation.dtype == kernels::DType::kFloat32 ? 4 : 2;
  activation.matrix.data =
      static_cast<char*>(activation.matrix.data) + row * activation.matrix.stride * bytes;
  if (activation.kept != nullptr) activation.kept += row * activation.kept_stride;
  return activation;
}

int64_t RowsPerThread(int64_t columns, int64_t ranks) {
  return kMultiplyAddsPerThread / std::max<int64_t>(columns * ranks, 1) + 1;
}

// The rows of all A of a segment one below the other.
PackedFactor PackedA(PackedFactor::For use, const AdapterGroup& group, size_t segment) {
  std::vector<const float*> rows;
  int64_t columns = 0;
  for (const AdaptedLinear& linear : group.linears) {
    const Factors& factors = linear.factors[segment];
    for (int64_t j = 0; j < factors.rank(); ++j) {
      columns = factors.a.size(1);
      rows.push_back(factors.a.const_data_ptr<float>() + j * columns);
    }
  }
  return {use, rows, columns, 1};
}

// The columns of B.
PackedFactor PackedB(PackedFactor::For use, const Factors& factors) {
  std::vector<const float*> columns;
  for (int64_t j = 0; j < factors.rank(); ++j) {
    columns.push_back(factors.b.const_data_ptr<float>() + j);
  }
  return {use, columns, factors.b.size(0), factors.rank()};
}

class Cpu final : public LowRankProducts {
 public:
  at::Tensor Shrink(const AdapterGroup& group, const at::Tensor& x,
                    at::Tensor* mask) const override {
    const int64_t words = kernels::DropoutWords(x.size(1));
    if (group.dropout > 0) *mask = at::empty({x.size(0), words}, x.options().dtype(at::kInt));
    const at::Tensor s = at::empty({x.size(0), group.ranks}, x.options().dtype(at::kFloat));
    if (x.is_meta()) return s;
    uint32_t* const kept =
        mask->defined() ? static_cast<uint32_t*>(mask->mutable_data_ptr()) : nullptr;
    ForEachSegment(group, [&](size_t segment, int64_t row, int64_t rows) {
      const PackedFactor a = PackedA(PackedFactor::For::kShrink, group, segment);
      std::vector<float> scales;
      for (const AdaptedLinear& linear : group.linears) {
        const Factors& factors = linear.factors[segment];
        scales.resize(scales.size() + static_cast<size_t>(factors.rank()),
                      static_cast<float>(factors.scale));
      }
      const CpuActivation all = RowsFrom(Activation(x, *mask), row);
      float* const out = s.mutable_data_ptr<float>() + row * group.ranks;
      at::parallel_for(
          0, rows, RowsPerThread(x.size(1), group.ranks), [&](int64_t begin, int64_t end) {
            if (kept != nullptr) {
              kernels::DropoutMaskCpu(group.dropout, group.segments[segment].dropout_key, begin,
                                      end - begin, x.size(1), kept + (row + begin) * words);
            }
            kernels::LoraShrinkCpu(end - begin, scales.data(), RowsFrom(all, begin), a,
                                   out + begin * group.ranks, group.ranks);
          });
    });
    return s;
  }

  std::vector<at::Tensor> Outputs(const AdapterGroup& group, const at::Tensor& x,
                                  const at::Tensor& s) const override {
    std::vector<at::Tensor> outputs;
    for (const AdaptedLinear& linear : group.linears) {
      outputs.push_back(FrozenOutput(linear, x));
      if (x.is_meta()) continue;
      ForEachSegment(group, [&](size_t segment, int64_t row, int64_t rows) {
        const Factors& factors = linear.factors[segment];
        if (factors.rank() == 0) return;
        ExpandAdd(s, factors.column, row, rows, PackedB(PackedFactor::For::kExpand, factors),
                  Activation(outputs.back()));
      });
    }
    return outputs;
  }

  at::Tensor GradSB(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                    const at::Tensor& s) const override {
    at::Tensor ds;
    for (size_t i = 0; i < dy.size(); ++i) {
      if (!dy[i].defined()) continue;
      if (!ds.defined()) {
        ds = at::zeros({dy[i].size(0), group.ranks}, dy[i].options().dtype(at::kFloat));
      }
      ForEachSegment(group, [&](size_t segment, int64_t row, int64_t rows) {
        const Factors& factors = group.linears[i].factors[segment];
        if (factors.rank() == 0) return;
        if (!dy[i].is_meta()) AddToGradS(factors, dy[i], ds, row, rows);
        if (s.defined()) AddGradB(factors, dy[i], s, row, rows);
      });
    }
    return ds;
  }

  void AddGradA(const AdapterGroup& group, const at::Tensor& x, const at::Tensor& mask,
                const at::Tensor& ds) const override {
    if (x.is_meta()) return;
    ForEachSegment(group, [&](size_t segment, int64_t row, int64_t rows) {
      std::vector<float*> gradient;
      for (const AdaptedLinear& linear : group.linears) {
        const Factors& factors = linear.factors[segment];
        for (int64_t j = 0; j < factors.rank(); ++j) {
          gradient.push_back(factors.a.mutable_grad().mutable_data_ptr<float>() + j * x.size(1));
        }
      }
      OuterAdd(ds, 0, row, rows, Activation(x, mask), x.size(1), gradient);
    });
  }

  at::Tensor GradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                   const at::Tensor& ds, const at::Tensor& mask) const override {
    at::Tensor dx = FrozenGradX(group, dy);
    if (!ds.defined() || dx.is_meta()) return dx;
    ForEachSegment(group, [&](size_t segment, int64_t row, int64_t rows) {
      ExpandAdd(ds, 0, row, rows, PackedA(PackedFactor::For::kExpand, group, segment),
                Activation(dx, mask));
    });
    return dx;
  }

 private:
  // Calls f(segment, first row, rows).
  template <typename F>
  static void ForEachSegment(const AdapterGroup& group, const F& f) {
    int64_t row = 0;
    for (size_t segment = 0; segment < group.segments.size(); ++segment) {
      f(segment, row, group.segments[segment].rows);
      row += group.segments[segment].rows;
    }
  }
  static void AddToGradS(const Factors& factors, const at::Tensor& dy, const at::Tensor& ds,
                         int64_t row, int64_t rows) {
    const PackedFactor b = PackedB(PackedFactor::For::kShrink, factors);
    const std::vector<float> scales(static_cast<size_t>(factors.rank()),
                                    static_cast<float>(factors.scale));
    const int64_t ranks = ds.size(1);
    const CpuActivation all = RowsFrom(Activation(dy), row);
    float* const out = ds.mutable_data_ptr<float>() + row * ranks + factors.column;
    at::parallel_for(0, rows, RowsPerThread(b.columns(), b.rank()),
                     [&](int64_t begin, int64_t end) {
                       kernels::LoraShrinkCpu(end - begin, scales.data(), RowsFrom(all, begin), b,
                                              out + begin * ranks, ranks);
                     });
  }
  static void AddGradB(const Factors& factors, const at::Tensor& dy, const at::Tensor& s,
                       int64_t row, int64_t rows) {
    const int64_t n = dy.size(1);
    // The loops run along the columns of dY: they give the transposed gradient.
    const at::Tensor transposed = at::zeros({factors.rank(), n}, dy.options().dtype(at::kFloat));
    if (!dy.is_meta()) {
      std::vector<float*> gradient;
      for (int64_t j = 0; j < factors.rank(); ++j) {
        gradient.push_back(transposed.mutable_data_ptr<float>() + j * n);
      }
      OuterAdd(s, factors.column, row, rows, Activation(dy), n, gradient);
    }
    factors.b.mutable_grad().add_(transposed.t());
  }
  static void ExpandAdd(const at::Tensor& s, int64_t column, int64_t row, int64_t rows,
                        const PackedFactor& f, const CpuActivation& y) {
    const int64_t ranks = s.size(1);
    const float* const from = s.const_data_ptr<float>() + row * ranks + column;
    const CpuActivation to = RowsFrom(y, row);
    at::parallel_for(0, rows, RowsPerThread(f.columns(), f.rank()),
                     [&](int64_t begin, int64_t end) {
                       kernels::LoraExpandAddCpu(end - begin, from + begin * ranks, ranks, f,
                                                 RowsFrom(to, begin));
                     });
  }
  // Threads share out columns: each element is one sum over the rows, in their order.
  static void OuterAdd(const at::Tensor& s, int64_t column, int64_t row, int64_t rows,
                       const CpuActivation& x, int64_t columns,
                       const std::vector<float*>& gradient) {
    const int64_t ranks = s.size(1);
    const float* const from = s.const_data_ptr<float>() + row * ranks + column;
    const CpuActivation of = RowsFrom(x, row);
    const int64_t grain =
        RowsPerThread(rows * kColumnsTogether, static_cast<int64_t>(gradient.size()));
    at::parallel_for(0, (columns + kColumnsTogether - 1) / kColumnsTogether, grain,
                     [&](int64_t begin, int64_t end) {
                       kernels::LoraOuterAddCpu(rows, from, ranks, of, begin * kColumnsTogether,
                                                std::min(end * kColumnsTogether, columns),
                                                gradient);
                     });
  }
};

}  // namespace

const LowRankProducts& CpuProducts() {
  static const Cpu products;
  return products;
}

const LowRankProducts& ProductsFor(const AdapterGroup& group, const at::Tensor& x) {
  constexpr int64_t kFewRows = 8;  // for which factors are not worth packing
  if (group.dtype != at::kFloat || !KernelType(x.scalar_type()).has_value()) {
    return ComposedProducts();
  }
  if (x.is_cuda() && kernels::CudaDeviceCount() > 0) return CudaProducts();
  if ((x.is_cpu() || x.is_meta()) && x.size(0) >= kFewRows) return CpuProducts();
  return ComposedProducts();
}

}  // namespace fedumm::model
