// Windows: what they promise the peer, and what a peer's window must promise before it is mapped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>

#include "rdmaorder/error.hpp"
#include "rdmaorder/memory/window.hpp"

namespace rdmaorder::memory {
namespace {

constexpr std::uint64_t kPage = 4096;

Window plain(std::uint64_t bytes) {
  return Window::create({bytes, HugePages::kOff, false, -1, "rdmaorder-test"});
}
UniqueFd copy_of(const Window& window) { return UniqueFd(dup(window.fd())); }

/// A peer's memfd of `bytes` bytes with exactly these seals.
UniqueFd peer_memfd(std::uint64_t bytes, int seals) {
  UniqueFd fd(memfd_create("peer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

template <class Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {ErrorKind::kConfig, ""};
}

std::uint64_t free_huge_page_count() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  std::uint64_t count = 0;
  return file >> count ? count : 0;
}

/// VmLck of this process: what is really locked.
std::uint64_t locked_kib() {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    std::uint64_t kib = 0;
    if (word == "VmLck:" && file >> kib) return kib;
  }
  return 0;
}

TEST(Window, IsZeroAndAsLargeAsAskedRoundedUpToPages) {
  const Window window = plain(3 * kPage + 1);
  EXPECT_EQ(window.bytes(), 4 * kPage);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(window.data()) % kPage, 0U);
  EXPECT_TRUE(std::all_of(window.data(), window.data() + window.bytes(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(Window, CannotBeShrunkOrGrownOrUnsealedByAnyoneWhoHoldsIt) {
  const Window window = plain(2 * kPage);
  EXPECT_EQ(ftruncate(window.fd(), kPage), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(window.fd(), 4 * kPage), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(window.fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(window.fd(), F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

TEST(Window, HasAllItsPagesFromTheStart) {
  const Window window = plain(16 * kPage);
  struct stat info{};
  ASSERT_EQ(fstat(window.fd(), &info), 0);
  EXPECT_EQ(info.st_blocks * 512, static_cast<blkcnt_t>(16 * kPage));
}

TEST(Window, SharesItsBytesWithTheMappingOfThePeer) {
  Window window = plain(kPage);
  Window peer = Window::map_peer(copy_of(window), kPage, false);
  ASSERT_EQ(peer.bytes(), window.bytes());
  ASSERT_NE(peer.data(), window.data());
  peer.words()[5] = 0xABCD;
  EXPECT_EQ(window.words()[5], 0xABCDU);
  window.words()[511] = 77;
  EXPECT_EQ(peer.words()[511], 77U);
}

TEST(Window, StaysMappedForThePeerWhenItsOwnerIsGone) {
  Window peer;
  {
    Window window = plain(kPage);
    window.words()[1] = 42;
    peer = Window::map_peer(copy_of(window), kPage, false);
  }
  EXPECT_EQ(peer.words()[1], 42U);
}

TEST(Window, MovesWithoutLosingItsMemory) {
  Window first = plain(kPage);
  first.words()[0] = 7;
  const std::byte* data = first.data();
  Window second = std::move(first);
  Window third = plain(2 * kPage);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.words()[0], 7U);
  EXPECT_EQ(third.bytes(), kPage);
  EXPECT_FALSE(second);  // NOLINT(bugprone-use-after-move): an empty window is what is tested
  EXPECT_EQ(second.fd(), -1);
}

TEST(Window, ClosesItsDescriptorAndUnmapsAtTheEnd) {
  int fd = -1;
  void* data = nullptr;
  {
    const Window window = plain(kPage);
    fd = window.fd();
    data = window.data();
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  EXPECT_EQ(msync(data, kPage, MS_ASYNC), -1);
  EXPECT_EQ(errno, ENOMEM);
}

TEST(Window, OfNoBytesOrTooManyIsRefused) {
  EXPECT_EQ(error_of([] { plain(0); }).kind(), ErrorKind::kConfig);
  EXPECT_EQ(error_of([] { plain(1ULL << 50); }).kind(), ErrorKind::kConfig);
}

TEST(Window, TakesSmallPagesWhenHugeOnesAreOffAndSaysSo) {
  EXPECT_FALSE(plain(kPage).facts().huge_pages);
}

TEST(Window, TriesHugePagesAndSaysWhatItGot) {
  const Window window = Window::create({kPage, HugePages::kTry, false, -1, "rdmaorder-test"});
  if (window.facts().huge_pages) {
    EXPECT_EQ(window.bytes(), 2ULL << 20);
  } else {
    EXPECT_EQ(window.bytes(), kPage);
  }
  window.words()[0] = 1;  // whatever was obtained is there
}

TEST(Window, EitherHasTheHugePagesItRequiresOrSaysHowToGetThem) {
  const bool some_are_free = free_huge_page_count() != 0;
  try {
    const Window window = Window::create({kPage, HugePages::kRequire, false, -1, "rdmaorder-test"});
    EXPECT_TRUE(window.facts().huge_pages);
    EXPECT_TRUE(Window::map_peer(copy_of(window), kPage, false).facts().huge_pages);
  } catch (const Error& error) {
    EXPECT_FALSE(some_are_free) << error.what();
    EXPECT_EQ(error.kind(), ErrorKind::kSystem);
    EXPECT_NE(std::string(error.what()).find("vm.nr_hugepages"), std::string::npos) << error.what();
  }
}

TEST(Window, ThatMayNotBeLockedIsAFactAndNoError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers answer mlock themselves";
#endif
  const Window locked = Window::create({kPage, HugePages::kOff, true, -1, "rdmaorder-test"});
  EXPECT_FALSE(plain(kPage).facts().locked);
  EXPECT_EQ(locked.facts().locked, locked_kib() >= kPage / 1024);
  locked.words()[0] = 1;
}

TEST(Window, SurvivesANodeThatDoesNotExist) {
  EXPECT_EQ(Window::create({kPage, HugePages::kOff, false, 63, "rdmaorder-test"}).bytes(), kPage);
}

TEST(PeerWindow, WithoutEitherSealIsRefused) {
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL}) {
    const Error error =
        error_of([&] { Window::map_peer(peer_memfd(2 * kPage, seals), kPage, false); });
    EXPECT_EQ(error.kind(), ErrorKind::kHandshake) << "seals " << seals;
    EXPECT_NE(std::string(error.what()).find("sealed"), std::string::npos) << error.what();
  }
}

TEST(PeerWindow, ThatIsTooShortIsRefusedWithBothSizes) {
  const Error error = error_of(
      [] { Window::map_peer(peer_memfd(kPage, F_SEAL_SHRINK | F_SEAL_GROW), kPage + 1, false); });
  EXPECT_EQ(error.kind(), ErrorKind::kHandshake);
  EXPECT_NE(std::string(error.what()).find("4096"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("4097"), std::string::npos) << error.what();
}

TEST(PeerWindow, IsMappedAsFarAsItsRingGoesAndNoFurther) {
  constexpr std::uint64_t kAtMost = 2ULL << 20;  // its owner may have huge pages
  UniqueFd fd = peer_memfd(kAtMost, F_SEAL_SHRINK | F_SEAL_GROW);
  const UniqueFd again(dup(fd.get()));
  const Window window = Window::map_peer(std::move(fd), 2 * kPage + 1, false);
  EXPECT_EQ(window.bytes(), 3 * kPage);
  struct stat info{};
  ASSERT_EQ(fstat(again.get(), &info), 0);
  EXPECT_EQ(info.st_blocks * 512, static_cast<blkcnt_t>(3 * kPage));
  const Error error = error_of([] {
    Window::map_peer(peer_memfd(kAtMost + kPage, F_SEAL_SHRINK | F_SEAL_GROW), kPage, false);
  });
  EXPECT_EQ(error.kind(), ErrorKind::kHandshake);
  EXPECT_NE(std::string(error.what()).find("2101248 bytes, its ring needs 4096"), std::string::npos)
      << error.what();
}

TEST(PeerWindow, ThatWasTruncatedToNothingBeforeItWasSealedIsRefused) {
  EXPECT_EQ(error_of([] {
              Window::map_peer(peer_memfd(0, F_SEAL_SHRINK | F_SEAL_GROW), 64, false);
            }).kind(),
            ErrorKind::kHandshake);
}

TEST(PeerWindow, ThatIsNoMemfdIsRefused) {
  UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file);
  EXPECT_EQ(error_of([&] { Window::map_peer(std::move(file), 64, false); }).kind(),
            ErrorKind::kHandshake);
  EXPECT_EQ(error_of([] { Window::map_peer(UniqueFd(), 64, false); }).kind(),
            ErrorKind::kHandshake);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const UniqueFd keep(pipe_ends[1]);
  EXPECT_EQ(error_of([&] { Window::map_peer(UniqueFd(pipe_ends[0]), 64, false); }).kind(),
            ErrorKind::kHandshake);
}

TEST(PeerWindow, ThatMayNotBeWrittenIsAnErrorAndNotASignal) {
  EXPECT_EQ(error_of([] {
              Window::map_peer(peer_memfd(kPage, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), kPage,
                               false);
            }).kind(),
            ErrorKind::kSystem);
}

TEST(PeerWindow, DoesNotLeakTheDescriptorItRefused) {
  UniqueFd fd = peer_memfd(kPage, 0);
  const int number = fd.get();
  EXPECT_EQ(error_of([&] { Window::map_peer(std::move(fd), kPage, false); }).kind(),
            ErrorKind::kHandshake);
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace rdmaorder::memory
