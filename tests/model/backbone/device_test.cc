#include "fedumm/model/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

TEST(DeviceTest, TheHostIsAlwaysThere) {
  const auto device = OpenDevice("cpu");
  ASSERT_THAT(device, IsOk());
  EXPECT_TRUE(device->is_cpu());
}

TEST(DeviceTest, WhatNamesNoDeviceIsRefused) {
  for (const char* name : {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda: 1", "cuda:1x",
                           "cuda:128", "cuda:99999999999", "cuda0"}) {
    EXPECT_THAT(OpenDevice(name), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("a device is cpu, cuda, cuda:1 or auto")))
        << name;
  }
}

// On machines without a GPU, or without LibTorch's CUDA half, the reason is said, and "auto" is the
// host.
TEST(DeviceTest, WhereThereIsNoCudaTheReasonIsSaid) {
  const auto cuda = OpenDevice("cuda");
  const auto automatic = OpenDevice("auto");
  ASSERT_THAT(automatic, IsOk());
  EXPECT_EQ(automatic->is_cuda(), cuda.ok());
  if (cuda.ok()) {
    EXPECT_EQ(cuda->index(), 0);
    EXPECT_THAT(OpenDevice("cuda:100"),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cuda:100 does not exist")));
  } else {
    EXPECT_THAT(cuda, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no CUDA: ")));
    EXPECT_THAT(std::string(cuda.status().message()), HasSubstr("--device cpu"));
  }
}

}  // namespace
}  // namespace fedumm::model
