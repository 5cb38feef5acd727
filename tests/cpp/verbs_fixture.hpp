// Two fake devices, and what the tests of set-up and of the data path do with them.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>

#include "child_support.hpp"
#include "rdmaorder/error.hpp"
#include "verbs_fake.hpp"
#include "verbs_pair.hpp"

namespace rdmaorder::transport {

using ring_support::eventually;
using ring_support::make_window;

inline VerbsConfig on(const std::string& device) {
  VerbsConfig config;
  config.device = device;
  return config;
}

class VerbsTest : public ::testing::Test {
 protected:
  explicit VerbsTest(FakeVerbs::Nic nic = FakeVerbs::Nic::kAtOnce) : fake_(nic) {
    fake_.add_device("fake0", roce_port("10.1.0.1"));
    fake_.add_device("fake1", roce_port("10.1.0.2"));
  }
  VerbsPair make(const VerbsConfig& near = on("fake0")) {
    return VerbsPair::make(api_, near, on("fake1"), 1U << 20);
  }
  /// The error of opening, empty when it succeeds.
  std::string refusal(const VerbsConfig& config) {
    try {
      (void)open_endpoint(api_, config, window_);
    } catch (const Error& error) {
      EXPECT_EQ(fake_.live_count(), 0U) << error.what();
      return error.what();
    }
    return {};
  }
  VerbsFacts facts_of(const VerbsConfig& config) {
    return open_endpoint(api_, config, window_)->facts();
  }

  FakeVerbs fake_;
  VerbsApi api_ = fake_.api();
  memory::Window window_ = make_window(4096);
  std::uint64_t words_[1024] = {};
};
/// Work completes when the test calls deliver().
class VerbsOnDemandTest : public VerbsTest {
 protected:
  VerbsOnDemandTest() : VerbsTest(FakeVerbs::Nic::kOnDemand) {}
};

}  // namespace rdmaorder::transport
