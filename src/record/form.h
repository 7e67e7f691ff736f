// What an array is made of, apart from its values.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm {

bool IsFloat(DType dtype);
// Whether both have the same shape, whatever their dtypes.
bool SameShape(const Array& a, const Array& b);
// Whether both have the same dtype and shape.
bool SameForm(const Array& a, const Array& b);
// Whether every value of the float type `from` is a value of the float type `to`.
bool WidensExactly(DType from, DType to);
// The same values in a float type that they widen into.
Array Widened(const Array& array, DType dtype);
// Index of the first NaN or infinity, or -1. Integers and booleans have none.
int64_t FirstNonFinite(const Array& array);

// `arrays` as a model of the form of `model`: its names in its order, its shapes and dtypes. Names
// may come in any order, and a float tensor may have any float type: it is rounded to the model's.
// INVALID_ARGUMENT, naming the tensor, if one is missing, unknown, of another shape, not of a float
// type where the model's is or the reverse, or not finite after the conversion. The message goes on
// after the name of what holds the arrays: "lacks tensor 'w'".
absl::StatusOr<ArrayRecord> InFormOf(const ArrayRecord& model, const ArrayRecord& arrays);

}  // namespace fedumm
