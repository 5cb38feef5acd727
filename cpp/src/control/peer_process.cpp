#include "control/peer_process.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "rdmaorder/memory/window.hpp"

namespace rdmaorder::control {
namespace {

/// PF_EXITING of the kernel's task flags, and SIGKILL in a set of signals.
constexpr unsigned long kExiting = 0x4;
constexpr unsigned long kKilled = 1UL << (SIGKILL - 1);

/// kRuns also where it cannot be told.
enum class Thread { kRuns, kExits, kEnded };

/// From the text of a stat file (proc(5)): "PID (NAME) STATE PPID …", the name may hold anything
/// and the last parenthesis ends it. Field 9: flags; field 31: the thread's own pending signals,
/// where the kernel puts SIGKILL for every thread of a process that has to end.
Thread judge_thread(const char* stat) noexcept {
  const char* at = std::strrchr(stat, ')');
  unsigned long flags = 0;
  unsigned long pending = 0;
  for (int field = 3; at != nullptr && field <= 31; ++field) {
    at = std::strchr(at + 1, ' ');
    if (at == nullptr) break;
    if (field == 9) flags = std::strtoul(at, nullptr, 10);
    if (field == 31) pending = std::strtoul(at, nullptr, 10);
  }
  return (flags & kExiting) != 0 || (pending & kKilled) != 0 ? Thread::kExits : Thread::kRuns;
}

Thread look_at(const char* stat_path) noexcept {
  const memory::UniqueFd file(::open(stat_path, O_RDONLY | O_CLOEXEC));
  if (!file) return errno == ENOENT ? Thread::kEnded : Thread::kRuns;
  std::array<char, 512> text{};
  const ssize_t got = ::read(file.get(), text.data(), text.size() - 1);
  if (got < 0) return errno == ESRCH ? Thread::kEnded : Thread::kRuns;
  return judge_thread(text.data());
}

}  // namespace

pid_t peer_pid(int socket_fd) noexcept {
  ucred credentials{};
  socklen_t bytes = sizeof credentials;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) return 0;
  return credentials.pid;
}

bool is_exiting(pid_t pid) noexcept {
  if (pid <= 0) return false;
  std::array<char, 64> path;
  (void)std::snprintf(path.data(), path.size(), "/proc/%d/stat", pid);
  if (look_at(path.data()) != Thread::kExits) return false;
  // A first thread may end alone and leave the others running.
  (void)std::snprintf(path.data(), path.size(), "/proc/%d/task", pid);
  DIR* tasks = ::opendir(path.data());
  if (tasks == nullptr) return false;
  bool runs = false;
  while (const dirent* entry = ::readdir(tasks)) {
    if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])) == 0) continue;
    (void)std::snprintf(path.data(), path.size(), "/proc/%d/task/%.10s/stat", pid, entry->d_name);
    runs = runs || look_at(path.data()) == Thread::kRuns;
  }
  ::closedir(tasks);
  return !runs;
}

}  // namespace rdmaorder::control
