// Reference values of the tests in this folder.
#pragma once

#include <string>

#include "fedumm/model/backbone.h"

namespace fedumm::model {

std::string ReadTestFile(const std::string& name);
StateDict LoadGolden(const std::string& name);  // aborts if there is no such file
// Largest |a - b|; infinite if the shapes differ.
double MaxDifference(const at::Tensor& a, const at::Tensor& b);
// The same, relative to the largest |b|.
double RelativeDifference(const at::Tensor& a, const at::Tensor& b);
// Normal numbers, the same on every run.
at::Tensor RandomTensor(at::IntArrayRef shape, uint64_t seed);
// The gradient of `loss` (a scalar) with respect to `input`.
at::Tensor GradientOf(const at::Tensor& loss, const at::Tensor& input);
// The configuration of the embedded demo.
BackboneConfig TinyConfig();

}  // namespace fedumm::model
