// Results on standard output: one JSON object a line, so that a run that is cut short still counts.
#pragma once

#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

namespace rdmaorder::bench {

/// One flat object. Names and text are ours and need no escaping.
class JsonLine {
 public:
  JsonLine& add(const char* name, const std::string& text) { return raw(name, '"' + text + '"'); }
  JsonLine& add(const char* name, const char* text) { return add(name, std::string(text)); }
  JsonLine& add(const char* name, double value) {
    if (!std::isfinite(value)) return raw(name, "null");
    char text[48];
    std::snprintf(text, sizeof text, "%.4f", value);
    return raw(name, text);
  }
  JsonLine& add(const char* name, std::uint64_t value) { return raw(name, std::to_string(value)); }
  JsonLine& add(const char* name, bool value) { return raw(name, value ? "true" : "false"); }

  void print() const {
    std::printf("{%s}\n", body_.c_str());
    std::fflush(stdout);
  }

 private:
  JsonLine& raw(const char* name, const std::string& value) {
    if (!body_.empty()) body_ += ", ";
    body_ += '"';
    body_ += name;
    body_ += "\": ";
    body_ += value;
    return *this;
  }
  std::string body_;
};

}  // namespace rdmaorder::bench
