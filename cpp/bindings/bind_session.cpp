// The cold half of the session object: connecting, closing, facts.
#include <pybind11/stl.h>

#include "bindings.hpp"
#include "session_object.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

SessionObject* object_of(const py::handle& core) {
  return reinterpret_cast<SessionObject*>(core.ptr());
}

SessionState& state_of(const py::handle& core) {
  SessionState* state = usable_state(core.ptr());
  if (state == nullptr) throw py::error_already_set();
  return *state;
}

memory::HugePages huge_pages_of(const std::string& text) {
  if (text == "off") return memory::HugePages::kOff;
  if (text == "try") return memory::HugePages::kTry;
  if (text == "require") return memory::HugePages::kRequire;
  throw Error(ErrorKind::kConfig,
              "huge_pages must be \"off\", \"try\" or \"require\", not \"" + text + "\"");
}

// Keyword names and units are those of rdmaorder.connect.
void session_connect(const py::object& core, const std::string& url, const std::string& session,
                     std::uint32_t order_slots, std::uint32_t report_slots,
                     std::uint32_t slot_bytes, std::uint16_t schema_id,
                     std::uint16_t schema_version, std::uint64_t next_sequence,
                     std::uint64_t next_report_sequence, bool undelivered_reports,
                     std::uint64_t connect_timeout_ns, std::uint64_t send_timeout_ns,
                     std::uint64_t suspect_after_ns, std::uint64_t dead_after_ns,
                     const std::string& huge_pages, const std::string& session_key,
                     const std::string& tls_ca, const std::string& tls_certificate,
                     const std::string& tls_key, const std::string& tls_name, bool resend_on_gap) {
  SessionConfig config;
  config.connect.url = url;
  config.connect.session = session;
  config.connect.slot_bytes = slot_bytes;
  config.connect.order_slot_count = order_slots;
  config.connect.report_slot_count = report_slots;
  config.connect.schema_id = schema_id;
  config.connect.schema_version = schema_version;
  config.connect.next_order_sequence = next_sequence;
  config.connect.next_report_sequence = next_report_sequence;
  config.connect.undelivered_reports = undelivered_reports;
  config.connect.timeout_ns = connect_timeout_ns;
  config.connect.huge_pages = huge_pages_of(huge_pages);
  if (!session_key.empty()) config.connect.session_key = control::parse_session_key(session_key);
  config.connect.tls_ca = tls_ca;
  config.connect.tls_certificate = tls_certificate;
  config.connect.tls_key = tls_key;
  config.connect.tls_name = tls_name;
  config.resend_on_gap = resend_on_gap;
  config.suspect_after_ns = suspect_after_ns;
  config.dead_after_ns = dead_after_ns;
  auto state = std::make_unique<SessionState>();
  {
    const Waiting waiting;
    state->session = Session::connect(config);
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  state->send_timeout_ns = send_timeout_ns;
  state->report_dtype = from_messages("REPORT_RECORD");
  state->batch_dtypes = from_messages("BATCH_DTYPES");
  state->scratch.resize(256);
  delete object_of(core)->state;
  object_of(core)->state = state.release();
}

// The names of the URL's options; those left to the library show as what it was told: "", 0 or -1.
py::dict verbs_asked(const transport::VerbsConfig& config) {
  py::dict d;
  d["device"] = config.device;
  d["local_address"] = config.local_address;
  d["port"] = config.port;
  d["gid_index"] = config.gid_index;
  d["mtu"] = config.mtu_bytes;
  d["depth"] = config.depth;
  d["inline_bytes"] = config.inline_bytes;
  d["signal_interval"] = config.signal_interval;
  d["timeout_exponent"] = config.timeout_exponent;
  d["retry_count"] = config.retry_count;
  d["rnr_retry_count"] = config.rnr_retry_count;
  d["traffic_class"] = config.traffic_class;
  d["service_level"] = config.service_level;
  return d;
}

py::dict session_status(const py::object& core) {
  Session& session = *state_of(core).session;
  session.check_link();
  const auto& established = session.established();
  const auto& peer = session.peer();
  const auto& transport = session.transport().info();
  const auto& counts = session.counts();
  const auto& ring = session.reader_counts();
  py::dict d;
  d["state"] = link_state_name(session.state());
  d["cause"] = session.cause();
  d["send_status"] = status_name(session.send_status());
  d["transport"] = transport.name;
  if (const auto* verbs = dynamic_cast<transport::VerbsTransport*>(&session.transport())) {
    py::dict facts = verbs_facts(verbs->facts());
    facts["peer_data_in_order"] = verbs->info().byte_order == transport::ByteOrder::kAscendingLine;
    facts["asked"] = verbs_asked(verbs->asked());
    d["verbs"] = std::move(facts);
  }
  d["session_index"] = established.session_index;
  d["gateway_pid"] = established.gateway_pid;
  d["gateway_version"] = established.gateway_version;
  d["slot_bytes"] = session.slot_bytes();
  d["order_slots"] = established.order_geometry.slot_count;
  d["report_slots"] = established.report_geometry.slot_count;
  d["cancel_reserve"] = established.cancel_reserve_count;
  d["credits"] = session.credit_count(ring::Lane::kNormal);
  d["next_sequence"] = session.next_sequence();
  d["next_report_sequence"] = session.next_report_sequence();
  d["consumed"] = peer.consumed;
  d["applied"] = peer.applied;
  d["durable"] = peer.durable;
  d["gateway_state"] = static_cast<int>(peer.state);
  d["gateway_reason"] = reason_name(peer.reason);
  d["heartbeat"] = peer.heartbeat;
  d["heartbeat_interval_ns"] = established.heartbeat_interval_ns;
  d["huge_pages"] = established.report_window.facts().huge_pages;
  d["locked"] = established.report_window.facts().locked;
  d["numa_node"] = established.report_window.facts().numa_node;
  d["sent"] = counts.sent;
  d["full"] = counts.full;
  d["refused"] = counts.refused;
  d["reports"] = counts.reports;
  d["slots_torn"] = ring.torn;
  d["slots_garbage"] = ring.garbage;
  return d;
}

py::object session_events(const py::object& core) {
  Session& session = *state_of(core).session;
  py::list events;
  wire::SessionEvent event;
  while (ok(session.take_event(&event))) {
    events.append(py::make_tuple(static_cast<int>(event.kind), static_cast<int>(event.reason),
                                 event.from_sequence, event.count, event.time_ns));
  }
  return events;
}

py::tuple session_positions(const py::object& core) {
  Session& session = *state_of(core).session;
  session.check_link();
  const auto& peer = session.peer();
  return py::make_tuple(peer.consumed, peer.applied, peer.durable);
}

bool session_wait_applied(const py::object& core, std::uint64_t sequence, std::uint64_t timeout_ns,
                          bool durable) {
  SessionState& state = state_of(core);
  const bool done = wait_until(state, timeout_ns, [&] {
    state.session->check_link();
    const auto& peer = state.session->peer();
    return (durable ? peer.durable : peer.applied) >= sequence ||
           state.session->state() == LinkState::kDead ||
           state.session->state() == LinkState::kClosed;
  });
  if (!done && PyErr_Occurred()) throw py::error_already_set();
  const auto& peer = state.session->peer();
  return (durable ? peer.durable : peer.applied) >= sequence;
}

bool session_wait_readable(const py::object& core, std::uint64_t timeout_ns) {
  SessionState& state = state_of(core);
  const bool done = wait_until(state, timeout_ns, [&] {
    state.session->check_link();
    return state.session->readable() || state.session->state() == LinkState::kDead ||
           state.session->state() == LinkState::kClosed;
  });
  if (!done && PyErr_Occurred()) throw py::error_already_set();
  return state.session->readable();
}

/// Runs `question` of the session with the GIL released. A Ctrl-C during it wins over its answer.
template <class Question>
auto asked(const py::object& core, Question question) {
  SessionState& state = state_of(core);
  state.busy = true;
  struct Idle {
    bool& busy;
    ~Idle() { busy = false; }
  } const idle{state.busy};
  auto answer = [&] {
    const Waiting waiting;
    return question(*state.session);
  }();
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return answer;
}

bool session_close(const py::object& core, std::uint64_t timeout_ns) {
  if (object_of(core)->state == nullptr) return false;
  return asked(core, [&](Session& session) { return session.close(timeout_ns); });
}

void session_reconnect(const py::object& core, std::uint64_t timeout_ns) {
  asked(core, [&](Session& session) {
    session.reconnect(timeout_ns);
    return true;
  });
}

py::bytes bytes_of(const std::vector<OrderFate>& fates) {
  return {reinterpret_cast<const char*>(fates.data()), fates.size() * sizeof(OrderFate)};
}

py::bytes session_resolve(const py::object& core, std::uint64_t timeout_ns) {
  return bytes_of(asked(core, [&](Session& session) { return session.resolve(timeout_ns); }));
}

py::bytes session_open_orders(const py::object& core, std::uint64_t timeout_ns) {
  return bytes_of(asked(core, [&](Session& session) { return session.open_orders(timeout_ns); }));
}

std::vector<std::uint64_t> session_unknown(const py::object& core) {
  return state_of(core).session->unknown_sequences();
}

py::tuple session_measure_clock(const py::object& core, std::uint64_t timeout_ns) {
  const control::ClockOffset clock =
      asked(core, [&](Session& session) { return session.measure_clock(timeout_ns); });
  return py::make_tuple(clock.offset_ns, clock.bound_ns);
}

std::uint64_t session_kill(const py::object& core, std::uint64_t timeout_ns) {
  return asked(core, [&](Session& session) { return session.kill(timeout_ns); });
}

monitor::Histogram session_latency(const py::object& core, bool reset) {
  monitor::Histogram& histogram = state_of(core).session->latency_ns();
  monitor::Histogram copy = histogram;
  if (reset) histogram.clear();
  return copy;
}

}  // namespace

bool python_interrupts() noexcept {
  const PyGILState_STATE held = PyGILState_Ensure();
  const bool raised = PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
  PyGILState_Release(held);
  return raised;
}

py::dict verbs_facts(const transport::VerbsFacts& facts) {
  py::dict d;
  d["device"] = facts.device;
  d["firmware"] = facts.firmware;
  d["link_layer"] = facts.link_layer;
  d["gid"] = facts.gid;
  d["gid_type"] = facts.gid_type;
  d["why"] = facts.why;
  d["post"] = facts.post;
  d["port"] = facts.port;
  d["gid_index"] = facts.gid_index;
  d["numa_node"] = facts.numa_node;
  d["mtu_bytes"] = facts.mtu_bytes;
  d["depth"] = facts.depth;
  d["inline_bytes"] = facts.inline_bytes;
  d["signal_interval"] = facts.signal_interval;
  d["max_put_bytes"] = facts.max_put_bytes;
  d["timeout_ns"] = facts.timeout_ns;
  d["retry_count"] = facts.retry_count;
  d["rnr_retry_count"] = facts.rnr_retry_count;
  d["traffic_class"] = facts.traffic_class;
  d["service_level"] = facts.service_level;
  d["data_in_order"] = facts.data_in_order;
  return d;
}

void bind_session(py::module_& m) {
  add_session_type(m);
  m.def("session_connect", &session_connect, py::arg("core"), py::kw_only(), py::arg("url"),
        py::arg("session"), py::arg("order_slots"), py::arg("report_slots"), py::arg("slot_bytes"),
        py::arg("schema_id"), py::arg("schema_version"), py::arg("next_sequence"),
        py::arg("next_report_sequence"), py::arg("undelivered_reports"),
        py::arg("connect_timeout_ns"), py::arg("send_timeout_ns"), py::arg("suspect_after_ns"),
        py::arg("dead_after_ns"), py::arg("huge_pages"), py::arg("session_key"), py::arg("tls_ca"),
        py::arg("tls_certificate"), py::arg("tls_key"), py::arg("tls_name"),
        py::arg("resend_on_gap"));
  m.def("session_status", &session_status, py::arg("core"));
  m.def("session_events", &session_events, py::arg("core"));
  m.def("session_positions", &session_positions, py::arg("core"));
  m.def("session_wait_applied", &session_wait_applied, py::arg("core"), py::arg("sequence"),
        py::arg("timeout_ns"), py::arg("durable"));
  m.def("session_wait_readable", &session_wait_readable, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_close", &session_close, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_reconnect", &session_reconnect, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_resolve", &session_resolve, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_open_orders", &session_open_orders, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_unknown", &session_unknown, py::arg("core"));
  m.def("session_measure_clock", &session_measure_clock, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_kill", &session_kill, py::arg("core"), py::arg("timeout_ns"));
  m.def("session_latency", &session_latency, py::arg("core"), py::arg("reset"));
  m.def("session_next_sequence",
        [](const py::object& core) { return state_of(core).session->next_sequence(); });
}

}  // namespace rdmaorder::bindings
