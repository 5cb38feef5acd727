// A transport that misbehaves on purpose, around any transport. The seam is put(): nothing of ring,
// link, session or gateway knows that it is there.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder::transport {

enum class Fault : std::uint8_t {
  kNone,
  kDrop,    ///< says kOk and writes nothing
  kDelay,   ///< says kOk, keeps the bytes until release()
  kTear,    ///< says kOk and writes all but the first half of the words; the rest at release()
  kRepeat,  ///< writes the same bytes twice, as a retransmission does
  kFull,    ///< refuses this put: too many outstanding
  kDie,     ///< breaks the link, for good
};

/// The put that is about to happen.
struct Put {
  std::uint64_t index;  ///< from 0
  std::uint64_t offset_bytes;
  std::uint32_t bytes;
};

class FaultTransport final : public Transport {
 public:
  /// Chooses the fault of each put; may be replaced at any time.
  using Plan = std::function<Fault(const Put&)>;

  explicit FaultTransport(
      std::unique_ptr<Transport> inner, std::uint32_t depth = 0,
      Plan plan = [](const Put&) { return Fault::kNone; })
      : plan_(std::move(plan)), inner_(std::move(inner)), info_(inner_->info()) {
    if (depth != 0) info_.depth = depth;
  }

  Status put(std::uint64_t offset_bytes, const void* source,
             std::uint32_t bytes) noexcept override {
    if (dead_) return Status::kTransport;
    const Fault fault = plan_({put_count_++, offset_bytes, bytes});
    switch (fault) {
      case Fault::kDrop:
        return Status::kOk;
      case Fault::kFull:
        return Status::kFull;
      case Fault::kDie:
        die();
        return Status::kTransport;
      case Fault::kDelay:
      case Fault::kTear:
        return hold_back(offset_bytes, static_cast<const std::uint64_t*>(source), bytes / 8,
                         fault == Fault::kTear);
      case Fault::kRepeat:
      case Fault::kNone:
        break;
    }
    const Status status = inner_->put(offset_bytes, source, bytes);
    return fault == Fault::kRepeat && ok(status) ? inner_->put(offset_bytes, source, bytes)
                                                 : status;
  }
  Status progress() noexcept override { return dead_ ? Status::kTransport : inner_->progress(); }
  [[nodiscard]] const Info& info() const noexcept override { return info_; }
  [[nodiscard]] std::string failure() const override {
    return dead_ ? "the injected fault broke the link" : inner_->failure();
  }
  void linger() noexcept override {
    ++linger_count_;
    inner_->linger();
  }
  void close() noexcept override { inner_->close(); }

  void set_plan(Plan plan) { plan_ = std::move(plan); }
  void die() noexcept { dead_ = true; }
  [[nodiscard]] std::uint64_t put_count() const noexcept { return put_count_; }
  [[nodiscard]] int linger_count() const noexcept { return linger_count_; }
  [[nodiscard]] std::size_t held_count() const noexcept { return held_.size(); }
  /// Writes what delayed and torn puts kept back, oldest first.
  void release() {
    while (!held_.empty()) {
      const Held held = std::move(held_.front());
      held_.pop_front();
      (void)write(held.offset_bytes, held.words.data(), held.words.size());
    }
  }

 private:
  struct Held {
    std::uint64_t offset_bytes;
    std::vector<std::uint64_t> words;
  };
  Status write(std::uint64_t offset_bytes, const std::uint64_t* words,
               std::size_t word_count) noexcept {
    return inner_->put(offset_bytes, words, static_cast<std::uint32_t>(word_count * 8));
  }
  Status hold_back(std::uint64_t offset_bytes, const std::uint64_t* words, std::size_t word_count,
                   bool tear) {
    const std::size_t held_count = tear ? word_count / 2 : word_count;
    held_.push_back({offset_bytes, {words, words + held_count}});
    if (!tear) return Status::kOk;
    return write(offset_bytes + held_count * 8, words + held_count, word_count - held_count);
  }

  Plan plan_;
  std::unique_ptr<Transport> inner_;
  Info info_;
  std::deque<Held> held_;
  std::uint64_t put_count_ = 0;
  int linger_count_ = 0;
  bool dead_ = false;
};

/// Wraps a transport and keeps a way to it: the link owns it, the test steers it. `depth`: what it
/// says of itself, 0: what the inner one says.
inline std::pair<std::unique_ptr<Transport>, FaultTransport*> with_faults(
    std::unique_ptr<Transport> inner, std::uint32_t depth = 0) {
  auto faulty = std::make_unique<FaultTransport>(std::move(inner), depth);
  FaultTransport* handle = faulty.get();
  return {std::move(faulty), handle};
}

}  // namespace rdmaorder::transport
