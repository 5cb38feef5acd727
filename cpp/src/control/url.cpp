// URLs of gateways. rdmaorder/gateway/address.py reads the same forms on the other half.
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <string_view>

#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

constexpr const char* kAcceptedForms =
    "; write shm:///absolute/path.sock, shm:relative.sock or rdma://HOST:PORT[?key=value&...]";
constexpr std::size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
constexpr std::size_t kMaxHostBytes = 253;  // RFC 1035

/// What may follow '?'. high == 0: any text but the empty one.
struct OptionRule {
  std::string_view key;
  std::uint32_t low;
  std::uint32_t high;
};
constexpr OptionRule kOptions[] = {
    {"depth", 4, 65536},
    {"device", 0, 0},
    {"gid_index", 0, 255},
    {"inline_bytes", 0, 4096},
    {"mtu", 256, 4096},
    {"port", 1, 255},
    {"retry_count", 1, 6},
    {"rnr_retry_count", 0, 6},
    {"service_level", 0, 15},
    {"signal_interval", 1, 32768},
    {"timeout_exponent", 1, 31},
    {"tls", 0, 0},
    {"tls_ca", 0, 0},
    {"tls_certificate", 0, 0},
    {"tls_key", 0, 0},
    {"tls_name", 0, 0},
    {"traffic_class", 0, 255},
};

[[noreturn]] void bad_url(const std::string& text, const std::string& why) {
  std::string shown = text.substr(0, 200);
  std::replace(shown.begin(), shown.end(), '\0', '?');  // or the message would end there
  throw Error(ErrorKind::kConfig, "URL '" + shown + "' " + why + kAcceptedForms);
}

/// Decimal digits only, no sign.
std::optional<std::uint32_t> parse_number(std::string_view digits) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size()) return {};
  return value;
}

std::string known_keys() {
  std::string keys;
  for (const OptionRule& rule : kOptions) {
    keys.append(keys.empty() ? "" : ", ").append(rule.key);
  }
  return keys;
}

void check_option(const std::string& text, const std::string& key, const std::string& value) {
  const auto* rule = std::find_if(std::begin(kOptions), std::end(kOptions),
                                  [&](const OptionRule& each) { return each.key == key; });
  if (rule == std::end(kOptions)) {
    bad_url(text, "has the unknown option '" + key + "' (known: " + known_keys() + ")");
  }
  const std::string shown = "has option " + key + " = '" + value + "', ";
  if (key == "tls" && value != "on" && value != "off") bad_url(text, shown + "not on or off");
  if (rule->high == 0) {
    if (value.empty()) bad_url(text, shown + "without a value");
    return;
  }
  const std::optional<std::uint32_t> number = parse_number(value);
  if (!number || *number < rule->low || *number > rule->high) {
    bad_url(text, shown + "not an integer from " + std::to_string(rule->low) + " to " +
                      std::to_string(rule->high));
  }
  if (key == "mtu" && (*number & (*number - 1)) != 0) {
    bad_url(text, shown + "not 256, 512, 1024, 2048 or 4096");
  }
}

void parse_options(const std::string& text, std::string_view query, Url& url) {
  while (!query.empty()) {
    const std::string_view item = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), item.size() + 1));
    const std::size_t equals = item.find('=');
    if (equals == 0 || equals == std::string_view::npos) {
      bad_url(text, "has the option '" + std::string(item) + "', which is not key=value");
    }
    const std::string key(item.substr(0, equals));
    const std::string value(item.substr(equals + 1));
    check_option(text, key, value);
    if (!url.options.emplace(key, value).second) bad_url(text, "gives option " + key + " twice");
  }
}

void parse_rdma(const std::string& text, std::string_view rest, Url& url) {
  if (!rest.starts_with("//")) bad_url(text, "lacks '//' after its scheme");
  rest.remove_prefix(2);
  const std::string_view authority = rest.substr(0, rest.find('?'));
  std::string_view port;
  if (authority.starts_with('[')) {
    const std::size_t close = authority.find(']');
    if (close == std::string_view::npos || authority.find(':') > close) {
      bad_url(text, "has no IPv6 address between its brackets");
    }
    url.host = authority.substr(1, close - 1);
    port = authority.substr(close + 1);
  } else {
    const std::size_t colon = std::min(authority.find(':'), authority.size());
    url.host = authority.substr(0, colon);
    port = authority.substr(colon);
    if (port.find(':', 1) != std::string_view::npos) {
      bad_url(text, "has more than one ':' (an IPv6 address goes into brackets: [::1]:9000)");
    }
  }
  constexpr std::string_view allowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:%";
  if (url.host.empty() || url.host.size() > kMaxHostBytes ||
      url.host.find_first_not_of(allowed) != std::string::npos) {
    bad_url(text, "names no host");
  }
  const std::optional<std::uint32_t> number =
      port.starts_with(':') ? parse_number(port.substr(1)) : std::nullopt;
  if (!number || *number == 0 || *number > UINT16_MAX) {
    bad_url(text, "has no port from 1 to 65535 after its host");
  }
  url.port = static_cast<std::uint16_t>(*number);
  if (authority.size() < rest.size()) parse_options(text, rest.substr(authority.size() + 1), url);
}

void parse_shm(const std::string& text, std::string rest, Url& url) {
  url.path = std::move(rest);
  if (url.path.starts_with("//")) url.path.erase(0, 2);
  if (url.path.empty() || url.path.ends_with('/')) bad_url(text, "names no socket file");
  if (url.path.find('?') != std::string::npos) {
    bad_url(text, "holds a character that no address takes ('?')");
  }
  if (url.path.size() > kMaxPathBytes) {
    bad_url(text, "is longer than the " + std::to_string(kMaxPathBytes) +
                      " bytes a socket path may have");
  }
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::uint32_t Url::number(const std::string& key, std::uint32_t otherwise) const {
  const auto found = options.find(key);
  return found == options.end() ? otherwise : parse_number(found->second).value_or(otherwise);
}

std::string Url::text(const std::string& key, const std::string& otherwise) const {
  const auto found = options.find(key);
  return found == options.end() ? otherwise : found->second;
}

Url parse_url(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) bad_url(text, "has no scheme");
  if (text.find('\0') != std::string::npos) {
    bad_url(text, "holds a character that no address takes (NUL)");
  }
  Url url;
  url.scheme = text.substr(0, colon);
  if (url.scheme == "shm") {
    parse_shm(text, text.substr(colon + 1), url);
  } else if (url.scheme == "rdma") {
    parse_rdma(text, std::string_view(text).substr(colon + 1), url);
  } else {
    bad_url(text, "has an unknown scheme");
  }
  return url;
}

std::string parse_session_key(const std::string& hex) {
  std::string key;
  bool good = hex.size() % 2 == 0 && hex.size() / 2 >= kSessionKeyMinBytes;
  for (std::size_t i = 0; good && i < hex.size(); i += 2) {
    const int high = hex_digit(hex[i]);
    const int low = hex_digit(hex[i + 1]);
    good = high >= 0 && low >= 0;
    key.push_back(static_cast<char>(high * 16 + low));
  }
  if (!good) {
    throw Error(ErrorKind::kConfig, "the session key (" + std::to_string(hex.size()) +
                                        " characters) is not the hex of at least 32 bytes; make "
                                        "one with: openssl rand -hex 32");
  }
  return key;
}

}  // namespace rdmaorder::control
