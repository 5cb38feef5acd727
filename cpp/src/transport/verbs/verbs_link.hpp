// The objects behind an endpoint and behind a connected link. Set-up is in verbs_setup.cpp, the
// data path in verbs_datapath.cpp, the end (fence, close, causes) in verbs_link.cpp.
#pragma once

#include <atomic>
#include <mutex>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/transport/verbs.hpp"
#include "transport/verbs/verbs_device.hpp"
#include "transport/verbs/verbs_events.hpp"

namespace rdmaorder::transport {

/// Everything of one link that the kernel knows. Parents first: see VerbsHandle.
struct VerbsObjects {
  const VerbsApi* api = nullptr;
  OpenedDevice device;
  VerbsHandle<ibv_pd> domain;
  VerbsHandle<ibv_cq> completions;
  VerbsHandle<ibv_mr> window_region;
  memory::Window staging;
  VerbsHandle<ibv_mr> staging_region;  ///< LOCAL access only
  VerbsHandle<ibv_qp> queue_pair;
  ibv_qp_ex* extended = nullptr;  ///< of queue_pair, where WRITEs go through ibv_wr_*

  /// Frees all of it, children first. Idempotent.
  void release() noexcept;
  /// False once released, and in a forked child, where nothing of it may be touched.
  [[nodiscard]] bool are_own() const noexcept {
    return queue_pair != nullptr && queue_pair.get_deleter().is_owner();
  }
};

class Endpoint final : public VerbsEndpoint {
 public:
  [[nodiscard]] const VerbsAddress& local() const noexcept override { return address; }
  [[nodiscard]] VerbsFacts facts() const override { return known; }

  VerbsConfig config;
  VerbsObjects objects;
  VerbsPort port;
  VerbsGid gid;
  VerbsAddress address;
  VerbsFacts known;
};

/// VerbsEndpoint::open and ::connect over any table: the seam of the tests. `api` outlives them.
std::unique_ptr<VerbsEndpoint> open_endpoint(const VerbsApi& api, const VerbsConfig& config,
                                             const memory::Window& window);

inline constexpr std::uint32_t kVerbsNumberMax = (1U << 24) - 1;  ///< queue pair numbers and PSNs
inline constexpr std::uint32_t kFirstVerbsNumber = 2;  ///< 0 and 1 are each port's own queue pairs

/// Throw Error: what is wrong on any device; what is too much for this one; what no peer can mean.
void validate_config(const VerbsConfig& config, const memory::Window& window);
void validate_limits(const VerbsConfig& config, const VerbsDevice& device, const VerbsPort& port,
                     const memory::Window& window);
void validate_remote(const Endpoint& endpoint, const VerbsAddress& remote);

/// Marks the receive that is never meant to be used; no WRITE's wr_id has the highest bit.
inline constexpr std::uint64_t kTripwireId = 1ULL << 63;
inline constexpr std::uint32_t kStagingUnitBytes = kCacheLineBytes;
/// Staging holds this many of the largest put. A WRITE is signalled once a quarter is used since
/// the last signal, so that what cannot be freed by a completion is less than a quarter, a skipped
/// end less than another, and the largest put always finds room.
inline constexpr std::uint32_t kStagingPuts = 4;
/// Work requests of one doorbell; a batch at the end of a ring needs two.
inline constexpr std::size_t kPutListMax = 4;

/// Why a link ended.
enum class VerbsCause : std::uint8_t {
  kNone,
  kClosed,      ///< by this side
  kCompletion,  ///< a WRITE, or the tripwire receive, completed in error
  kMessage,     ///< the peer sent a message: not this protocol
  kPost,        ///< ibv_post_send refused
  kPoll,        ///< ibv_poll_cq failed
  kEvent,       ///< the device announced it
};

struct VerbsFailure {
  VerbsCause cause = VerbsCause::kNone;
  ibv_wc_status status = IBV_WC_SUCCESS;
  std::uint32_t vendor_code = 0;
  bool of_tripwire = false;
  int error_number = 0;
  int event = -1;  ///< ibv_event_type, -1: none
};

/// One line: what failed, how the device says it, what it means and what to do. `where` names both
/// ends.
std::string failure_text(const VerbsApi& api, const VerbsFailure& failure,
                         const std::string& where);

class VerbsLink final : public VerbsTransport, private EventSink {
 public:
  /// The queue pair is in RTS. Throws Error.
  VerbsLink(std::unique_ptr<Endpoint> endpoint, const VerbsAddress& remote);
  ~VerbsLink() override;

  Status put(std::uint64_t offset_bytes, const void* source, std::uint32_t bytes) noexcept override;
  std::uint32_t put_list(std::span<const PutRequest> puts, Status* status) noexcept override;
  Status progress() noexcept override;
  [[nodiscard]] const Info& info() const noexcept override { return info_; }
  [[nodiscard]] std::string failure() const override;
  void linger() noexcept override;
  void close() noexcept override;
  Status fence() noexcept override;
  void set_peer_data_in_order(bool data_in_order) noexcept override;
  [[nodiscard]] VerbsFacts facts() const override { return endpoint_->known; }
  [[nodiscard]] const VerbsConfig& asked() const noexcept override { return endpoint_->config; }

 private:
  void on_event(const ibv_async_event& event) noexcept override;
  [[nodiscard]] std::uint32_t outstanding() const noexcept { return posted_ - completed_; }
  /// A completion of WRITE k says that WRITEs 1 … k are done (one queue pair completes in order)
  /// and hence that staging up to the head at that time is free: the id carries both positions.
  [[nodiscard]] std::uint64_t next_id() const noexcept {
    return std::uint64_t{staging_head_} << 32 | static_cast<std::uint32_t>(posted_ + 1);
  }
  std::uint64_t stage(const void* source, std::uint32_t bytes) noexcept;
  /// What a put becomes for the device.
  struct Work {
    std::uint64_t local_address = 0;
    unsigned flags = 0;
  };
  Status admit(std::uint64_t offset_bytes, const void* source, std::uint32_t bytes,
               Work* work) noexcept;
  int post(std::uint64_t remote_address, const Work& work, std::uint32_t bytes) noexcept;
  Status reap() noexcept;
  void take(const ibv_wc& completion) noexcept;
  void take_error(const ibv_wc& completion) noexcept;
  Status fail(VerbsCause cause, int error_number) noexcept;

  // Data path, in the order put() touches it.
  VerbsCause cause_ = VerbsCause::kNone;
  bool last_signalled_ = true;
  std::uint32_t inline_bytes_ = 0;
  std::uint32_t max_put_bytes_ = 0;
  std::uint32_t depth_ = 0;
  std::uint32_t posted_ = 0;     ///< WRITEs given to the device, modulo 2^32
  std::uint32_t completed_ = 0;  ///< WRITEs known to be done, modulo 2^32
  std::uint32_t unsignalled_count_ = 0;
  std::uint32_t signal_interval_ = 0;
  std::uint64_t window_bytes_ = 0;
  std::uint64_t window_address_ = 0;
  ibv_qp* queue_pair_ = nullptr;
  ibv_qp_ex* extended_ = nullptr;
  ibv_cq* completions_ = nullptr;
  ibv_send_wr request_{};  ///< prebuilt: address, length, flags and id are patched
  ibv_sge piece_{};
  ibv_send_wr list_requests_[kPutListMax] = {};  ///< likewise, of one doorbell
  ibv_sge list_pieces_[kPutListMax] = {};
  std::uint32_t window_key_ = 0;

  // Staging: positions count units and never go back (modulo 2^31).
  std::byte* staging_ = nullptr;
  std::uint32_t staging_units_ = 0;  ///< a power of two
  std::uint32_t staging_head_ = 0;
  std::uint32_t staging_tail_ = 0;
  std::uint32_t staging_unsignalled_units_ = 0;

  std::atomic<int> event_{-1};  ///< first fatal ibv_event_type, from the watcher's thread
  Info info_;
  VerbsFailure failure_;
  std::string where_;
  std::mutex ending_;  ///< fence() against close(); never on the data path
  bool fenced_ = false;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace rdmaorder::transport
