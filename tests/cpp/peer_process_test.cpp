// A dying process behind a Unix socket, seen before its end of the socket is closed.
#include "control/peer_process.hpp"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "control/channel.hpp"
#include "control_support.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

/// A forked process, killed and reaped at the end. `body` says with one byte that it is ready.
class Child {
 public:
  explicit Child(const std::function<void(int ready_fd)>& body) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd in(ends[0]);
    const UniqueFd out(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      body(out.get());
      ::_exit(0);
    }
    char byte = 0;
    EXPECT_EQ(::read(in.get(), &byte, 1), 1);
  }
  ~Child() {
    kill();
    EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void kill() const { EXPECT_EQ(::kill(pid_, SIGKILL), 0); }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

void say_ready(int fd) { EXPECT_EQ(::write(fd, "r", 1), 1); }

template <class Condition>
bool comes_true(Condition condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    ::usleep(1000);
  }
  return false;
}

TEST(PeerProcess, IsExitingOnceKilledAndNotBefore) {
  const Child child([](int ready) {
    say_ready(ready);
    ::pause();
  });
  EXPECT_FALSE(is_exiting(child.pid()));
  child.kill();
  EXPECT_TRUE(comes_true([&] { return is_exiting(child.pid()); }));
}

TEST(PeerProcess, IsNotExitingWhileAnyOfItsThreadsRuns) {
  const Child child([](int ready) {
    static int ready_fd;
    ready_fd = ready;
    pthread_t thread;
    EXPECT_EQ(::pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                    // Its first thread has ended when its own file tells a zombie.
                    const std::string path = "/proc/" + std::to_string(::getpid()) + "/stat";
                    EXPECT_TRUE(comes_true([&] {
                      std::array<char, 256> text{};
                      const UniqueFd file(::open(path.c_str(), O_RDONLY));
                      return ::read(file.get(), text.data(), text.size() - 1) > 0 &&
                             std::strstr(text.data(), ") Z") != nullptr;
                    }));
                    say_ready(ready_fd);
                    ::pause();
                    return nullptr;
                  },
                  nullptr),
              0);
    ::syscall(SYS_exit, 0);  // this thread alone
  });
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(is_exiting(child.pid()));
  child.kill();
  EXPECT_TRUE(comes_true([&] { return is_exiting(child.pid()); }));
}

// A name can hold what ends it and fields of its own: here flags that say "exiting".
TEST(PeerProcess, IsNotExitingBecauseOfItsName) {
  const Child child([](int ready) {
    EXPECT_EQ(::prctl(PR_SET_NAME, ") 3 4 5 6 7 8 4"), 0);
    say_ready(ready);
    ::pause();
  });
  EXPECT_FALSE(is_exiting(child.pid()));
}

TEST(PeerProcess, IsNotExitingWhereNothingIsKnown) {
  EXPECT_FALSE(is_exiting(0));
  EXPECT_FALSE(is_exiting(-1));
  EXPECT_FALSE(is_exiting(::getpid()));
  pid_t gone = 0;
  {
    const Child child(say_ready);
    gone = child.pid();
  }
  EXPECT_FALSE(is_exiting(gone)) << "the number may be another process' by now";
}

TEST(PeerProcess, OfASocketThatIsNoUnixSocketIsNotKnown) {
  const UniqueFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(peer_pid(tcp.get()), 0);
  EXPECT_EQ(peer_pid(-1), 0);
}

TEST(PeerProcess, EndsTheConnectionBeforeItsSocketIsClosed) {
  const TemporaryDirectory folder;
  const sockaddr_un address = address_of(folder.file("gw.sock"));
  // A process of its own holds the listening socket open, as the kernel does while it takes a
  // killed process' memory down.
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const Child gateway([&](int ready) {
    EXPECT_EQ(::listen(listener.get(), 4), 0);
    say_ready(ready);
    ::pause();
  });
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
            0);
  const int fd = socket.get();
  const std::unique_ptr<Connection> connection = make_plain_connection(std::move(socket));
  std::string text;
  EXPECT_EQ(connection->check(&text), PeerCheck::kQuiet);
  gateway.kill();
  EXPECT_TRUE(comes_true([&] { return connection->check(&text) == PeerCheck::kGone; }));
  EXPECT_EQ(text, "its process is exiting");
  char byte = 0;
  EXPECT_EQ(::recv(fd, &byte, 1, MSG_DONTWAIT), -1) << "the socket itself is still open";
}

}  // namespace
}  // namespace rdmaorder::control
