// A thread that waits for a peer asks now and then whether it is to stop: a Ctrl-C of its process,
// say. Who calls sets what is asked; without it nobody interrupts.
#pragma once

namespace rdmaorder {

/// While it lives, the waits of its thread ask `asked`, every kSliceMs and after each signal. Once
/// true it has to stay true: a wait then ends at once with Error(kInterrupted), or unconfirmed.
class Interruption {
 public:
  using Asked = bool (*)() noexcept;
  static constexpr int kSliceMs = 50;

  explicit Interruption(Asked asked) noexcept : outer_(asked_) { asked_ = asked; }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  ~Interruption() { asked_ = outer_; }

  [[nodiscard]] static bool wanted() noexcept { return asked_ != nullptr && asked_(); }

 private:
  static inline thread_local Asked asked_ = nullptr;
  Asked outer_;
};

}  // namespace rdmaorder
