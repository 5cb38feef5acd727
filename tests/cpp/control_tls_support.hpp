// The real control server (rdmaorder/gateway) in a process of its own, over a core that only keeps
// books, and a LinkMaker without devices.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "control_support.hpp"
#include "rdmaorder/clock.hpp"

namespace rdmaorder::control {

/// Python with the packages of the project, empty where there is none.
inline std::string test_python() {
  const std::filesystem::path own =
      std::filesystem::path(RDMAORDER_SOURCE_DIR) / ".venv/bin/python";
  if (std::filesystem::exists(own)) return own;
  const char* named = std::getenv("PYTHON");
  return named == nullptr ? "" : named;
}

/// One server with certificates in `directory`; `settings` is JSON, without braces.
class PythonGateway {
 public:
  PythonGateway(const std::string& directory, const std::string& settings) {
    int input[2];
    int output[2];
    EXPECT_EQ(::pipe2(input, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(output, O_CLOEXEC), 0);
    const std::string root = RDMAORDER_SOURCE_DIR;
    const std::string script = root + "/tests/integration/control_gateway.py";
    const std::string python = test_python();
    const std::string object = "{" + settings + "}";
    const std::string path = "PYTHONPATH=" + root;
    const char* arguments[] = {python.c_str(), script.c_str(), directory.c_str(), object.c_str(),
                               nullptr};
    const char* environment[] = {path.c_str(), "PATH=/usr/bin:/bin", nullptr};
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(input[0], STDIN_FILENO);
      ::dup2(output[1], STDOUT_FILENO);
      ::execve(python.c_str(), const_cast<char**>(arguments), const_cast<char**>(environment));
      ::_exit(127);
    }
    ::close(input[0]);
    ::close(output[1]);
    to_ = memory::UniqueFd(input[1]);
    from_ = memory::UniqueFd(output[0]);
    url_ = read_line();
    EXPECT_TRUE(url_.starts_with("rdma://")) << url_;
  }
  PythonGateway(const PythonGateway&) = delete;
  PythonGateway& operator=(const PythonGateway&) = delete;
  ~PythonGateway() {
    to_.reset();
    wait();
  }

  [[nodiscard]] const std::string& url() const { return url_; }
  /// Port and all that follows it in the URL.
  [[nodiscard]] std::string port() const { return url_.substr(url_.rfind(':')); }
  std::string ask(const std::string& line) {
    EXPECT_EQ(::write(to_.get(), (line + "\n").data(), line.size() + 1),
              static_cast<ssize_t>(line.size() + 1));
    return read_line();
  }
  /// Asks until what the core was asked contains `words`.
  std::string await(const std::string& words) {
    const std::uint64_t end_ns = monotonic_ns() + kPatienceNs;
    for (;;) {
      std::string facts = ask("core");
      if (facts.find(words) != std::string::npos) return facts;
      if (monotonic_ns() > end_ns) {
        ADD_FAILURE() << words << " never in " << facts;
        return facts;
      }
      ::usleep(2000);
    }
  }
  /// Answers nothing until resume().
  void suspend() const { ::kill(pid_, SIGSTOP); }
  void resume() const { ::kill(pid_, SIGCONT); }
  void kill() {
    ::kill(pid_, SIGKILL);
    wait();
  }

 private:
  void wait() {
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  std::string read_line() const {
    std::string line;
    char byte = 0;
    while (::read(from_.get(), &byte, 1) == 1 && byte != '\n') line.push_back(byte);
    return line;
  }

  pid_t pid_ = 0;
  memory::UniqueFd to_;
  memory::UniqueFd from_;
  std::string url_;
};

/// Offers numbers and remembers the answer.
class BookLinkMaker final : public LinkMaker {
 public:
  LinkOffer offer(const LinkTerms& asked) override {
    terms = asked;
    window_bytes = asked.report_window->bytes();
    if (fail_offer) throw Error(ErrorKind::kTransport, "no RDMA device here");
    LinkOffer made;
    made.endpoint.qp_number = 18;
    made.endpoint.packet_sequence = 0x123456;
    made.endpoint.gid.fill(0xab);
    made.endpoint.mtu_bytes = 2048;
    made.window_address = reinterpret_cast<std::uintptr_t>(asked.report_window->data());
    made.window_key = 99;
    return made;
  }
  bool accept(const LinkAnswer& given) override {
    if (fail_accept) throw Error(ErrorKind::kTransport, "no route to that GID");
    answer = given;
    return true;
  }
  void abandon() noexcept override {
    ++abandoned_count;
    window_was_mapped = ::msync(terms.report_window->data(), 1, MS_ASYNC) == 0;
  }

  bool fail_offer = false;
  bool fail_accept = false;
  LinkTerms terms;
  std::uint64_t window_bytes = 0;
  LinkAnswer answer;
  int abandoned_count = 0;
  bool window_was_mapped = false;
};

}  // namespace rdmaorder::control
