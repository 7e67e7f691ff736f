// The built-in strategies.
#pragma once

#include "fedumm/strategy.h"

namespace fedumm {

// Federated averaging (McMahan et al., arXiv 1602.05629): the weighted mean of the replies is the
// next model. Over LoRA adapters: FedIT.
class FedAvg : public Strategy {
 public:
  using Strategy::Strategy;
};

}  // namespace fedumm
