#include "order_object.hpp"

#include <structmember.h>

#include "fast_arguments.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

py::handle g_type;

OrderObject& order_of(PyObject* self) { return *reinterpret_cast<OrderObject*>(self); }

constexpr Argument kOrderId = optional("order_id", 0, INT64_MAX, 0);

constexpr Signature kAccept{"accept", 1, {kOrderId}};
constexpr Signature kReject{"reject", 1, {required("reason", 1, kReasonCount - 1)}};
constexpr Signature kReport{
    "report",
    7,
    {required("exec_type", '0', 'F'), required("ord_status", '0', 'C'),
     optional("price", INT64_MIN, INT64_MAX, kNoPrice), optional("quantity", 0, INT64_MAX, 0),
     optional("leaves_quantity", 0, INT64_MAX, 0), kOrderId,
     optional("reason", 0, kReasonCount - 1, 0)}};

// The ranges above leave gaps.
bool is_exec_type(std::int64_t value) {
  return exec_type_name(static_cast<ExecType>(value)) != exec_type_name(ExecType{});
}
bool is_ord_status(std::int64_t value) {
  return value <= '2' || value == '4' || value == '5' || value == '8' || value == 'C';
}

struct AcceptCall {
  static constexpr const Signature& signature = kAccept;
  static inline Names names;
  static bool make(const OrderObject& order, const Values& v, wire::ExecutionReport* report) {
    *report = acceptance_of(order.record);
    report->order_id = static_cast<std::uint64_t>(v[0]);
    return true;
  }
};

struct RejectCall {
  static constexpr const Signature& signature = kReject;
  static inline Names names;
  static bool make(const OrderObject& order, const Values& v, wire::ExecutionReport* report) {
    *report = rejection_of(order.record, static_cast<Reason>(v[0]));
    return true;
  }
};

struct ReportCall {
  static constexpr const Signature& signature = kReport;
  static inline Names names;
  static bool make(const OrderObject& order, const Values& v, wire::ExecutionReport* report) {
    if (!is_exec_type(v[0]) || !is_ord_status(v[1])) {
      PyErr_Format(PyExc_ValueError,
                   "report: exec_type must be an ExecType and ord_status an OrdStatus, not %lld "
                   "and %lld",
                   static_cast<long long>(v[0]), static_cast<long long>(v[1]));
      return false;
    }
    *report = {.cl_ord_id = order.record.block_words[0],
               .order_id = static_cast<std::uint64_t>(v[5]),
               .price = v[2],
               .quantity = v[3],
               .leaves_quantity = v[4],
               .order_sequence_low = 0,
               .exec_type = static_cast<ExecType>(v[0]),
               .ord_status = static_cast<OrdStatus>(v[1]),
               .reason = static_cast<Reason>(v[6]),
               .flags = 0};
    return true;
  }
};

/// accept(…), reject(…), report(…) -> None: one report, sent at once.
template <class Call>
PyObject* answer(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  Values values;
  if (!parse<Call>(args, count, names, values)) return nullptr;
  OrderObject& order = order_of(self);
  // Behind parse, which may run an __index__ and so let another thread have the GIL.
  const AnswerDesk& desk = **order.desk;
  if (RDMAORDER_UNLIKELY(desk.sink == nullptr || desk.thread != std::this_thread::get_id())) {
    PyErr_Format(PyExc_RuntimeError,
                 "%s: orders are answered in the calls of their handler (on_order, on_orders, "
                 "on_idle, recover) and its thread; from elsewhere, leave the answer to on_idle",
                 Call::signature.function);
    return nullptr;
  }
  wire::ExecutionReport report;
  if (!Call::make(order, values, &report)) return nullptr;
  // A strategy that cannot take it now has it in the journal; there is nothing to undo.
  (void)desk.sink->send(order.record.session_index, order.record.sequence, report);
  order.answered = true;
  Py_RETURN_NONE;
}

PyObject* repr(PyObject* self) {
  const OrderObject& order = order_of(self);
  return PyUnicode_FromFormat(
      "<rdmaorder.Order template_id=%u session_index=%u sequence=%llu cl_ord_id=%llu>",
      unsigned{order.record.template_id}, order.record.session_index,
      static_cast<unsigned long long>(order.record.sequence),
      static_cast<unsigned long long>(order.record.block_words[0]));
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete order_of(self).desk;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyMethodDef g_methods[] = {
    {"accept", as_method(&answer<AcceptCall>), kFast,
     "accept($self, order_id=0)\n--\n\n"
     "Grant the request: a new order or a replace as it stands, a cancel as confirmed.\n"
     "order_id is the handler's name for the order, 0 for none."},
    {"reject", as_method(&answer<RejectCall>), kFast,
     "reject($self, reason)\n--\n\nRefuse the request; reason is a Reason other than NONE."},
    {"report", as_method(&answer<ReportCall>), kFast,
     "report($self, exec_type, ord_status, price=NO_PRICE, quantity=0, leaves_quantity=0,\n"
     "       order_id=0, reason=0)\n--\n\n"
     "Send any report on the order: a fill, say, with its price and quantity and what is left."},
    {nullptr, nullptr, 0, nullptr}};

#define RDMAORDER_FIELD(name, type, member, doc) \
  {name, type, static_cast<Py_ssize_t>(offsetof(OrderObject, member)), READONLY, doc}
PyMemberDef g_members[] = {
    RDMAORDER_FIELD("template_id", T_USHORT, record.template_id,
                    "1 new order, 2 replace, 3 cancel, 4 mass cancel"),
    RDMAORDER_FIELD("session_index", T_UINT, record.session_index, "number of the session"),
    RDMAORDER_FIELD("sequence", T_ULONGLONG, record.sequence, "of the request in its session"),
    RDMAORDER_FIELD("cl_ord_id", T_ULONGLONG, record.block_words, "of the request"),
    RDMAORDER_FIELD("orig_cl_ord_id", T_ULONGLONG, fields.orig_cl_ord_id,
                    "replace, cancel: the order"),
    RDMAORDER_FIELD("price", T_LONGLONG, fields.price, "mantissa; NO_PRICE: market order, cancels"),
    RDMAORDER_FIELD("quantity", T_LONGLONG, fields.quantity,
                    "cancel: to take off, 0 the whole order"),
    RDMAORDER_FIELD("stale_after_ns", T_ULONGLONG, fields.stale_after_ns,
                    "CLOCK_REALTIME, 0 never"),
    RDMAORDER_FIELD("instrument", T_UINT, fields.instrument, "number of the instrument"),
    RDMAORDER_FIELD("account", T_UINT, fields.account, "number of the account"),
    RDMAORDER_FIELD("smp_id", T_UINT, fields.smp_id, "SelfMatchPreventionID of a new order"),
    RDMAORDER_FIELD("side", T_UBYTE, fields.side, "BUY or SELL; 0: a mass cancel of both"),
    RDMAORDER_FIELD("ord_type", T_UBYTE, fields.ord_type, "OrdType; 0: a cancel"),
    RDMAORDER_FIELD("time_in_force", T_UBYTE, fields.time_in_force, "TimeInForce"),
    RDMAORDER_FIELD("scope", T_UBYTE, fields.scope, "MassCancelScope; 0: no mass cancel"),
    RDMAORDER_FIELD("flags", T_UBYTE, fields.flags, "FLAG_POSS_RESEND and others"),
    {nullptr, 0, 0, 0, nullptr}};
#undef RDMAORDER_FIELD

PyType_Slot g_slots[] = {{Py_tp_doc, const_cast<char*>("A request, for a handler's on_order.")},
                         {Py_tp_dealloc, reinterpret_cast<void*>(&dealloc)},
                         {Py_tp_repr, reinterpret_cast<void*>(&repr)},
                         {Py_tp_methods, g_methods},
                         {Py_tp_members, g_members},
                         {0, nullptr}};

PyType_Spec g_spec = {"rdmaorder._core.Order", sizeof(OrderObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, g_slots};

/// What the kind of request has.
template <class Request>
void take_fields(const Request& request, OrderFields& fields) noexcept {
  fields.instrument = request.instrument;
  fields.side = static_cast<std::uint8_t>(request.side);
  fields.flags = request.flags;
  if constexpr (requires { request.orig_cl_ord_id; }) {
    fields.orig_cl_ord_id = request.orig_cl_ord_id;
  }
  if constexpr (requires { request.price; }) {
    fields.price = request.price;
    fields.ord_type = static_cast<std::uint8_t>(request.ord_type);
    fields.time_in_force = static_cast<std::uint8_t>(request.time_in_force);
  }
  if constexpr (requires { request.quantity; }) {
    fields.quantity = request.quantity;
    fields.stale_after_ns = request.stale_after_ns;
  }
  if constexpr (requires { request.account; }) fields.account = request.account;
  if constexpr (requires { request.smp_id; }) fields.smp_id = request.smp_id;
  if constexpr (requires { request.scope; }) {
    fields.scope = static_cast<std::uint8_t>(request.scope);
  }
}

}  // namespace

void add_order_type(py::module_& m) {
  intern_names<AcceptCall>();
  intern_names<RejectCall>();
  intern_names<ReportCall>();
  const py::object type = py::reinterpret_steal<py::object>(PyType_FromSpec(&g_spec));
  if (!type) throw py::error_already_set();
  m.add_object("Order", type);
  g_type = type;  // the module keeps it
}

py::object make_order_object(const std::shared_ptr<AnswerDesk>& desk) {
  auto* type = reinterpret_cast<PyTypeObject*>(g_type.ptr());
  auto made = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
  if (!made) throw py::error_already_set();
  order_of(made.ptr()).desk = new std::shared_ptr<AnswerDesk>(desk);
  return made;
}

void set_order(OrderObject& order, const wire::OrderRecord& record) noexcept {
  order.record = record;
  order.answered = false;
  order.fields = {};
  switch (static_cast<wire::TemplateId>(record.template_id)) {
    case wire::TemplateId::kNewOrder:
      return take_fields(record.new_order, order.fields);
    case wire::TemplateId::kReplaceOrder:
      return take_fields(record.replace_order, order.fields);
    case wire::TemplateId::kCancelOrder:
      return take_fields(record.cancel_order, order.fields);
    case wire::TemplateId::kMassCancel:
      return take_fields(record.mass_cancel, order.fields);
    default:
      return;
  }
}

}  // namespace rdmaorder::bindings
