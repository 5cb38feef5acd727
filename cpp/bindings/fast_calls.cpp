// The hot entries of a session: METH_FASTCALL builtins. pybind11's dispatch costs 130-540 ns a
// call; these parse scalars, positional or keyword, straight out of the vectorcall arguments.
#include <algorithm>
#include <new>

#include "bindings.hpp"
#include "fast_arguments.hpp"
#include "session_object.hpp"
#include "slot_buffer.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

// --- messages

// ids are uint64 on the wire; Python sees the positive half, which no id scheme outgrows
constexpr Argument kClOrdId = required("cl_ord_id", 1, INT64_MAX);
constexpr Argument kOrigClOrdId = required("orig_cl_ord_id", 1, INT64_MAX);
constexpr Argument kInstrument = required("instrument", 0, kU32Max);
constexpr Argument kSide = required("side", 1, 2);
constexpr Argument kPrice = required("price", INT64_MIN, INT64_MAX);
constexpr Argument kQuantity = required("quantity", 1, INT64_MAX);
constexpr Argument kOrdType = optional("ord_type", 1, 2, 2);
constexpr Argument kTimeInForce = optional("time_in_force", 0, 4, 0);
constexpr Argument kTtlNs = optional("ttl_ns", 0, INT64_MAX, 0);
constexpr Argument kFlags = optional("flags", 0, kKnownFlags, 0);
constexpr Argument kAccount = optional("account", 0, kU32Max, 0);

constexpr Signature kNewOrder{"new_order",
                              11,
                              {kClOrdId, kInstrument, kSide, kPrice, kQuantity, kAccount, kOrdType,
                               kTimeInForce, kTtlNs, optional("smp_id", 0, kU32Max, 0), kFlags}};
constexpr Signature kReplaceOrder{"replace_order",
                                  10,
                                  {kClOrdId, kOrigClOrdId, kInstrument, kSide, kPrice, kQuantity,
                                   kOrdType, kTimeInForce, kTtlNs, kFlags}};
constexpr Signature kCancelOrder{
    "cancel_order",
    8,
    {kClOrdId, kOrigClOrdId, optional("instrument", 0, kU32Max, 0),
     optional("quantity", 0, INT64_MAX, 0), optional("side", 0, 2, 0), kAccount, kTtlNs, kFlags}};
constexpr Signature kMassCancel{
    "mass_cancel",
    6,
    {kClOrdId, optional("scope", 1, 4, 1), optional("instrument", 0, kU32Max, 0),
     optional("side", 0, 2, 0), kAccount, kFlags}};

std::uint64_t stale_after(std::int64_t ttl_ns) {
  return ttl_ns == 0 ? 0 : realtime_ns() + static_cast<std::uint64_t>(ttl_ns);
}

[[gnu::cold, gnu::noinline]] bool refuse_price(const Signature& signature, OrdType ord_type) {
  PyErr_Format(PyExc_ValueError,
               ord_type == OrdType::kMarket
                   ? "%s: price of a MARKET order must be rdmaorder.NO_PRICE"
                   : "%s: price of a LIMIT order must be given; NO_PRICE is for MARKET orders",
               signature.function);
  return false;
}

/// A market order has no price, a limit order has one; the gateway refuses any other.
bool check_price(const Signature& signature, std::int64_t price, std::int64_t ord_type) {
  const auto type = static_cast<OrdType>(ord_type);
  if (RDMAORDER_LIKELY((price == kNoPrice) == (type == OrdType::kMarket))) return true;
  return refuse_price(signature, type);
}

struct NewOrderCall {
  static constexpr const Signature& signature = kNewOrder;
  static bool check(const Values& v) { return check_price(signature, v[3], v[6]); }
  static inline Names names;
  static constexpr ring::Lane lane = ring::Lane::kNormal;
  static Status send(Session& session, const Values& v, std::uint64_t* sequence) {
    return session.try_new_order(
        {static_cast<std::uint64_t>(v[0]), v[3], v[4], stale_after(v[8]),
         static_cast<std::uint32_t>(v[1]), static_cast<std::uint32_t>(v[5]),
         static_cast<std::uint32_t>(v[9]), static_cast<Side>(v[2]), static_cast<OrdType>(v[6]),
         static_cast<TimeInForce>(v[7]), static_cast<std::uint8_t>(v[10])},
        sequence);
  }
};

struct ReplaceOrderCall {
  static constexpr const Signature& signature = kReplaceOrder;
  static bool check(const Values& v) { return check_price(signature, v[4], v[6]); }
  static inline Names names;
  static constexpr ring::Lane lane = ring::Lane::kNormal;
  static Status send(Session& session, const Values& v, std::uint64_t* sequence) {
    return session.try_replace_order(
        {static_cast<std::uint64_t>(v[0]), static_cast<std::uint64_t>(v[1]), v[4], v[5],
         stale_after(v[8]), static_cast<std::uint32_t>(v[2]), static_cast<Side>(v[3]),
         static_cast<OrdType>(v[6]), static_cast<TimeInForce>(v[7]),
         static_cast<std::uint8_t>(v[9])},
        sequence);
  }
};

struct CancelOrderCall {
  static constexpr const Signature& signature = kCancelOrder;
  static bool check(const Values& /*values*/) { return true; }
  static inline Names names;
  static constexpr ring::Lane lane = ring::Lane::kUrgent;
  static Status send(Session& session, const Values& v, std::uint64_t* sequence) {
    wire::CancelOrder cancel{};
    cancel.cl_ord_id = static_cast<std::uint64_t>(v[0]);
    cancel.orig_cl_ord_id = static_cast<std::uint64_t>(v[1]);
    cancel.instrument = static_cast<std::uint32_t>(v[2]);
    cancel.quantity = v[3];
    cancel.side = static_cast<Side>(v[4]);
    cancel.account = static_cast<std::uint32_t>(v[5]);
    cancel.stale_after_ns = stale_after(v[6]);
    cancel.flags = static_cast<std::uint8_t>(v[7]);
    return session.try_cancel_order(cancel, sequence);
  }
};

struct MassCancelCall {
  static constexpr const Signature& signature = kMassCancel;
  static bool check(const Values& /*values*/) { return true; }
  static inline Names names;
  static constexpr ring::Lane lane = ring::Lane::kUrgent;
  static Status send(Session& session, const Values& v, std::uint64_t* sequence) {
    wire::MassCancel cancel{};
    cancel.cl_ord_id = static_cast<std::uint64_t>(v[0]);
    cancel.scope = static_cast<MassCancelScope>(v[1]);
    cancel.instrument = static_cast<std::uint32_t>(v[2]);
    cancel.side = static_cast<Side>(v[3]);
    cancel.account = static_cast<std::uint32_t>(v[4]);
    cancel.flags = static_cast<std::uint8_t>(v[5]);
    return session.try_mass_cancel(cancel, sequence);
  }
};

/// Why, and what to do, where the link itself is in order; empty where its cause tells.
std::string refusal_of(const Session& session, Status status) {
  const wire::StatusLine& peer = session.peer();
  if (session.state() != LinkState::kLive) return {};
  if (status == Status::kHalted) {
    return std::string(": the gateway takes no new orders (") + reason_name(peer.reason) +
           ") until an operator resumes it; cancels pass";
  }
  if (status == Status::kThrottled) {
    return ": the gateway refuses orders above its rate (max_orders_per_s) just now; send slower";
  }
  if (status == Status::kClosed) {
    return ": the gateway is shutting down; reconnect() when it is back";
  }
  return {};
}

[[gnu::cold, gnu::noinline]] PyObject* refuse(SessionState& state, Status status,
                                              const char* function, std::uint64_t sent = 0) {
  std::string message = std::string(function) + ": " + status_name(status);
  if (status == Status::kFull) {
    message += ": the order ring stayed full for " +
               std::to_string(state.send_timeout_ns / 1'000'000) +
               " ms; poll reports, send slower, or ask for more order_slots";
  } else if (!state.session->cause().empty()) {
    message += ": " + state.session->cause();
  } else {
    message += refusal_of(*state.session, status);
  }
  set_python_error(status, message, sent);
  return nullptr;
}

// Waits for credit as long as the session's send timeout allows, then refuses.
template <class Call>
[[gnu::cold, gnu::noinline]] PyObject* send_slowly(SessionState& state, const Values& values,
                                                   Status status) {
  if (status == Status::kFull) {
    std::uint64_t sequence = 0;
    const bool done = wait_until(state, state.send_timeout_ns, [&] {
      state.session->check_link();
      status = Call::send(*state.session, values, &sequence);
      return status != Status::kFull;
    });
    if (ok(status)) return PyLong_FromUnsignedLongLong(sequence);
    if (!done && PyErr_Occurred()) return nullptr;
  }
  return refuse(state, status, Call::signature.function);
}

/// The arguments of a call that sends, each in its range and right together.
template <class Call>
RDMAORDER_ALWAYS_INLINE bool parse_order(PyObject* const* args, Py_ssize_t count, PyObject* names,
                                         Values& values) {
  return parse<Call>(args, count, names, values) && Call::check(values);
}

/// new_order(…) -> sequence; waits while the ring is full, raises when nothing was written.
template <class Call>
PyObject* send_call(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  Values values;
  if (!parse_order<Call>(args, count, names, values)) return nullptr;
  SessionState* state = usable_state(self);  // after parse, which may run an __index__
  if (state == nullptr) return nullptr;
  std::uint64_t sequence = 0;
  const Status status = Call::send(*state->session, values, &sequence);
  if (RDMAORDER_LIKELY(ok(status))) return PyLong_FromUnsignedLongLong(sequence);
  return send_slowly<Call>(*state, values, status);
}

/// try_new_order(…) -> sequence > 0, or a Status below 0 at once.
template <class Call>
PyObject* try_call(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  Values values;
  if (!parse_order<Call>(args, count, names, values)) return nullptr;
  SessionState* state = usable_state(self);  // after parse, which may run an __index__
  if (state == nullptr) return nullptr;
  std::uint64_t sequence = 0;
  const Status status = Call::send(*state->session, values, &sequence);
  if (RDMAORDER_LIKELY(ok(status))) return PyLong_FromUnsignedLongLong(sequence);
  return PyLong_FromLong(static_cast<long>(status));
}

// --- batches

std::size_t send_some(Session& session, const SlotBuffer& buffer, std::size_t from,
                      Status* status) {
  const std::size_t most = std::min<std::size_t>(buffer.count() - from, 1U << 20);
  return session.try_send_batch(buffer.words() + from * (session.slot_bytes() / 8),
                                static_cast<std::uint32_t>(most), status);
}

/// try_send_batch(slots) -> how many were sent, from the first; raises only when none can be.
PyObject* try_send_batch(PyObject* self, PyObject* array) {
  SessionState* state = usable_state(self);
  SlotBuffer buffer;
  if (state == nullptr || !buffer.open(*state, array, "try_send_batch")) {
    return nullptr;
  }
  if (buffer.count() == 0) return PyLong_FromLong(0);
  Status status = Status::kOk;
  const std::size_t sent = send_some(*state->session, buffer, 0, &status);
  if (sent == 0 && !ok(status) && status != Status::kFull) {
    return refuse(*state, status, "try_send_batch");
  }
  return PyLong_FromSize_t(sent);
}

/// send_batch(slots) -> count; all were sent. Waits while the ring is full.
PyObject* send_batch(PyObject* self, PyObject* array) {
  SessionState* state = usable_state(self);
  SlotBuffer buffer;
  if (state == nullptr || !buffer.open(*state, array, "send_batch")) {
    return nullptr;
  }
  std::size_t sent = 0;
  Status status = Status::kOk;
  while (sent < buffer.count()) {
    const std::size_t before = sent;
    sent += send_some(*state->session, buffer, sent, &status);
    if (sent == buffer.count()) break;
    if (!ok(status) && status != Status::kFull) {
      return refuse(*state, status, "send_batch", sent);
    }
    if (sent != before) continue;
    const bool credit = wait_until(*state, state->send_timeout_ns, [&] {
      state->session->check_link();
      return state->session->credit_count(ring::Lane::kNormal) != 0 ||
             !ok(state->session->send_status());
    });
    if (!credit) {
      return PyErr_Occurred() ? nullptr : refuse(*state, Status::kFull, "send_batch", sent);
    }
  }
  return PyLong_FromSize_t(sent);
}

// --- reports

/// Whether `array` is still as report_array made it: whoever had it may have changed its shape,
/// dtype or flags in place.
bool is_pristine(const SessionState& state, PyObject* array, std::size_t count) {
  const auto* facts = py::detail::array_proxy(array);
  return facts->nd == 1 && facts->dimensions[0] == static_cast<py::ssize_t>(count) &&
         // numpy gives an array without items the stride 0
         (count == 0 ||
          facts->strides[0] == static_cast<py::ssize_t>(sizeof(wire::ReportRecord))) &&
         facts->descr == state.report_dtype.ptr() &&
         (facts->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}

/// The first `count` records of the scratch buffer as an array of the caller's own. An array that
/// was handed out before is filled again only if nobody else holds it any more (or if it is empty
/// and there is nothing to fill).
PyObject* report_array(SessionState& state, std::size_t count) {
  const bool recyclable = count <= SessionState::kRecycledCount;
  if (recyclable) {
    for (const py::object& kept : state.recycled[count]) {
      PyObject* array = kept.ptr();
      if (array == nullptr || (count != 0 && Py_REFCNT(array) != 1) ||
          !is_pristine(state, array, count)) {
        continue;
      }
      std::memcpy(py::detail::array_proxy(array)->data, state.scratch.data(),
                  count * sizeof(wire::ReportRecord));
      Py_INCREF(array);
      return array;
    }
  }
  py::array array(py::reinterpret_borrow<py::dtype>(state.report_dtype), count);
  std::memcpy(array.mutable_data(), state.scratch.data(), count * sizeof(wire::ReportRecord));
  if (recyclable) {
    auto& [older, newer] = state.recycled[count];
    older = std::move(newer);
    newer = array;
  }
  return array.release().ptr();
}

/// The value of poll's one argument, positional or as max=; 0 with a Python error set.
std::uint32_t parse_max(PyObject* const* args, Py_ssize_t positional, PyObject* names) {
  const Py_ssize_t name_count = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (positional + name_count == 0) return 256;
  if (positional + name_count > 1 ||
      (name_count == 1 &&
       PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "max") != 0)) {
    PyErr_SetString(PyExc_TypeError, "poll() takes one argument, max");
    return 0;
  }
  const long value = PyLong_AsLong(args[0]);
  if (value >= 1 && value <= (1 << 20)) return static_cast<std::uint32_t>(value);
  if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_OverflowError)) {
    PyErr_Format(PyExc_ValueError, "poll: max must be 1 .. 1048576, not %R", args[0]);
  } else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Format(PyExc_TypeError, "poll: max must be an integer, not %R", args[0]);
  }
  return 0;
}

/// poll(max=256) -> array of REPORT_RECORD, empty when there is none now; raises once the link is
/// over and everything that had arrived was delivered.
PyObject* poll(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  const std::uint32_t max_count = parse_max(args, count, names);
  if (max_count == 0) return nullptr;
  SessionState* state = usable_state(self);
  if (state == nullptr) return nullptr;
  try {
    if (RDMAORDER_UNLIKELY(state->scratch.size() < max_count)) state->scratch.resize(max_count);
    Session& session = *state->session;
    const std::uint32_t n = session.poll(state->scratch.data(), max_count);
    if (RDMAORDER_UNLIKELY(n == 0 && (session.state() == LinkState::kDead ||
                                      session.state() == LinkState::kClosed))) {
      return refuse(*state, session.send_status(), "poll");
    }
    return report_array(*state, n);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

// --- the type

void session_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<SessionObject*>(self)->state;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyMethodDef g_methods[] = {
    {"new_order", as_method(&send_call<NewOrderCall>), kFast,
     "new_order($self, cl_ord_id, instrument, side, price, quantity, account=0, ord_type=2,\n"
     "          time_in_force=0, ttl_ns=0, smp_id=0, flags=0)\n--\n\n"
     "Write a new order into the gateway's ring; returns its sequence.\n\n"
     "price is an int64 mantissa with exponent -9 (rdmaorder.price), quantity an integer in the\n"
     "instrument's smallest unit. ttl_ns: refused as expired if picked up later than this from\n"
     "now. Waits for room up to the session's send timeout, then raises BackPressure; raises\n"
     "NotConnected, SessionClosed or Halted at once. If it raises, nothing was written."},
    {"replace_order", as_method(&send_call<ReplaceOrderCall>), kFast,
     "replace_order($self, cl_ord_id, orig_cl_ord_id, instrument, side, price, quantity,\n"
     "              ord_type=2, time_in_force=0, ttl_ns=0, flags=0)\n--\n\n"
     "Replace price and open quantity of a live order, which becomes cl_ord_id. See new_order."},
    {"cancel_order", as_method(&send_call<CancelOrderCall>), kFast,
     "cancel_order($self, cl_ord_id, orig_cl_ord_id, instrument=0, quantity=0, side=0, account=0,\n"
     "             ttl_ns=0, flags=0)\n--\n\n"
     "Cancel a live order; quantity > 0 takes only that much off. May use the ring's reserved\n"
     "credits and passes a halted gateway. See new_order."},
    {"mass_cancel", as_method(&send_call<MassCancelCall>), kFast,
     "mass_cancel($self, cl_ord_id, scope=1, instrument=0, side=0, account=0, flags=0)\n--\n\n"
     "Cancel every live order of this session in the scope (MassCancelScope). See cancel_order."},
    {"try_new_order", as_method(&try_call<NewOrderCall>), kFast,
     "try_new_order($self, cl_ord_id, instrument, side, price, quantity, account=0, ord_type=2,\n"
     "              time_in_force=0, ttl_ns=0, smp_id=0, flags=0)\n--\n\n"
     "Like new_order, but never waits: the sequence, or a negative Status and nothing written."},
    {"try_replace_order", as_method(&try_call<ReplaceOrderCall>), kFast,
     "try_replace_order($self, cl_ord_id, orig_cl_ord_id, instrument, side, price, quantity,\n"
     "                  ord_type=2, time_in_force=0, ttl_ns=0, flags=0)\n--\n\n"
     "Like replace_order, but never waits: the sequence, or a negative Status."},
    {"try_cancel_order", as_method(&try_call<CancelOrderCall>), kFast,
     "try_cancel_order($self, cl_ord_id, orig_cl_ord_id, instrument=0, quantity=0, side=0,\n"
     "                 account=0, ttl_ns=0, flags=0)\n--\n\n"
     "Like cancel_order, but never waits: the sequence, or a negative Status."},
    {"try_mass_cancel", as_method(&try_call<MassCancelCall>), kFast,
     "try_mass_cancel($self, cl_ord_id, scope=1, instrument=0, side=0, account=0, flags=0)\n--\n\n"
     "Like mass_cancel, but never waits: the sequence, or a negative Status."},
    {"send_batch", as_method(&send_batch), METH_O,
     "send_batch($self, slots, /)\n--\n\n"
     "Write an array of slot records (rdmaorder.new_orders(n) and its like, or SLOT) without\n"
     "copying it into Python objects; returns its length. The array is not changed; record i gets\n"
     "the sequence next_sequence + i. Waits for room; an exception's sent tells how many went.\n"
     "Raw slots go as they are: an array of V64, or a buffer that is no array, with items of 64\n"
     "bytes. TypeError for an array of another dtype."},
    {"try_send_batch", as_method(&try_send_batch), METH_O,
     "try_send_batch($self, slots, /)\n--\n\n"
     "Like send_batch, but never waits: returns how many were written, counted from the first."},
    {"poll", as_method(&poll), kFast,
     "poll($self, max=256)\n--\n\n"
     "Reports that arrived: an array of REPORT_RECORD, empty when there is none now. The array is\n"
     "the caller's; it is reused only after the caller dropped it. Raises NotConnected or\n"
     "SessionClosed when the link is over and everything that had arrived was delivered."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot g_slots[] = {
    {Py_tp_doc, const_cast<char*>("Native half of rdmaorder.Session; one thread at a time.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(&session_dealloc)},
    {Py_tp_methods, g_methods},
    {0, nullptr}};

PyType_Spec g_spec = {"rdmaorder._core.SessionCore", sizeof(SessionObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, g_slots};

}  // namespace

SessionState* usable_state(PyObject* self) {
  SessionState* state = reinterpret_cast<SessionObject*>(self)->state;
  if (RDMAORDER_UNLIKELY(state == nullptr)) {
    PyErr_SetString(PyExc_RuntimeError, "this session was never connected; use rdmaorder.connect");
    return nullptr;
  }
  if (RDMAORDER_UNLIKELY(state->busy)) {
    PyErr_SetString(PyExc_RuntimeError,
                    "this session is in use by another thread; a session belongs to one thread");
    return nullptr;
  }
  return state;
}

void add_session_type(py::module_& m) {
  intern_names<NewOrderCall>();
  intern_names<ReplaceOrderCall>();
  intern_names<CancelOrderCall>();
  intern_names<MassCancelCall>();
  const py::object type = py::reinterpret_steal<py::object>(PyType_FromSpec(&g_spec));
  if (!type) throw py::error_already_set();
  m.add_object("SessionCore", type);
}

}  // namespace rdmaorder::bindings
