// Command lines of the benchmark programs: --name value, nothing else.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>

namespace rdmaorder::bench {

class Options {
 public:
  Options(int argc, char** argv) {
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      if (!name.starts_with("--") || i + 1 == argc) {
        throw std::invalid_argument(name + ": options are written --name value");
      }
      values_[name.substr(2)] = argv[i + 1];
    }
  }
  [[nodiscard]] std::string text(const std::string& name, const std::string& fallback) const {
    const auto found = values_.find(name);
    return found == values_.end() ? fallback : found->second;
  }
  [[nodiscard]] std::uint64_t number(const std::string& name, std::uint64_t fallback) const {
    const auto found = values_.find(name);
    return found == values_.end() ? fallback : std::stoull(found->second);
  }
  /// The two processors of a pair: --cpu and --peer-cpu.
  [[nodiscard]] int own_cpu() const { return static_cast<int>(number("cpu", 0)); }
  [[nodiscard]] int peer_cpu() const { return static_cast<int>(number("peer-cpu", 1)); }

 private:
  std::map<std::string, std::string> values_;
};

/// True when `name` stands in the comma-separated `list`.
[[nodiscard]] inline bool in_list(const std::string& list, const std::string& name) {
  return ("," + list + ",").find("," + name + ",") != std::string::npos;
}

/// Runs a benchmark's body; an exception becomes one line and exit status 1.
template <class Body>
int guarded_main(int argc, char** argv, Body&& body) {
  try {
    return body(Options(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace rdmaorder::bench
