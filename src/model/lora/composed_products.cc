#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "model/lora/dropout_mask.h"
#include "model/lora/low_rank_products.h"

namespace fedumm::model {
namespace {

// Calls f(i, factors, first row, rows) for each adapter of each segment.
template <typename F>
void ForEachAdapter(const AdapterGroup& group, const F& f) {
  int64_t row = 0;
  for (size_t segment = 0; segment < group.segments.size(); ++segment) {
    const int64_t rows = group.segments[segment].rows;
    for (size_t i = 0; i < group.linears.size(); ++i) {
      const Factors& factors = group.linears[i].factors[segment];
      if (factors.rank() > 0) f(i, factors, row, rows);
    }
    row += rows;
  }
}

at::Tensor Part(const Factors& factors, const at::Tensor& s, int64_t row, int64_t rows) {
  return s.narrow(0, row, rows).narrow(1, factors.column, factors.rank());
}

// y += m1 m2, where y may have a narrower dtype.
void AddMm(const at::Tensor& y, const at::Tensor& m1, const at::Tensor& m2) {
  if (y.scalar_type() == m1.scalar_type()) {
    y.addmm_(m1, m2);
  } else {
    y.add_(at::mm(m1, m2));
  }
}

// x in the adapters' dtype, without what `mask` (may be undefined) drops.
at::Tensor Kept(const at::Tensor& x, const at::Tensor& mask, at::ScalarType dtype) {
  return mask.defined() ? x.to(dtype) * mask : x.to(dtype);
}

class Composed final : public LowRankProducts {
 public:
  at::Tensor Shrink(const AdapterGroup& group, const at::Tensor& x,
                    at::Tensor* mask) const override {
    if (group.dropout > 0) {
      std::vector<at::Tensor> masks;
      for (const Segment& segment : group.segments) {
        masks.push_back(
            DropoutMask(segment.rows, x.size(1), x.device(), group.dropout, segment.dropout_key));
      }
      *mask = at::cat(masks);
    }
    const at::Tensor kept = Kept(x, *mask, group.dtype);
    const at::Tensor s = at::empty({x.size(0), group.ranks}, kept.options());
    ForEachAdapter(group, [&](size_t, const Factors& factors, int64_t row, int64_t rows) {
      at::Tensor part = Part(factors, s, row, rows);
      at::addmm_out(part, part, kept.narrow(0, row, rows), factors.a.t(), /*beta=*/0,
                    factors.scale);
    });
    return s;
  }

  std::vector<at::Tensor> Outputs(const AdapterGroup& group, const at::Tensor& x,
                                  const at::Tensor& s) const override {
    std::vector<at::Tensor> outputs;
    for (const AdaptedLinear& linear : group.linears) outputs.push_back(FrozenOutput(linear, x));
    ForEachAdapter(group, [&](size_t i, const Factors& factors, int64_t row, int64_t rows) {
      AddMm(outputs[i].narrow(0, row, rows), Part(factors, s, row, rows), factors.b.t());
    });
    return outputs;
  }

  at::Tensor GradSB(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                    const at::Tensor& s) const override {
    at::Tensor ds;
    ForEachAdapter(group, [&](size_t i, const Factors& factors, int64_t row, int64_t rows) {
      if (!dy[i].defined()) return;
      if (!ds.defined()) {
        ds = at::zeros({dy[i].size(0), group.ranks}, dy[i].options().dtype(group.dtype));
      }
      const at::Tensor wide = dy[i].narrow(0, row, rows).to(group.dtype);
      at::Tensor part = Part(factors, ds, row, rows);
      at::addmm_out(part, part, wide, factors.b, /*beta=*/0, factors.scale);
      if (s.defined()) factors.b.mutable_grad().addmm_(wide.t(), Part(factors, s, row, rows));
    });
    return ds;
  }

  void AddGradA(const AdapterGroup& group, const at::Tensor& x, const at::Tensor& mask,
                const at::Tensor& ds) const override {
    const at::Tensor kept = Kept(x, mask, group.dtype);
    ForEachAdapter(group, [&](size_t, const Factors& factors, int64_t row, int64_t rows) {
      factors.a.mutable_grad().addmm_(Part(factors, ds, row, rows).t(), kept.narrow(0, row, rows));
    });
  }

  at::Tensor GradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                   const at::Tensor& ds, const at::Tensor& mask) const override {
    at::Tensor dx = FrozenGradX(group, dy);
    ForEachAdapter(group, [&](size_t i, const Factors& factors, int64_t row, int64_t rows) {
      if (!dy[i].defined()) return;
      const at::Tensor to = dx.narrow(0, row, rows);
      const at::Tensor part = Part(factors, ds, row, rows);
      if (mask.defined()) {
        to.add_(at::mm(part, factors.a) * mask.narrow(0, row, rows));
      } else {
        AddMm(to, part, factors.a);
      }
    });
    return dx;
  }
};

}  // namespace

at::Tensor FrozenOutput(const AdaptedLinear& linear, const at::Tensor& x) {
  return linear.bias.defined() ? at::addmm(linear.bias, x, linear.weight.t())
                               : at::mm(x, linear.weight.t());
}

at::Tensor FrozenGradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy) {
  at::Tensor dx;
  for (size_t i = 0; i < dy.size(); ++i) {
    if (!dy[i].defined()) continue;
    if (dx.defined()) {
      dx.addmm_(dy[i], group.linears[i].weight);
    } else {
      dx = at::mm(dy[i], group.linears[i].weight);
    }
  }
  return dx;
}

const LowRankProducts& ComposedProducts() {
  static const Composed products;
  return products;
}

}  // namespace fedumm::model
