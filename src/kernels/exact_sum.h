// Exact sums for averaging. Raw pointers; the caller checks sizes. Thread-safe.
//
// Floating-point addition depends on the order. Here each value is split into parts that are whole
// multiples of fixed powers of two (grids), and parts of one grid are added up in a double. As long
// as such a sum stays below 2^53 grid steps no addition rounds, so any order gives the same bits.
#pragma once

#include <cstdint>

namespace fedumm::kernels {

// Grid g has the step 2^(kGridBits * g); g runs from kMinGrid to kMaxGrid.
constexpr int kGridBits = 34;
constexpr int kMinGrid = -8;
constexpr int kMaxGrid = 5;
constexpr int kNumGrids = kMaxGrid - kMinGrid + 1;
// So many values may be added to one sum: each part is at most 2^kGridBits steps.
constexpr int64_t kMaxAddends = int64_t{1} << (53 - kGridBits);
// Values must be smaller than this, and bits below the step of kMinGrid (2^-272) are lost.
constexpr double kMaxValue = 0x1p204;

// values = weight * x, rounded once to double. Returns the largest magnitude.
double ScaleToDouble(int64_t n, double weight, const float* x, double* values);
double ScaleToDouble(int64_t n, double weight, const double* x, double* values);
// The grid that the parts of a value of this magnitude start at.
int TopGrid(double magnitude);
// Moves from each value to its sum the nearest multiple of the grid's step. Every |value| must be
// below 2^(kGridBits * (grid + 1)). Returns whether something is left in any value.
bool AddToGrid(int64_t n, int grid, double* values, double* sums);

// A window is the cheap way to the same exact sums, for values of similar size: integers that count
// steps of 2^step_exponent. |value| must be below 2^(kWindowBits + step_exponent), and so must the
// magnitudes of all that is added to one sum together.
constexpr int kWindowBits = 62;
// False, and nothing is added, if a value is no whole number of steps.
bool AddToWindow(int64_t n, int step_exponent, const double* values, int64_t* sums);

}  // namespace fedumm::kernels
