// The control connection of a live link, whatever carries its bytes: is the gateway there,
// questions and answers, and the graceful end.
//
// Answers carry the number of their question. One that comes after its time, whole or in parts, is
// read and dropped by whoever reads next; only what answers no question is a fault of the gateway.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "rdmaorder/control.hpp"

namespace rdmaorder::control {

struct Look {
  PeerCheck state = PeerCheck::kQuiet;
  std::string code;
  std::string text;
  std::uint64_t last_sequence = 0;
};

/// The peer is gone, and why in words.
Look gone(std::string why);

/// The state, with its words in *text unless that is null or nothing was said.
PeerCheck tell(const Look& seen, std::string* text) noexcept;

class LiveConnection : public Connection {
 public:
  PeerCheck check(std::string* text) noexcept override { return tell(look(), text); }
  bool terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                 std::uint64_t* confirmed) noexcept override;
  Message ask(MessageWriter& question, Turn turn, std::uint64_t timeout_ns) override;

 protected:
  /// Never waits. kData: *got bytes. Throws Error.
  virtual Got read_some(char* data, std::size_t bytes, std::size_t* got) = 0;
  /// Sends `frame` whole, after what an earlier call had no time for; what this one has no time for
  /// is kept. Returns also when the peer has closed. Throws Error: kTimeout, kSystem.
  virtual void write(std::string_view frame, const Deadline& deadline) = 0;

 private:
  bool fetch();
  [[nodiscard]] Message fetched() const;
  std::uint64_t take_answer(const Message& message);
  Message await_answer(std::uint64_t request, const Deadline& deadline);
  Look judge();
  Look look() noexcept;

  std::string available_;  ///< of one frame, never beyond its end
  bool closed_ = false;
  std::uint64_t asked_ = 0;          ///< number of the last question
  std::vector<std::uint64_t> open_;  ///< questions without an answer: one, and kills
};

}  // namespace rdmaorder::control
