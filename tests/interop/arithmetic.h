#pragma once

#include <cstdint>

#include "fedumm/record.h"

// What the federation computes. Everything is a small dyadic number, so float32 holds it exactly
// whatever the order of the sums. app/interop/arithmetic.py says the same in Python.
namespace fedumm::interop {

// The model before the first round. The last array is larger than one chunk of 5 MiB.
ArrayRecord InitialArrays();

// Adds `step` to every element.
ArrayRecord Moved(const ArrayRecord& arrays, double step);

// Examples of a partition: 1, 3, 4, 8, …: those of the first n sum to a power of two.
int64_t Weight(int64_t partition);

// What a partition adds to every element in one round.
double Step(int64_t partition, double scale, double offset);

// What the weighted mean over all nodes adds in one round.
double MeanStep(int64_t nodes, double scale, double offset);

// Of all elements of all arrays.
double Sum(const ArrayRecord& arrays);

}  // namespace fedumm::interop
