#pragma once

#include <span>

#include "fedumm/array.h"

namespace fedumm {

// Writes values as elements of `dtype`, which is not kBool, rounded to nearest with ties to even
// and limited to the dtype's range.
void StoreElements(DType dtype, std::span<const double> values, char* out);

}  // namespace fedumm
