// ZeroMQ through its C interface, opened at run time: nothing here needs it to be installed.
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bench/pingpong/loops.hpp"
#include "bench/pingpong/payload.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::pingpong {
namespace {

// zmq.h: stable since 3.2.
constexpr int kPair = 0;
constexpr int kDontWait = 1;
constexpr int kLinger = 17;
constexpr int kReceiveTimeout = 27;
constexpr int kBlockingSliceMs = 100;

class Library {
 public:
  explicit Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
      throw Error(ErrorKind::kSystem, "libzmq cannot be loaded: " + std::string(dlerror()));
    }
    load(context_new, "zmq_ctx_new");
    load(context_term, "zmq_ctx_term");
    load(socket, "zmq_socket");
    load(close, "zmq_close");
    load(set_option, "zmq_setsockopt");
    load(bind, "zmq_bind");
    load(connect, "zmq_connect");
    load(send, "zmq_send");
    load(receive, "zmq_recv");
    load(error_text, "zmq_strerror");
    load(error_number, "zmq_errno");
  }
  // Never unloaded: its I/O thread may outlive the context by a moment.
  void* (*context_new)() = nullptr;
  int (*context_term)(void*) = nullptr;
  void* (*socket)(void*, int) = nullptr;
  int (*close)(void*) = nullptr;
  int (*set_option)(void*, int, const void*, std::size_t) = nullptr;
  int (*bind)(void*, const char*) = nullptr;
  int (*connect)(void*, const char*) = nullptr;
  int (*send)(void*, const void*, std::size_t, int) = nullptr;
  int (*receive)(void*, void*, std::size_t, int) = nullptr;
  const char* (*error_text)(int) = nullptr;
  int (*error_number)() = nullptr;

 private:
  template <class Function>
  void load(Function& function, const char* name) {
    void* found = dlsym(handle_, name);
    if (found == nullptr) {
      throw Error(ErrorKind::kSystem, std::string("libzmq has no ") + name + ": too old");
    }
    std::memcpy(&function, &found, sizeof function);
  }
  void* handle_;
};

class ZeroMqPort {
 public:
  ZeroMqPort(const ZeroMqConfig& config, std::uint32_t payload_bytes, bool binds)
      : library_(config.shared_object), blocking_(config.blocking), bytes_(payload_bytes) {
    context_ = library_.context_new();
    socket_ = library_.socket(context_, kPair);
    const int none = 0;
    const int slice = kBlockingSliceMs;
    library_.set_option(socket_, kLinger, &none, sizeof none);
    library_.set_option(socket_, kReceiveTimeout, &slice, sizeof slice);
    const int result = binds ? library_.bind(socket_, config.endpoint.c_str())
                             : library_.connect(socket_, config.endpoint.c_str());
    if (result != 0) {
      const std::string why = library_.error_text(library_.error_number());
      release();
      throw Error(ErrorKind::kSystem, "ZeroMQ cannot use " + config.endpoint + ": " + why);
    }
  }
  ~ZeroMqPort() { release(); }
  ZeroMqPort(const ZeroMqPort&) = delete;
  ZeroMqPort& operator=(const ZeroMqPort&) = delete;

  [[nodiscard]] std::size_t word_count() const noexcept { return bytes_ / 8; }
  Status send(std::uint64_t sequence) noexcept {
    fill(out_.words, word_count(), sequence);
    if (library_.send(socket_, out_.words, bytes_, kDontWait) == static_cast<int>(bytes_)) {
      return Status::kOk;
    }
    return library_.error_number() == EAGAIN ? Status::kFull : Status::kTransport;
  }
  bool take() noexcept {
    return library_.receive(socket_, in_.words, bytes_, blocking_ ? 0 : kDontWait) ==
           static_cast<int>(bytes_);
  }
  [[nodiscard]] const std::uint64_t* words() const noexcept { return in_.words; }

 private:
  void release() noexcept {
    library_.close(socket_);
    library_.context_term(context_);
  }
  Library library_;
  bool blocking_;
  std::uint32_t bytes_;
  void* context_ = nullptr;
  void* socket_ = nullptr;
  Payload in_{};
  Payload out_{};
};

class ZeroMqEnd {
 public:
  ZeroMqEnd(const ZeroMqConfig& config, std::uint32_t payload_bytes)
      : port_(config, payload_bytes, false) {}
  Status send(std::uint64_t index) noexcept { return port_.send(index + 1); }
  template <class Answered>
  std::uint32_t poll(Answered&& answered) noexcept {
    if (!port_.take()) return 0;
    const std::uint64_t sequence = port_.words()[0];
    if (!is_payload(port_.words(), port_.word_count(), sequence)) ++bad_payloads_;
    answered(sequence - 1);
    return 1;
  }
  void settle() const noexcept {}
  [[nodiscard]] static bool alive() noexcept { return true; }
  [[nodiscard]] static std::string cause() { return {}; }
  void finish(Outcome& outcome) const noexcept { outcome.bad_payloads += bad_payloads_; }

 private:
  ZeroMqPort port_;
  std::uint64_t bad_payloads_ = 0;
};

}  // namespace

Outcome run_zeromq(const ZeroMqConfig& config, std::uint32_t payload_bytes, const Plan& plan) {
  ZeroMqEnd end(config, payload_bytes);
  return Loop(end, plan).run();
}

void serve_zeromq(const ZeroMqConfig& config, std::uint32_t payload_bytes) {
  ZeroMqPort port(config, payload_bytes, true);
  std::uint64_t idle = 0;
  for (;;) {
    if (!port.take()) {
      if ((config.blocking || (++idle & 1023) == 0) && InterruptGuard::interrupted()) return;
      continue;
    }
    while (port.send(port.words()[0]) == Status::kFull) {
    }
  }
}

}  // namespace rdmaorder::pingpong
