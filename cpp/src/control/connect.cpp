#include <sys/un.h>

#include <algorithm>

#include "control/channel.hpp"
#include "control/handshake.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

constexpr const char* kAcceptedForms = "; write shm:///absolute/path.sock or shm:relative.sock";
constexpr std::size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;

[[noreturn]] void bad_url(const std::string& text, const std::string& why) {
  std::string shown = text.substr(0, 200);
  std::replace(shown.begin(), shown.end(), '\0', '?');  // or the message would end there
  throw Error(ErrorKind::kConfig, "URL '" + shown + "' " + why + kAcceptedForms);
}

}  // namespace

Url parse_url(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) bad_url(text, "has no scheme");
  Url url{text.substr(0, colon), text.substr(colon + 1)};
  if (url.scheme == "rdma") bad_url(text, "asks for RDMA, which this build does not have");
  if (url.scheme != "shm") bad_url(text, "has an unknown scheme");
  if (url.path.starts_with("//")) url.path.erase(0, 2);
  if (url.path.empty() || url.path.ends_with('/')) bad_url(text, "names no socket file");
  if (url.path.find('?') != std::string::npos || url.path.find('\0') != std::string::npos) {
    bad_url(text, "holds a character that no address takes (NUL or '?')");
  }
  if (url.path.size() > kMaxPathBytes) {
    bad_url(text, "is longer than the " + std::to_string(kMaxPathBytes) +
                      " bytes a socket path may have");
  }
  return url;
}

Established connect(const ConnectRequest& request) {
  check_request(request);
  const Url url = parse_url(request.url);
  const Deadline deadline(request.timeout_ns);
  const std::unique_ptr<Channel> channel = connect_unix(url.path, deadline);
  const Granted granted = negotiate(*channel, request, "shm", deadline);
  Established link = establish_shm(*channel, request, granted, deadline);
  link.socket = channel->release();
  return link;
}

}  // namespace rdmaorder::control
