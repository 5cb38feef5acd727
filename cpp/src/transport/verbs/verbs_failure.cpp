// The words for what ended a link: how the device says it, what it means, what to do.
#include <cerrno>
#include <cstring>

#include "transport/verbs/verbs_link.hpp"

namespace rdmaorder::transport {
namespace {

/// Meaning and remedy of a completion status, from the view of a link that only WRITEs.
const char* meaning_of(ibv_wc_status status) noexcept {
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
      return "the peer's device did not acknowledge within all retries: its process or host is "
             "gone, "
             "its queue pair was destroyed, or the path is cut; check ping between the two "
             "interfaces, MTU and PFC/ECN along the path, then reconnect";
    case IBV_WC_REM_ACCESS_ERR:
      return "the peer's device refused the key or the address: its window was revoked (fence) or "
             "the peer reconnected; establish a new link";
    case IBV_WC_REM_INV_REQ_ERR:
      return "the peer's queue pair does not permit WRITEs any more: it is fenced, and the peer "
             "ends the link; its log says why (kill switch, a handshake that was too slow …); "
             "establish a new link";
    case IBV_WC_REM_OP_ERR:
      return "the peer's device could not carry the WRITE out; see dmesg on the peer";
    case IBV_WC_WR_FLUSH_ERR:
      return "the queue pair was already in error and threw this away: the peer wrote outside its "
             "permission or after a fence, or another error came first; establish a new link";
    case IBV_WC_LOC_QP_OP_ERR:
      return "this device could not send: the link or the route is down, or a work request was "
             "inconsistent; check ip link, ip route and the counters of the port";
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
      return "this device refused its own staging memory: a defect of the driver or of this "
             "library";
    case IBV_WC_LOC_LEN_ERR:
      return "this device refused the length: max_put_bytes is beyond what the port takes";
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return "the peer had no receive for a message; a WRITE needs none, so the peer is not this "
             "program";
    case IBV_WC_FATAL_ERR:
    case IBV_WC_GENERAL_ERR:
      return "the device or its driver failed; see dmesg, and reset the device if it repeats";
    default:
      return "establish a new link; if it repeats see dmesg and the vendor's list of codes";
  }
}

std::string hexadecimal(std::uint32_t value) {
  char text[16];
  (void)snprintf(text, sizeof text, "0x%x", value);
  return text;
}

std::string completion_text(const VerbsApi& api, const VerbsFailure& failure) {
  const char* name = api.wc_status_str(failure.status);
  // Whether the tripwire or a WRITE of that moment was flushed first says nothing.
  const bool is_flushed = failure.of_tripwire || failure.status == IBV_WC_WR_FLUSH_ERR;
  return std::string(is_flushed ? "queue pair went to error: " : "RDMA WRITE failed: ") +
         (name == nullptr ? "unknown status" : name) + " (wc_status " +
         std::to_string(static_cast<int>(failure.status)) + ", vendor code " +
         hexadecimal(failure.vendor_code) + "): " + meaning_of(failure.status);
}

std::string event_text(const VerbsApi& api, int event) {
  const auto type = static_cast<ibv_event_type>(event);
  const char* name = api.event_type_str(type);
  std::string text = std::string("the device reported: ") +
                     (name == nullptr ? "unknown event" : name) + " (event " +
                     std::to_string(event) + ")";
  if (type == IBV_EVENT_PORT_ERR) text += "; check the cable, the switch port and ip link";
  if (type == IBV_EVENT_DEVICE_FATAL) text += "; the device is gone or has to be reset, see dmesg";
  return text;
}

}  // namespace

std::string failure_text(const VerbsApi& api, const VerbsFailure& failure,
                         const std::string& where) {
  std::string text;
  switch (failure.cause) {
    case VerbsCause::kNone:
      return {};
    case VerbsCause::kClosed:
      return "closed by this side";
    case VerbsCause::kCompletion:
      text = completion_text(api, failure);
      break;
    case VerbsCause::kMessage:
      text =
          "the peer sent a message where only RDMA WRITE belongs: it does not speak this protocol";
      break;
    case VerbsCause::kPost:
      text = std::string("posting an RDMA WRITE failed: ") + std::strerror(failure.error_number) +
             " (errno " + std::to_string(failure.error_number) + "); establish a new link";
      break;
    case VerbsCause::kPoll:
      text = "polling the completion queue failed (" + std::to_string(failure.error_number) +
             "): the device or its driver failed; see dmesg";
      break;
    case VerbsCause::kEvent:
      return event_text(api, failure.event) + ", " + where;
  }
  if (failure.event >= 0) text += "; " + event_text(api, failure.event);
  return text + ", " + where;
}

}  // namespace rdmaorder::transport
