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
