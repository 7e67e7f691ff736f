#pragma once

#include <span>

#include "fedumm/array.h"

namespace fedumm {

// Writes values as elements of `dtype`, rounded once to nearest with ties to even. A float that is
// out of range becomes infinity, an integer the nearest one in range; NaN becomes integer 0. A
// boolean is true unless the value is 0.
void StoreElements(DType dtype, std::span<const double> values, char* out);

}  // namespace fedumm
