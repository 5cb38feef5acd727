#include "rdmaorder/memory/window.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <cerrno>
#include <utility>

#include "rdmaorder/error.hpp"
#include "rdmaorder/platform.hpp"

namespace rdmaorder::memory {
namespace {

constexpr std::uint64_t kHugePageBytes = 2ULL << 20;
constexpr int kRequiredSeals = F_SEAL_SHRINK | F_SEAL_GROW;
/// Larger than any geometry allows: keeps a mistaken length from mapping the machine away.
constexpr std::uint64_t kWindowBytesMax = 16ULL << 30;

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

// The two NUMA calls used here, without libnuma: memory is bound before its first touch, and the
// node of the first page is read back as a fact. Both fail harmlessly on kernels without NUMA.
void prefer_node(void* address, std::uint64_t bytes, int node) noexcept {
#ifdef SYS_mbind
  if (node < 0 || node >= 64) return;
  const unsigned long mask = 1UL << node;
  (void)syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, &mask, sizeof mask * 8, 0);
#else
  (void)address, (void)bytes, (void)node;
#endif
}

int node_of(void* address) noexcept {
#ifdef SYS_get_mempolicy
  int node = -1;
  if (syscall(SYS_get_mempolicy, &node, nullptr, 0, address, MPOL_F_NODE | MPOL_F_ADDR) == 0) {
    return node;
  }
#else
  (void)address;
#endif
  return -1;
}

std::byte* map_shared(int fd, std::uint64_t bytes, int flags) noexcept {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
  return address == MAP_FAILED ? nullptr : static_cast<std::byte*>(address);
}

// Makes the pages exist now, on `node`: a page that could not be had later would be SIGBUS. The
// policy comes before the first touch.
bool commit_pages(int fd, std::byte* data, std::uint64_t bytes, int node) noexcept {
  prefer_node(data, bytes, node);
  return fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0;
}

}  // namespace

Window::Window(Window&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      fd_(std::move(other.fd_)),
      facts_(other.facts_) {}

Window& Window::operator=(Window&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    fd_ = std::move(other.fd_);
    facts_ = other.facts_;
  }
  return *this;
}

Window::~Window() { reset(); }

void Window::reset() noexcept {
  if (data_ != nullptr) munmap(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  fd_.reset();
}

Window Window::create(const WindowConfig& config) {
  if (config.bytes == 0 || config.bytes > kWindowBytesMax) {
    throw Error(ErrorKind::kConfig, "window size " + std::to_string(config.bytes) +
                                        " bytes is outside 1 .. " +
                                        std::to_string(kWindowBytesMax));
  }
  Window window;
  if (config.huge_pages == HugePages::kOff || !window.try_create(config, true)) {
    if (config.huge_pages == HugePages::kRequire) {
      throw Error(ErrorKind::kSystem,
                  "window of " + std::to_string(config.bytes) +
                      " bytes needs 2 MiB huge pages and there are not enough free; reserve some: "
                      "sysctl vm.nr_hugepages=N, or set huge_pages to \"try\"",
                  ENOMEM);
    }
    if (!window.try_create(config, false)) {
      throw_errno("allocate", "window of " + std::to_string(config.bytes) + " bytes", errno,
                  "free memory or use fewer or smaller rings");
    }
  }
  if (fcntl(window.fd_.get(), F_ADD_SEALS, kRequiredSeals | F_SEAL_SEAL) != 0) {
    throw_errno("seal", "window memfd", errno);
  }
  window.facts_.locked = config.lock && mlock(window.data_, window.bytes_) == 0;
  window.facts_.numa_node = node_of(window.data_);
  return window;
}

// Leaves the window empty and errno set on failure. New memfd pages are zero.
bool Window::try_create(const WindowConfig& config, bool huge) noexcept {
  const unsigned huge_flags = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0U;
  const std::uint64_t bytes = round_up(config.bytes, huge ? kHugePageBytes : kPageBytes);
  UniqueFd fd(memfd_create(config.name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flags));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return false;
  std::byte* data = map_shared(fd.get(), bytes, 0);
  if (data == nullptr) return false;
  if (!commit_pages(fd.get(), data, bytes, config.numa_node)) {
    const int error_number = errno;
    munmap(data, bytes);
    errno = error_number;
    return false;
  }
  fd_ = std::move(fd);
  data_ = data;
  bytes_ = bytes;
  facts_.huge_pages = huge;
  return true;
}

Window Window::map_peer(UniqueFd fd, std::uint64_t min_bytes, bool lock) {
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kRequiredSeals) != kRequiredSeals) {
    throw Error(ErrorKind::kHandshake,
                "the peer's window is not a memfd sealed against shrinking and growing; refused, "
                "because it could be truncated under this process");
  }
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) throw_errno("stat", "the peer's window", errno);
  const auto bytes = static_cast<std::uint64_t>(info.st_size);
  // What lies behind the ring would be memory that the peer makes this process hold: a window ends
  // with its ring's last page, a huge one at most.
  if (bytes < min_bytes || bytes > round_up(min_bytes, kHugePageBytes) || bytes > kWindowBytesMax) {
    throw Error(ErrorKind::kHandshake, "the peer's window has " + std::to_string(bytes) +
                                           " bytes, its ring needs " + std::to_string(min_bytes));
  }
  Window window;
  struct statfs fs{};
  window.facts_.huge_pages =
      fstatfs(fd.get(), &fs) == 0 && static_cast<std::uint64_t>(fs.f_bsize) >= kHugePageBytes;
  window.bytes_ = round_up(min_bytes, window.facts_.huge_pages ? kHugePageBytes : kPageBytes);
  window.fd_ = std::move(fd);
  window.data_ = map_shared(window.fd_.get(), window.bytes_, MAP_POPULATE);
  if (window.data_ == nullptr) throw_errno("map", "the peer's window", errno);
  window.facts_.locked = lock && mlock(window.data_, window.bytes_) == 0;
  window.facts_.numa_node = node_of(window.data_);
  return window;
}

}  // namespace rdmaorder::memory
