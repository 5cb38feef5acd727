#include "rdmaorder/wire/crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rdmaorder::wire {
namespace detail {
namespace {

bool has_crc32_instruction() noexcept {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_SSE4_2) != 0;
#elif defined(__ARM_FEATURE_CRC32)
  return true;
#else
  return false;
#endif
}

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables t{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) ? 0x82F63B78U : 0U);
    t[0][i] = crc;
  }
  for (std::uint32_t i = 0; i < 256; ++i) {
    for (std::size_t k = 1; k < 8; ++k) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xFFU];
  }
  return t;
}
constexpr Tables kTables = make_tables();

/// A state after 2^n zero words is linear in the state: the XOR of what each of its eight nibbles
/// becomes, [n][nibble][value]. For fewer than 512 words, the most a slot has.
using ZeroTables = std::array<std::array<std::array<std::uint32_t, 16>, 8>, 9>;

constexpr std::uint32_t behind_zeros(std::uint32_t state, const ZeroTables::value_type& table) {
  std::uint32_t result = 0;
  for (std::size_t nibble = 0; nibble < 8; ++nibble) {
    result ^= table[nibble][(state >> (4 * nibble)) & 0xFU];
  }
  return result;
}

constexpr ZeroTables make_zero_tables() {
  ZeroTables t{};
  for (std::size_t nibble = 0; nibble < 8; ++nibble) {
    for (std::uint32_t value = 0; value < 16; ++value) {
      std::uint32_t state = value << (4 * nibble);
      for (int byte = 0; byte < 8; ++byte) state = (state >> 8) ^ kTables[0][state & 0xFFU];
      t[0][nibble][value] = state;
    }
  }
  for (std::size_t n = 1; n < t.size(); ++n) {
    for (std::size_t nibble = 0; nibble < 8; ++nibble) {
      for (std::uint32_t value = 0; value < 16; ++value) {
        t[n][nibble][value] = behind_zeros(t[n - 1][nibble][value], t[n - 1]);
      }
    }
  }
  return t;
}
constexpr ZeroTables kZeroTables = make_zero_tables();

std::uint32_t skip_zeros(std::uint32_t state, std::size_t word_count) noexcept {
  const ZeroTables::value_type* table = kZeroTables.data();
  for (; word_count != 0; word_count >>= 1, ++table) {
    if ((word_count & 1) != 0) state = behind_zeros(state, *table);
  }
  return state;
}

}  // namespace

const bool kHasCrc32Instruction = has_crc32_instruction();

std::uint32_t crc32c_portable_words(std::uint32_t state, const std::uint64_t* words,
                                    std::size_t word_count) noexcept {
  for (std::size_t i = 0; i < word_count; ++i) {
    const std::uint64_t x = words[i] ^ state;
    state = 0;
    for (std::size_t byte = 0; byte < 8; ++byte) {
      state ^= kTables[7 - byte][(x >> (8 * byte)) & 0xFFU];
    }
  }
  return state;
}

std::uint32_t crc32c_portable_word(std::uint32_t state, std::uint64_t word) noexcept {
  return crc32c_portable_words(state, &word, 1);
}

std::uint32_t crc32c_portable_bytes(std::uint32_t state, const void* data,
                                    std::size_t byte_count) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < byte_count; ++i) {
    state = (state >> 8) ^ kTables[0][(state ^ bytes[i]) & 0xFFU];
  }
  return state;
}

}  // namespace detail

std::uint32_t crc32c_padded_words(std::uint32_t state, const std::uint64_t* words,
                                  std::size_t word_count) noexcept {
  std::size_t used = word_count;
  const auto line_is_zero = [words](std::size_t end) {
    std::uint64_t any = 0;
    for (std::size_t i = end - 8; i < end; ++i) any |= words[i];
    return any == 0;
  };
  while (used >= 8 && line_is_zero(used)) used -= 8;
  while (used > 0 && words[used - 1] == 0) --used;
  state = crc32c_words(state, words, used);
  return detail::skip_zeros(state, word_count - used);
}

std::uint32_t crc32c_bytes(std::uint32_t state, const void* data, std::size_t byte_count) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  while (byte_count >= 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    state = crc32c_words(state, &word, 1);
    bytes += 8;
    byte_count -= 8;
  }
  return detail::crc32c_portable_bytes(state, bytes, byte_count);
}

}  // namespace rdmaorder::wire
