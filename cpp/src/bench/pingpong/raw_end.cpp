// Payloads straight into the peer's window. Where a line lies in the processor's mesh matters, so
// they move through several places: in a closed loop each is used for a while (as the floor does),
// paced each payload has the next place.
#include <atomic>

#include "bench/pingpong/loops.hpp"
#include "bench/pingpong/payload.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/transport/inproc.hpp"
#include "rdmaorder/transport/shm.hpp"

namespace rdmaorder::pingpong {
namespace {

constexpr std::uint64_t kPlaceCount = 32;
constexpr std::uint64_t kTurnsPerPlace = 64;

/// A payload size known to the compiler where it is the usual one: the copy is then straight code.
template <std::uint32_t kBytes>
class RawPort {
 public:
  RawPort(std::uint32_t payload_bytes, std::uint64_t turns, const std::uint64_t* window,
          transport::Transport& transport)
      : bytes_(payload_bytes),
        turns_(turns),
        stride_bytes_((payload_bytes + kFalseSharingBytes - 1) / kFalseSharingBytes *
                      kFalseSharingBytes),
        window_(window),
        transport_(transport),
        ordered_(transport.info().byte_order == transport::ByteOrder::kAscendingLine) {}

  [[nodiscard]] RDMAORDER_ALWAYS_INLINE std::size_t word_count() const noexcept {
    return (kBytes != 0 ? kBytes : bytes_) / 8;
  }
  /// Makes the payload of `sequence` ready to be put.
  void prepare(std::uint64_t sequence) noexcept { fill(out_.words, word_count(), sequence); }
  RDMAORDER_ALWAYS_INLINE Status put(std::uint64_t sequence) noexcept {
    return transport_.put(offset_of(sequence), out_.words, kBytes != 0 ? kBytes : bytes_);
  }
  /// The payload of `sequence` has come: copied, and where bytes come in any order, whole.
  RDMAORDER_ALWAYS_INLINE bool take(std::uint64_t sequence) noexcept {
    const std::uint64_t* words = window_ + offset_of(sequence) / 8;
    // SYNC payload: the transport's put releases the last word of each line (mapped_put), acquired
    // here. A NIC promises nothing: there the copy's own contents decide.
    const std::uint64_t last = load_acquire(words + word_count() - 1);
    if (static_cast<std::uint32_t>(last) != static_cast<std::uint32_t>(sequence)) return false;
    copy_words_from_shared(in_.words, words, word_count());
    if (RDMAORDER_LIKELY(ordered_)) return true;
    if (is_payload(in_.words, word_count(), sequence)) return true;
    ++torn_;
    return false;
  }
  /// Of what was taken last. Off the path where order is kept.
  [[nodiscard]] bool is_good(std::uint64_t sequence) const noexcept {
    return is_payload(in_.words, word_count(), sequence);
  }
  [[nodiscard]] transport::Transport& transport() noexcept { return transport_; }
  [[nodiscard]] std::uint64_t torn() const noexcept { return torn_; }

 private:
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t offset_of(
      std::uint64_t sequence) const noexcept {
    return (sequence / turns_) % kPlaceCount * stride_bytes_;
  }

  std::uint32_t bytes_;
  std::uint64_t turns_;
  std::uint64_t stride_bytes_;
  const std::uint64_t* window_;
  transport::Transport& transport_;
  bool ordered_;
  std::uint64_t torn_ = 0;
  Payload in_{};
  Payload out_{};
};

/// A port as a Loop wants it.
template <class Port>
class RawLoopEnd {
 public:
  RawLoopEnd(Port& port, std::uint64_t first_sequence, std::uint64_t most_under_way)
      : port_(port),
        first_sequence_(first_sequence),
        next_in_(first_sequence),
        next_out_(first_sequence),
        most_under_way_(most_under_way) {
    prepare(next_out_);
  }
  RDMAORDER_ALWAYS_INLINE Status send(std::uint64_t index) noexcept {
    const std::uint64_t sequence = first_sequence_ + index;
    if (RDMAORDER_UNLIKELY(sequence - next_in_ >= most_under_way_)) return Status::kFull;
    if (RDMAORDER_UNLIKELY(prepared_ != sequence)) prepare(sequence);  // paced: not known before
    const Status status = port_.put(sequence);
    if (RDMAORDER_LIKELY(ok(status))) next_out_ = sequence + 1;
    return status;
  }
  template <class Answered>
  RDMAORDER_ALWAYS_INLINE std::uint32_t poll(Answered&& answered) noexcept {
    if (!port_.take(next_in_)) return 0;
    answered(next_in_ - first_sequence_);
    ++next_in_;
    if (most_under_way_ > 1) check();
    return 1;
  }
  /// Is the answer what it must be; and the next payload.
  void settle() noexcept {
    check();
    prepare(next_out_);
  }
  bool alive() noexcept { return ok(port_.transport().progress()); }
  [[nodiscard]] std::string cause() const { return port_.transport().failure(); }
  void finish(Outcome& outcome) noexcept {
    outcome.bad_payloads += bad_payloads_;
    outcome.torn += port_.torn();
  }
  [[nodiscard]] std::uint64_t next_sequence() const noexcept { return next_out_; }

 private:
  void check() noexcept {
    if (!port_.is_good(next_in_ - 1)) ++bad_payloads_;
  }
  void prepare(std::uint64_t sequence) noexcept {
    port_.prepare(sequence);
    prepared_ = sequence;
  }

  Port& port_;
  std::uint64_t first_sequence_;
  std::uint64_t next_in_;
  std::uint64_t next_out_;
  std::uint64_t most_under_way_;
  std::uint64_t bad_payloads_ = 0;
  std::uint64_t prepared_ = 0;
};

class RawEndpoint final : public RawEnd {
 public:
  RawEndpoint(std::uint32_t payload_bytes, bool paced, const transport::VerbsConfig* device)
      : payload_bytes_(payload_bytes),
        paced_(paced),
        window_(std::make_shared<memory::Window>(
            memory::Window::create({kPlaceCount * (kPayloadBytesMax + kFalseSharingBytes),
                                    memory::HugePages::kOff, true, -1, "pingpong"}))) {
    if (device != nullptr) endpoint_ = transport::VerbsEndpoint::open(*device, *window_);
  }

  [[nodiscard]] const memory::Window& window() const noexcept override { return *window_; }
  [[nodiscard]] transport::VerbsAddress address() const override {
    if (endpoint_ == nullptr) throw Error(ErrorKind::kTransport, "this end has no RDMA device");
    return endpoint_->local();
  }
  void connect_shm(memory::Window peer_window) override {
    transport_ = transport::make_shm(std::move(peer_window));
  }
  void connect_rdma(const transport::VerbsAddress& peer) override {
    transport_ = transport::VerbsEndpoint::connect(std::move(endpoint_), peer);
  }
  void connect_inproc(RawEndpoint& other) { transport_ = transport::make_inproc(other.window_); }
  [[nodiscard]] transport::Transport& transport() override {
    if (transport_ == nullptr) throw Error(ErrorKind::kTransport, "this end is not connected");
    return *transport_;
  }

  Outcome run(const Plan& plan) override {
    return payload_bytes_ == 64 ? run_port<64>(plan) : run_port<0>(plan);
  }
  std::uint64_t serve() override {
    return payload_bytes_ == 64 ? serve_port<64>() : serve_port<0>();
  }
  void request_stop() noexcept override { stop_.store(true, std::memory_order_relaxed); }

 private:
  template <std::uint32_t kBytes>
  RawPort<kBytes> port() {
    return RawPort<kBytes>(payload_bytes_, paced_ ? 1 : kTurnsPerPlace, window_->words(),
                           transport());
  }

  template <std::uint32_t kBytes>
  Outcome run_port(const Plan& plan) {
    auto here = port<kBytes>();
    RawLoopEnd end(here, next_sequence_, paced_ ? kPlaceCount : 1);
    Outcome outcome = Loop(end, plan).run();
    next_sequence_ = end.next_sequence();
    return outcome;
  }

  template <std::uint32_t kBytes>
  std::uint64_t serve_port() {
    auto here = port<kBytes>();
    std::uint64_t bad_payloads = 0;
    std::uint64_t idle = 0;
    here.prepare(next_sequence_);
    while (!stop_.load(std::memory_order_relaxed)) {
      if (!here.take(next_sequence_)) {
        if ((++idle & 1023) != 0) continue;
        if (InterruptGuard::interrupted() || !ok(here.transport().progress())) break;
        continue;
      }
      Status status = here.put(next_sequence_);
      while (status == Status::kFull && ok(here.transport().progress())) {
        status = here.put(next_sequence_);
      }
      if (!ok(status)) break;
      // Answered first, checked after: the answer is a payload of this side's own making.
      if (!here.is_good(next_sequence_)) ++bad_payloads;
      here.prepare(++next_sequence_);
    }
    return bad_payloads;
  }

  std::uint32_t payload_bytes_;
  bool paced_;
  std::shared_ptr<memory::Window> window_;
  std::unique_ptr<transport::VerbsEndpoint> endpoint_;
  std::unique_ptr<transport::Transport> transport_;
  std::uint64_t next_sequence_ = 1;
  std::atomic<bool> stop_{false};
};

}  // namespace

std::unique_ptr<RawEnd> RawEnd::open(std::uint32_t payload_bytes, bool paced,
                                     const transport::VerbsConfig* device) {
  if (payload_bytes < 64 || payload_bytes > kPayloadBytesMax || payload_bytes % 64 != 0) {
    throw Error(ErrorKind::kConfig, "a payload has 64 to " + std::to_string(kPayloadBytesMax) +
                                        " bytes, a multiple of 64, not " +
                                        std::to_string(payload_bytes));
  }
  return std::make_unique<RawEndpoint>(payload_bytes, paced, device);
}

void RawEnd::connect_inproc(RawEnd& one, RawEnd& other) {
  auto& first = dynamic_cast<RawEndpoint&>(one);
  auto& second = dynamic_cast<RawEndpoint&>(other);
  first.connect_inproc(second);
  second.connect_inproc(first);
}

}  // namespace rdmaorder::pingpong
