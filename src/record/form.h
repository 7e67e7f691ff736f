// What an array is made of, apart from its values.
#pragma once

#include <cstdint>

#include "fedumm/array.h"

namespace fedumm {

bool IsFloat(DType dtype);
// Whether both have the same shape, whatever their dtypes.
bool SameShape(const Array& a, const Array& b);
// Whether both have the same dtype and shape.
bool SameForm(const Array& a, const Array& b);
// Whether every value of the float type `from` is a value of the float type `to`.
bool WidensExactly(DType from, DType to);
// Index of the first NaN or infinity, or -1. Integers and booleans have none.
int64_t FirstNonFinite(const Array& array);

}  // namespace fedumm
