#include "control/message.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <msgpack.hpp>

#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

constexpr std::size_t kMaxMapKeys = 64;
constexpr std::size_t kMaxStringBytes = 4096;
constexpr std::size_t kMaxBinaryBytes = 64;
constexpr std::size_t kMaxTextBytes = 1024;
constexpr std::size_t kMaxDepth = 4;
constexpr std::uint64_t kMaxWindowBytes = std::uint64_t{1} << 40;

using Packer = msgpack::packer<msgpack::sbuffer>;

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorKind::kHandshake, what); }

void pack_text(Packer& packer, std::string_view value) {
  packer.pack_str(static_cast<std::uint32_t>(value.size()));
  packer.pack_str_body(value.data(), static_cast<std::uint32_t>(value.size()));
}

void pack_binary(Packer& packer, std::string_view value) {
  packer.pack_bin(static_cast<std::uint32_t>(value.size()));
  packer.pack_bin_body(value.data(), static_cast<std::uint32_t>(value.size()));
}

std::string key_of(const msgpack::object_kv& entry) {
  if (entry.key.type != msgpack::type::STR) bad("a map key is not a string");
  return {entry.key.via.str.ptr, entry.key.via.str.size};
}

std::string printable(std::string text) {
  if (text.size() > kMaxTextBytes) text.resize(kMaxTextBytes);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

template <typename Map, typename Value>
void insert_once(Map& map, const std::string& key, Value&& value) {
  if (!map.emplace(key, std::forward<Value>(value)).second) {
    bad("key '" + printable(key) + "' is given twice");
  }
}

std::uint64_t find_number(const std::map<std::string, std::uint64_t>& numbers,
                          const std::string& key, std::uint64_t low, std::uint64_t high) {
  const auto found = numbers.find(key);
  if (found == numbers.end()) bad("key '" + key + "' is missing or not an unsigned integer");
  if (found->second < low || found->second > high) {
    bad(key + " = " + std::to_string(found->second) + " is outside " + std::to_string(low) +
        " .. " + std::to_string(high));
  }
  return found->second;
}

std::string find_binary(const std::map<std::string, std::string>& binaries, const std::string& key,
                        std::size_t count) {
  const auto found = binaries.find(key);
  if (found == binaries.end()) bad("key '" + key + "' is missing or not a binary");
  if (found->second.size() != count) {
    bad(key + " has " + std::to_string(found->second.size()) + " bytes instead of " +
        std::to_string(count));
  }
  return found->second;
}

std::string binary_of(const msgpack::object& object) {
  return {object.via.bin.ptr, object.via.bin.size};
}

}  // namespace

MessageWriter& MessageWriter::text(std::string_view key, std::string_view value) {
  fields_.emplace_back(key, std::string(value));
  return *this;
}

MessageWriter& MessageWriter::number(std::string_view key, std::uint64_t value) {
  fields_.emplace_back(key, value);
  return *this;
}

MessageWriter& MessageWriter::binary(std::string_view key, std::string_view bytes) {
  fields_.emplace_back(key, Binary{std::string(bytes)});
  return *this;
}

MessageWriter& MessageWriter::window(const ring::Geometry& geometry, std::uint64_t window_bytes) {
  fields_.emplace_back("window", InnerFields{{"bytes", window_bytes},
                                             {"offset_bytes", geometry.offset_bytes},
                                             {"slot_bytes", geometry.slot_bytes},
                                             {"slot_count", geometry.slot_count}});
  return *this;
}

MessageWriter& MessageWriter::window(const RemoteWindow& remote) {
  window(remote.geometry, remote.bytes);
  auto& fields = std::get<InnerFields>(fields_.back().second);
  fields.emplace_back("address", remote.address);
  fields.emplace_back("key", remote.key);
  return *this;
}

MessageWriter& MessageWriter::endpoint(const Endpoint& endpoint) {
  const std::string gid(endpoint.gid.begin(), endpoint.gid.end());
  fields_.emplace_back("endpoint", InnerFields{{"qp_number", endpoint.qp_number},
                                               {"packet_sequence", endpoint.packet_sequence},
                                               {"gid", Binary{gid}},
                                               {"lid", endpoint.lid},
                                               {"mtu_bytes", endpoint.mtu_bytes}});
  return *this;
}

std::string MessageWriter::frame() const {
  msgpack::sbuffer buffer;
  Packer packer(buffer);
  packer.pack_map(static_cast<std::uint32_t>(fields_.size()));
  for (const auto& [key, value] : fields_) {
    pack_text(packer, key);
    if (const auto* number = std::get_if<std::uint64_t>(&value)) {
      packer.pack_uint64(*number);
    } else if (const auto* text = std::get_if<std::string>(&value)) {
      pack_text(packer, *text);
    } else if (const auto* binary = std::get_if<Binary>(&value)) {
      pack_binary(packer, binary->bytes);
    } else {
      const auto& map = std::get<InnerFields>(value);
      packer.pack_map(static_cast<std::uint32_t>(map.size()));
      for (const auto& [inner_key, inner] : map) {
        pack_text(packer, inner_key);
        if (const auto* inner_number = std::get_if<std::uint64_t>(&inner)) {
          packer.pack_uint64(*inner_number);
        } else {
          pack_binary(packer, std::get<Binary>(inner).bytes);
        }
      }
    }
  }
  if (buffer.size() > kMaxFrameBytes) {
    throw Error(ErrorKind::kConfig, "control frame of " + std::to_string(buffer.size()) +
                                        " bytes; the limit is " + std::to_string(kMaxFrameBytes));
  }
  const auto length = static_cast<std::uint32_t>(buffer.size());
  std::string frame(kFrameHeaderBytes + buffer.size(), '\0');
  std::memcpy(frame.data(), &length, kFrameHeaderBytes);
  std::memcpy(frame.data() + kFrameHeaderBytes, buffer.data(), buffer.size());
  return frame;
}

Message Message::parse(std::string_view body) { return parse_limited(body, kMaxBinaryBytes); }

Message Message::parse_long(std::string_view body) { return parse_limited(body, kMaxFrameBytes); }

const std::string& Message::bytes(const std::string& key) const {
  const auto found = binaries_.find(key);
  if (found == binaries_.end()) bad("key '" + key + "' is missing or not a binary");
  return found->second;
}

Message Message::parse_limited(std::string_view body, std::size_t max_binary_bytes) {
  // Arrays and extensions occur in no message.
  const msgpack::unpack_limit limit(0, kMaxMapKeys, kMaxStringBytes, max_binary_bytes, 0,
                                    kMaxDepth);
  msgpack::object_handle handle;
  std::size_t end = 0;
  try {
    handle = msgpack::unpack(body.data(), body.size(), end, nullptr, nullptr, limit);
  } catch (const std::exception&) {
    bad("a frame is not one msgpack map within the limits");
  }
  const msgpack::object& object = handle.get();
  if (end != body.size() || object.type != msgpack::type::MAP)
    bad("a frame is not one msgpack map");

  Message message;
  std::map<std::string, bool> seen;
  for (const auto& entry : object.via.map) {
    const std::string key = key_of(entry);
    insert_once(seen, key, true);
    if (entry.val.type == msgpack::type::POSITIVE_INTEGER) {
      message.numbers_.emplace(key, entry.val.via.u64);
    } else if (entry.val.type == msgpack::type::STR) {
      message.texts_.emplace(key, std::string(entry.val.via.str.ptr, entry.val.via.str.size));
    } else if (entry.val.type == msgpack::type::BIN) {
      message.binaries_.emplace(key, binary_of(entry.val));
    } else if (entry.val.type == msgpack::type::MAP) {
      Inner inner;
      std::map<std::string, bool> inner_seen;
      for (const auto& each : entry.val.via.map) {
        const std::string inner_key = key_of(each);
        insert_once(inner_seen, inner_key, true);
        if (each.val.type == msgpack::type::POSITIVE_INTEGER) {
          inner.numbers.emplace(inner_key, each.val.via.u64);
        } else if (each.val.type == msgpack::type::BIN) {
          inner.binaries.emplace(inner_key, binary_of(each.val));
        } else {
          bad("a value inside map '" + printable(key) + "' is no unsigned integer and no binary");
        }
      }
      message.maps_.emplace(key, std::move(inner));
    }
  }
  message.type_ = message.text("type");
  return message;
}

std::uint64_t Message::number(const std::string& key, std::uint64_t low, std::uint64_t high) const {
  return find_number(numbers_, key, low, high);
}

bool Message::flag(const std::string& key) const {
  return numbers_.contains(key) && number(key, 0, 1) == 1;
}

std::string Message::text(const std::string& key) const {
  const auto found = texts_.find(key);
  if (found == texts_.end()) bad("key '" + key + "' is missing or not a string");
  return printable(found->second);
}

std::string Message::binary(const std::string& key, std::size_t count) const {
  return find_binary(binaries_, key, count);
}

const Message::Inner& Message::inner(const std::string& key) const {
  const auto found = maps_.find(key);
  if (found == maps_.end()) bad("key '" + key + "' is missing or not a map");
  return found->second;
}

Message::Window Message::window() const {
  const Numbers& numbers = inner("window").numbers;
  Window window;
  window.bytes = find_number(numbers, "bytes", 1, kMaxWindowBytes);
  window.geometry.offset_bytes = find_number(numbers, "offset_bytes", 0, kMaxWindowBytes);
  window.geometry.slot_bytes =
      static_cast<std::uint32_t>(find_number(numbers, "slot_bytes", 0, UINT32_MAX));
  window.geometry.slot_count =
      static_cast<std::uint32_t>(find_number(numbers, "slot_count", 0, UINT32_MAX));
  if (!window.geometry.is_valid() || window.geometry.window_bytes() > window.bytes) {
    bad("window of " + std::to_string(window.bytes) + " bytes with " +
        std::to_string(window.geometry.slot_count) + " slots of " +
        std::to_string(window.geometry.slot_bytes) + " bytes at " +
        std::to_string(window.geometry.offset_bytes) + " is impossible");
  }
  return window;
}

RemoteWindow Message::remote_window() const {
  const Window own = window();
  const Numbers& numbers = inner("window").numbers;
  RemoteWindow remote;
  remote.geometry = own.geometry;
  remote.bytes = own.bytes;
  remote.address = find_number(numbers, "address", 0, UINT64_MAX - own.bytes);
  remote.key = static_cast<std::uint32_t>(find_number(numbers, "key", 0, UINT32_MAX));
  return remote;
}

Endpoint Message::endpoint() const {
  const Inner& map = inner("endpoint");
  const auto number = [&](const char* key, std::uint64_t low, std::uint64_t high) {
    return static_cast<std::uint32_t>(find_number(map.numbers, key, low, high));
  };
  Endpoint endpoint;
  endpoint.qp_number = number("qp_number", 2, k24BitsMax);
  endpoint.packet_sequence = number("packet_sequence", 0, k24BitsMax);
  endpoint.lid = static_cast<std::uint16_t>(number("lid", 0, UINT16_MAX));
  endpoint.mtu_bytes = number("mtu_bytes", 256, 4096);
  if (!std::has_single_bit(endpoint.mtu_bytes)) {
    bad("mtu_bytes = " + std::to_string(endpoint.mtu_bytes) + " is not a power of two");
  }
  const std::string gid = find_binary(map.binaries, "gid", endpoint.gid.size());
  std::copy(gid.begin(), gid.end(), endpoint.gid.begin());
  return endpoint;
}

std::uint32_t body_length_bytes(const char* header) noexcept {
  std::uint32_t length = 0;
  std::memcpy(&length, header, kFrameHeaderBytes);
  return length <= kMaxFrameBytes ? length : 0;
}

}  // namespace rdmaorder::control
