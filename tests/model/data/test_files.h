// Where the tests of this folder find and leave their files.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace fedumm::testing {

inline std::string TestDataPath(const std::string& name) {
  return std::string(FEDUMM_TEST_DATA) + "/" + name;
}

inline std::string ReadTestData(const std::string& name) {
  std::ifstream stream(TestDataPath(name), std::ios::binary);
  EXPECT_TRUE(stream.good()) << name;
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline nlohmann::json ReadTestJson(const std::string& name) {
  return nlohmann::json::parse(ReadTestData(name));
}

// A path in an empty folder of its own for each test.
inline std::string ScratchPath(const std::string& name) {
  const ::testing::TestInfo* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "fedumm_data" /
                                       (std::string(test->test_suite_name()) + "." + test->name());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return (folder / name).string();
}

}  // namespace fedumm::testing
