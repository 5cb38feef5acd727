// The Python object behind rdmaorder.Session: a C heap type, so that its hot methods are plain
// METH_FASTCALL builtins (fast_calls.cpp). Everything else about it is bound in bind_session.cpp.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <unistd.h>

#include <array>
#include <memory>
#include <vector>

#include "rdmaorder/interruption.hpp"
#include "rdmaorder/session.hpp"

namespace rdmaorder::bindings {

/// State of one Python session. A session belongs to one thread at a time; `busy` is set while a
/// call has released the GIL, and any other call then raises instead of racing.
struct SessionState {
  std::unique_ptr<Session> session;
  std::uint64_t send_timeout_ns = 0;
  bool busy = false;

  /// poll() returns arrays of exactly n records. Small ones are recycled: when nobody holds one
  /// that was handed out (its reference count is ours alone), it is filled again instead of
  /// allocated. Two of each size, because a loop variable goes on holding the last record of the
  /// poll before.
  static constexpr std::size_t kRecycledCount = 16;
  std::array<std::array<pybind11::object, 2>, kRecycledCount + 1> recycled;
  pybind11::object report_dtype;
  pybind11::tuple batch_dtypes;  ///< of the order messages
  pybind11::object batch_dtype;  ///< of the newest batch that was good
  std::vector<wire::ReportRecord> scratch;
};

struct SessionObject {
  PyObject_HEAD SessionState* state;  ///< null until connected
};

/// Makes the type `SessionCore` and adds it to the module.
void add_session_type(pybind11::module_& m);

/// The state of a connected, idle session; null with a Python error set otherwise.
SessionState* usable_state(PyObject* self);

/// A signal handler of Python's raised. Asked without the GIL.
bool python_interrupts() noexcept;

/// The GIL is released, and what raises in a signal handler ends the wait. Python runs those in its
/// main thread alone: no other needs to ask, and a thread that outlives the interpreter must not.
struct Waiting {
  Waiting() : interruption(::gettid() == ::getpid() ? &python_interrupts : nullptr) {}
  const pybind11::gil_scoped_release release;
  const Interruption interruption;
};

/// Waits with the GIL released until `ready()` is true, the deadline passes (false) or a signal
/// handler raised (false, Python error set). Spins 20 us, then naps.
template <class Ready>
bool wait_until(SessionState& state, std::uint64_t timeout_ns, Ready&& ready) {
  const std::uint64_t start = monotonic_ns();
  for (;;) {
    bool done = false;
    {
      state.busy = true;
      const pybind11::gil_scoped_release release;
      const std::uint64_t slice_start = monotonic_ns();
      while (!(done = ready())) {
        const std::uint64_t now = monotonic_ns();
        if (now - start >= timeout_ns || now - slice_start >= 50'000'000) break;
        if (now - start > 20'000) {
          const timespec nap{0, 20'000};
          nanosleep(&nap, nullptr);
        }
      }
    }
    state.busy = false;
    if (done) return true;
    if (PyErr_CheckSignals() != 0) return false;
    if (monotonic_ns() - start >= timeout_ns) return false;
  }
}

}  // namespace rdmaorder::bindings
