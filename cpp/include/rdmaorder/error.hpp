// The one exception type of the C++ core. Thrown by set-up, control and journal opening code,
// never on the order path. The bindings turn it into the matching class of rdmaorder/errors.py.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace rdmaorder {

enum class ErrorKind {
  kConfig,       ///< a setting out of range or contradictory
  kSystem,       ///< a system call failed; `error_number` is its errno
  kHandshake,    ///< the peer spoke, but not this protocol or version
  kRefused,      ///< the peer understood and refused; `code` is its reason
  kTimeout,      ///< the peer did not answer in time
  kTransport,    ///< a link could not be made
  kJournal,      ///< a journal could not be opened, or is damaged
  kClosed,       ///< the session was closed by this side, or belongs to another process
  kInterrupted,  ///< the waiting thread was told to stop (interruption.hpp)
};

/// `what()` names the operation, the object, the cause and the remedy in one line.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, int error_number = 0, std::string code = {})
      : std::runtime_error(message),
        kind_(kind),
        error_number_(error_number),
        code_(std::move(code)) {}

  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }
  /// errno of the failed call, 0 where none applies.
  [[nodiscard]] int error_number() const noexcept { return error_number_; }
  /// Machine-readable reason of a refusal ("DuplicateId", "VersionMismatch" …), else empty.
  [[nodiscard]] const std::string& code() const noexcept { return code_; }

 private:
  ErrorKind kind_;
  int error_number_;
  std::string code_;
};

/// Throws Error(kSystem): "<operation> <object>: <strerror(errno)>[; <remedy>]".
[[noreturn]] void throw_errno(const std::string& operation, const std::string& object,
                              int error_number, const std::string& remedy = {});

}  // namespace rdmaorder
