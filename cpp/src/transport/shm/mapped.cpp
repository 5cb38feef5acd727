// Shared-memory and in-process transports: the same stores, different ownership of the mapping.
#include "transport/shm/mapped_put.hpp"

#include <algorithm>
#include <utility>

#include "rdmaorder/transport/inproc.hpp"
#include "rdmaorder/transport/shm.hpp"

namespace rdmaorder::transport {
namespace {

/// `Owner` keeps the mapping alive: a Window of this transport, or one shared with the peer.
template <class Owner>
class Mapped final : public Transport {
 public:
  Mapped(Owner owner, std::uint64_t* words, std::uint64_t bytes, const char* name)
      : owner_(std::move(owner)), bytes_(bytes) {
    info_.name = name;
    info_.window_bytes = bytes;
    info_.max_put_bytes =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, UINT32_MAX & ~7ULL));
    info_.inline_bytes = info_.max_put_bytes;
    info_.byte_order = ByteOrder::kAscendingLine;
    mapped_words_ = words;
    mapped_bytes_ = bytes - bytes % kCacheLineBytes;
  }

  Status put(std::uint64_t offset_bytes, const void* source,
             std::uint32_t bytes) noexcept override {
    if (RDMAORDER_UNLIKELY(closed_)) return Status::kTransport;
    return mapped_put(mapped_words_, bytes_, offset_bytes, source, bytes);
  }
  Status progress() noexcept override { return closed_ ? Status::kTransport : Status::kOk; }
  [[nodiscard]] const Info& info() const noexcept override { return info_; }
  [[nodiscard]] std::string failure() const override {
    return closed_ ? "closed by this side" : std::string();
  }
  void close() noexcept override {
    closed_ = true;
    mapped_bytes_ = 0;
  }

 private:
  Owner owner_;
  std::uint64_t bytes_;
  bool closed_ = false;
  Info info_;
};

}  // namespace

std::unique_ptr<Transport> make_shm(memory::Window peer_window) {
  std::uint64_t* words = peer_window.words();
  const std::uint64_t bytes = peer_window.bytes();
  return std::make_unique<Mapped<memory::Window>>(std::move(peer_window), words, bytes, "shm");
}

std::unique_ptr<Transport> make_inproc(std::shared_ptr<memory::Window> peer_window) {
  std::uint64_t* words = peer_window->words();
  const std::uint64_t bytes = peer_window->bytes();
  return std::make_unique<Mapped<std::shared_ptr<memory::Window>>>(std::move(peer_window), words,
                                                                   bytes, "inproc");
}

}  // namespace rdmaorder::transport
