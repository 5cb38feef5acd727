// Tests in a forked child: what is done to a process for good, as limits that hold for no root.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <string>

namespace rdmaorder {

/// Runs `body` in a forked child; true when nothing in it failed.
template <class Body>
bool succeeds_in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      body();
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// No thread can be started while this lives. Only in a child: it is root no more.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    EXPECT_EQ(getrlimit(RLIMIT_NPROC, &before_), 0);
    const rlimit none{0, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
    // Limits do not hold for root.
    EXPECT_TRUE(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
  }
  ~NoMoreThreads() { EXPECT_EQ(setrlimit(RLIMIT_NPROC, &before_), 0); }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;

 private:
  rlimit before_{};
};

#define EXPECT_HAS(text, part) \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << "text: " << (text)

}  // namespace rdmaorder
