#include "python_handler.hpp"

#include <cstring>
#include <exception>
#include <system_error>
#include <thread>

#include "bindings.hpp"
#include "rdmaorder/clock.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

/// One record of messages.HANDLER_REPORT.
struct HandlerReport {
  std::uint64_t order_sequence;
  wire::ExecutionReport report;
  std::uint32_t session_index;
  std::uint32_t reserved;
};
static_assert(sizeof(HandlerReport) == 64 && offsetof(HandlerReport, session_index) == 56);

/// Flags of an array that numpy made and nobody changed.
constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_OWNDATA_} |
                       int{py::detail::npy_api::NPY_ARRAY_WRITEABLE_};

/// None where there is no such method.
py::object method_of(const py::object& object, const char* name) {
  py::object found = py::getattr(object, name, py::none());
  return PyCallable_Check(found.ptr()) != 0 ? found : py::none();
}

void reject_unhandled(const wire::OrderRecord& order, ReportSink& sink) {
  (void)sink.send(order.session_index, order.sequence, rejection_of(order, Reason::kHandlerFailed));
}

/// In a thread of its own: since Python 3.12 the thread that deletes a state has none of its own
/// any more for PyGILState_Ensure, whose next call there ends the process. Called with the GIL
/// held.
void drop_state(PyThreadState* state) noexcept {
  const py::gil_scoped_release release;
  try {
    std::thread([state] {
      PyEval_RestoreThread(state);
      PyThreadState_Clear(state);
      PyThreadState_DeleteCurrent();
    }).join();
  } catch (const std::system_error&) {  // no thread can be started; the interpreter keeps the state
  }
}

}  // namespace

PythonHandler::PythonHandler(py::object object)
    : on_order_(method_of(object, "on_order")),
      on_orders_(method_of(object, "on_orders")),
      recover_(method_of(object, "recover")),
      on_idle_(method_of(object, "on_idle")),
      order_dtype_(from_messages("ORDER_RECORD")),
      report_dtype_(from_messages("HANDLER_REPORT")),
      idle_interval_ticks_(TickRate::get().from_ns(kIdleIntervalNs)) {}

PythonHandler::Turn::Turn(PythonHandler& handler, ReportSink& sink)
    : desk_(*handler.desk_),
      kept_(handler.thread_state_ != nullptr && handler.thread_ == std::this_thread::get_id()) {
  take_gil(handler);
  desk_ = {&sink, std::this_thread::get_id()};
}

void PythonHandler::Turn::take_gil(PythonHandler& handler) {
  if (RDMAORDER_LIKELY(kept_)) {
    PyEval_RestoreThread(handler.thread_state_);
    return;
  }
  const bool unknown_to_python = PyGILState_GetThisThreadState() == nullptr;
  other_thread_ = PyGILState_Ensure();
  // Only a state made here is ours to keep and to delete.
  if (handler.thread_state_ == nullptr && unknown_to_python) {
    handler.thread_state_ = PyGILState_GetThisThreadState();
    handler.thread_ = std::this_thread::get_id();
    kept_ = true;
  }
}

PythonHandler::Turn::~Turn() {
  desk_.sink = nullptr;
  if (RDMAORDER_LIKELY(kept_)) {
    (void)PyEval_SaveThread();
  } else {
    PyGILState_Release(other_thread_);
  }
}

PythonHandler::~PythonHandler() {
  const py::gil_scoped_acquire gil;
  // Its thread has ended: nothing runs in this state any more. An interpreter that ends has deleted
  // the states of all other threads before it collects what is left, a gateway perhaps.
#if PY_VERSION_HEX >= 0x030D0000
  const bool finalizing = Py_IsFinalizing() != 0;
#else
  const bool finalizing = _Py_IsFinalizing() != 0;
#endif
  if (thread_state_ != nullptr && !finalizing) drop_state(thread_state_);
  on_order_ = py::object();
  on_orders_ = py::object();
  recover_ = py::object();
  on_idle_ = py::object();
  single_ = py::object();
  order_ = py::object();
  order_dtype_ = py::object();
  report_dtype_ = py::object();
}

void PythonHandler::recover(std::span<const wire::OrderRecord> in_doubt,
                            ReportSink& sink) noexcept {
  const Turn turn(*this, sink);
  if (recover_.is_none()) return;
  try {
    const py::array batch = array_for(in_doubt.size());
    std::memcpy(py::detail::array_proxy(batch.ptr())->data, in_doubt.data(), in_doubt.size_bytes());
    (void)forward(recover_(batch), sink);
  } catch (const std::exception& error) {
    keep_error(error.what());
  }
}

void PythonHandler::on_orders(std::span<const wire::OrderRecord> orders,
                              ReportSink& sink) noexcept {
  const Turn turn(*this, sink);
  if (!on_order_.is_none() && (orders.size() == 1 || on_orders_.is_none())) {
    for (const wire::OrderRecord& order : orders) on_order(order, sink);
    return;
  }
  try {
    // A copy: the handler may keep the batch, the receiver's buffer is used again at once.
    const py::array batch = array_for(orders.size());
    std::memcpy(py::detail::array_proxy(batch.ptr())->data, orders.data(), orders.size_bytes());
    if (forward(on_orders_(batch), sink)) return;
  } catch (const std::exception& error) {
    keep_error(error.what());
  }
  for (const wire::OrderRecord& order : orders) reject_unhandled(order, sink);
}

// An answer that was sent before the handler raised stands.
void PythonHandler::on_order(const wire::OrderRecord& record, ReportSink& sink) {
  bool answered = false;
  try {
    OrderObject& order = object_for(record);
    const auto result = py::reinterpret_steal<py::object>(
        PyObject_CallOneArg(on_order_.ptr(), reinterpret_cast<PyObject*>(&order)));
    answered = order.answered;
    if (!result) throw py::error_already_set();
    if (RDMAORDER_LIKELY(result.is_none())) return;
    keep_error("on_order must return None (order.accept() and its like answer), not " +
               py::repr(py::type::of(result)).cast<std::string>());
  } catch (const std::exception& error) {
    keep_error(error.what());
  }
  if (!answered) reject_unhandled(record, sink);
}

void PythonHandler::on_idle(ReportSink& sink) noexcept {
  if (on_idle_.is_none()) return;
  const std::uint64_t now = ticks();
  if (now < next_idle_ticks_) return;
  next_idle_ticks_ = now + idle_interval_ticks_;
  const Turn turn(*this, sink);
  try {
    (void)forward(on_idle_(), sink);
  } catch (const std::exception& error) {
    keep_error(error.what());
  }
}

// The last one is taken again when the handler kept no reference to it.
OrderObject& PythonHandler::object_for(const wire::OrderRecord& order) {
  if (RDMAORDER_UNLIKELY(!order_ || Py_REFCNT(order_.ptr()) != 1)) {
    order_ = make_order_object(desk_);
  }
  auto& object = *reinterpret_cast<OrderObject*>(order_.ptr());
  set_order(object, order);
  return object;
}

// Making an array costs as much as a small handler, and most batches are of one order: its array is
// taken again when the handler kept no reference to it (a view holds one) and left it as it was.
py::array PythonHandler::array_for(std::size_t order_count) {
  if (RDMAORDER_LIKELY(order_count == 1 && single_)) {
    const auto* kept = py::detail::array_proxy(single_.ptr());
    if (Py_REFCNT(single_.ptr()) == 1 && kept->descr == order_dtype_.ptr() && kept->nd == 1 &&
        kept->dimensions[0] == 1 && (kept->flags & kPlain) == kPlain) {
      return py::reinterpret_borrow<py::array>(single_);
    }
  }
  py::array made(py::reinterpret_borrow<py::dtype>(order_dtype_), order_count);
  if (order_count == 1) single_ = made;
  return made;
}

// False (error kept) when the result is no array of reports; then none of it was sent.
bool PythonHandler::forward(const py::object& result, ReportSink& sink) {
  if (result.is_none()) return true;
  if (!py::isinstance<py::array>(result) ||
      (py::detail::array_proxy(result.ptr())->descr != report_dtype_.ptr() &&
       !py::reinterpret_borrow<py::array>(result).dtype().equal(report_dtype_))) {
    keep_error(
        "the handler must return None or an array of HANDLER_REPORT "
        "(rdmaorder.execution_reports(n) makes one), not " +
        py::repr(py::type::of(result)).cast<std::string>());
    return false;
  }
  // Asking numpy for a contiguous array compares dtypes field by field, so not where it is one.
  auto array = py::reinterpret_borrow<py::array>(result);
  if (RDMAORDER_UNLIKELY((array.flags() & py::array::c_style) == 0)) {
    array = py::array::ensure(result, py::array::c_style);
  }
  const auto* reports = static_cast<const HandlerReport*>(array.data());
  const auto count = static_cast<std::size_t>(array.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (sink.send(reports[i].session_index, reports[i].order_sequence, reports[i].report) ==
        Status::kInvalid) {
      keep_error("report " + std::to_string(i) + " names session_index " +
                 std::to_string(reports[i].session_index) + ", which does not exist; skipped");
    }
  }
  return true;
}

void PythonHandler::keep_error(const std::string& text) noexcept {
  error_counter_.add();
  const std::lock_guard lock(mutex_);
  last_error_ = text;
}

std::string PythonHandler::last_error() const {
  const std::lock_guard lock(mutex_);
  return last_error_;
}

}  // namespace rdmaorder::bindings
