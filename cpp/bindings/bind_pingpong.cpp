// The measuring loops for rdmaorder/pingpong/. Samples come in as one uint64 array of shape (n, 6),
// whose rows are pingpong::Sample.
#include <fcntl.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "bindings.hpp"
#include "rdmaorder/pingpong.hpp"
#include "rdmaorder/rdma_link.hpp"
#include "session_object.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

using pingpong::Outcome;
using pingpong::Plan;
using pingpong::RawEnd;
using Words = py::array_t<std::uint64_t, py::array::c_style>;

constexpr py::ssize_t kSampleWords = sizeof(pingpong::Sample) / 8;

/// A plan whose arrays stay the caller's.
Plan plan_of(Words& samples, std::uint64_t warm_up, std::uint64_t duration_ns,
             const std::optional<Words>& due_ns, std::uint64_t answer_timeout_ns) {
  if (samples.ndim() != 2 || samples.shape(1) != kSampleWords) {
    throw py::value_error("samples must have six columns");
  }
  Plan plan;
  plan.samples = {reinterpret_cast<pingpong::Sample*>(samples.mutable_data()),
                  static_cast<std::size_t>(samples.shape(0))};
  plan.warm_up_count = warm_up;
  plan.duration_ns = duration_ns;
  plan.answer_timeout_ns = answer_timeout_ns;
  if (due_ns) plan.due_ns = {due_ns->data(), static_cast<std::size_t>(due_ns->size())};
  return plan;
}

py::dict facts_of(const Outcome& outcome) {
  constexpr const char* kEndings[] = {"done", "interrupted", "peer lost"};
  constexpr py::ssize_t kAnomalyWords = sizeof(pingpong::Anomaly) / 8;
  const auto count = static_cast<py::ssize_t>(outcome.anomalies.size());
  Words anomalies({count, kAnomalyWords});
  if (count != 0) {
    std::memcpy(anomalies.mutable_data(), outcome.anomalies.data(),
                outcome.anomalies.size() * sizeof(pingpong::Anomaly));
  }
  py::dict d;
  d["sent"] = outcome.sent_count;
  d["answered"] = outcome.answered_count;
  d["bad_payloads"] = outcome.bad_payloads;
  d["strays"] = outcome.strays;
  d["torn"] = outcome.torn;
  d["full"] = outcome.full;
  d["ending"] = kEndings[static_cast<int>(outcome.ending)];
  d["cause"] = outcome.cause;
  d["anomalies"] = anomalies;
  return d;
}

/// Runs `loop` without the GIL and with Ctrl-C ending it.
template <class Run>
py::dict measured(Run&& loop) {
  Outcome outcome;
  {
    const py::gil_scoped_release release;
    const pingpong::InterruptGuard guard;
    outcome = loop();
  }
  return facts_of(outcome);
}

py::dict clock_facts() {
  pingpong::ClockFacts facts;
  {
    const py::gil_scoped_release release;
    facts = pingpong::measure_clock();
  }
  py::dict d;
  d["ticks_per_ns"] = facts.ticks_per_ns;
  d["read_cost_ns"] = facts.read_cost_ns;
  d["order_cost_ns"] = facts.order_cost_ns;
  d["step_ns"] = static_cast<double>(facts.step_ticks) / facts.ticks_per_ns;
  return d;
}

py::dict build_facts() {
  py::dict d;
  d["compiler"] =
#if defined(__clang__)
      "clang " __clang_version__;
#else
      "gcc " __VERSION__;
#endif
  d["build_type"] = RDMAORDER_BUILD_TYPE;
  d["build_flags"] = RDMAORDER_BUILD_FLAGS;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  d["sanitized"] = true;
#else
  d["sanitized"] = false;
#endif
  return d;
}

Words floor_ticks(int own_cpu, int peer_cpu, py::ssize_t count) {
  constexpr std::uint64_t kLimitNs = 2'000'000'000;
  Words round_trips(count);
  const std::span<std::uint64_t> span(round_trips.mutable_data(), static_cast<std::size_t>(count));
  std::size_t made = 0;
  {
    const py::gil_scoped_release release;
    made = pingpong::run_floor(own_cpu, peer_cpu, span, kLimitNs);
  }
  round_trips.resize({static_cast<py::ssize_t>(made)});
  return round_trips;
}

py::dict run_session(const py::object& core, Words samples, std::uint64_t warm_up,
                     std::uint64_t duration_ns, const std::optional<Words>& due_ns,
                     std::uint64_t answer_timeout_ns, bool stamps_written) {
  SessionState* state = usable_state(core.ptr());
  if (state == nullptr) throw py::error_already_set();
  Plan plan = plan_of(samples, warm_up, duration_ns, due_ns, answer_timeout_ns);
  plan.stamps_written = stamps_written;
  state->busy = true;
  py::dict facts = measured([&] { return pingpong::run_session(*state->session, plan); });
  state->busy = false;
  return facts;
}

py::dict address_dict(const transport::VerbsAddress& address) {
  py::dict d;
  d["qp_number"] = address.qp_number;
  d["packet_sequence"] = address.packet_sequence;
  d["gid"] = std::vector<int>(address.gid.begin(), address.gid.end());
  d["lid"] = address.lid;
  d["ethernet"] = address.link_layer == transport::LinkLayer::kEthernet;
  d["mtu_bytes"] = address.mtu_bytes;
  d["window_address"] = address.window_address;
  d["window_key"] = address.window_key;
  d["window_bytes"] = address.window_bytes;
  return d;
}

transport::VerbsAddress address_of(const py::dict& d) {
  transport::VerbsAddress address;
  const auto gid = d["gid"].cast<std::vector<std::uint8_t>>();
  if (gid.size() != address.gid.size()) throw py::value_error("a GID has 16 bytes");
  std::copy(gid.begin(), gid.end(), address.gid.begin());
  address.qp_number = d["qp_number"].cast<std::uint32_t>();
  address.packet_sequence = d["packet_sequence"].cast<std::uint32_t>();
  address.lid = d["lid"].cast<std::uint16_t>();
  address.link_layer = d["ethernet"].cast<bool>() ? transport::LinkLayer::kEthernet
                                                  : transport::LinkLayer::kInfiniBand;
  address.mtu_bytes = d["mtu_bytes"].cast<std::uint32_t>();
  address.window_address = d["window_address"].cast<std::uint64_t>();
  address.window_key = d["window_key"].cast<std::uint32_t>();
  address.window_bytes = d["window_bytes"].cast<std::uint64_t>();
  return address;
}

/// `options`: null for shared memory, else the settings of an rdma:// URL.
std::unique_ptr<RawEnd> open_raw(std::uint32_t payload_bytes, bool paced,
                                 const std::optional<std::map<std::string, std::string>>& options,
                                 const std::string& local_address) {
  if (!options) return RawEnd::open(payload_bytes, paced, nullptr);
  const transport::VerbsConfig config = verbs_config(*options, local_address);
  return RawEnd::open(payload_bytes, paced, &config);
}

void connect_shm(RawEnd& end, int pid, int fd, std::uint64_t bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  memory::UniqueFd opened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!opened) throw_errno("open", path, errno, "both ends must run as one user on one machine");
  end.connect_shm(memory::Window::map_peer(std::move(opened), bytes));
}

py::dict raw_facts(RawEnd& end) {
  const transport::Info& info = end.transport().info();
  py::dict d;
  d["transport"] = info.name;
  d["in_order"] = info.byte_order == transport::ByteOrder::kAscendingLine;
  if (const auto* verbs = dynamic_cast<transport::VerbsTransport*>(&end.transport())) {
    d["verbs"] = verbs_facts(verbs->facts());
  }
  return d;
}

/// A builtin of its own: the cheapest stamp that Python can take.
PyObject* read_ticks(PyObject* /*self*/, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLongLong(ticks());
}
PyMethodDef ticks_method{"ticks", read_ticks, METH_NOARGS, "ticks()\n--\n\nThe cycle counter now."};

void bind_raw(py::module_& m) {
  py::class_<RawEnd>(m, "PingPongRaw", "One end of a bare transport (pingpong.hpp).")
      .def(py::init(&open_raw), py::arg("payload_bytes"), py::arg("paced"), py::arg("options"),
           py::arg("local_address"))
      .def("window",
           [](const RawEnd& end) {
             return py::make_tuple(getpid(), end.window().fd(), end.window().bytes());
           })
      .def("address", [](const RawEnd& end) { return address_dict(end.address()); })
      .def("connect_shm", &connect_shm, py::arg("pid"), py::arg("fd"), py::arg("bytes"))
      .def(
          "connect_rdma",
          [](RawEnd& end, const py::dict& peer) {
            const auto address = address_of(peer);
            const py::gil_scoped_release release;
            end.connect_rdma(address);
          },
          py::arg("peer"))
      .def("connect_inproc", &RawEnd::connect_inproc, py::arg("other"))
      .def("facts", &raw_facts)
      .def(
          "run",
          [](RawEnd& end, Words samples, std::uint64_t warm_up, std::uint64_t duration_ns,
             const std::optional<Words>& due_ns, std::uint64_t answer_timeout_ns) {
            const Plan plan = plan_of(samples, warm_up, duration_ns, due_ns, answer_timeout_ns);
            return measured([&] { return end.run(plan); });
          },
          py::arg("samples"), py::arg("warm_up"), py::arg("duration_ns"), py::arg("due_ns"),
          py::arg("answer_timeout_ns"))
      .def(
          "serve",
          [](RawEnd& end, bool until_signal) {
            std::optional<pingpong::InterruptGuard> guard;
            if (until_signal) guard.emplace();
            return end.serve();
          },
          py::arg("until_signal"), py::call_guard<py::gil_scoped_release>())
      .def("request_stop", &RawEnd::request_stop);
}

}  // namespace

void bind_pingpong(py::module_& m) {
  m.attr("ticks") = py::reinterpret_steal<py::object>(PyCFunction_New(&ticks_method, nullptr));
  m.def("pingpong_clock", &clock_facts);
  m.def("pingpong_build", &build_facts);
  m.def("pingpong_floor", &floor_ticks, py::arg("own_cpu"), py::arg("peer_cpu"), py::arg("count"));
  m.def("pingpong_session", &run_session, py::arg("session"), py::arg("samples"),
        py::arg("warm_up"), py::arg("duration_ns"), py::arg("due_ns"), py::arg("answer_timeout_ns"),
        py::arg("stamps_written"));
  bind_raw(m);
  m.def(
      "pingpong_descriptor",
      [](int fd, bool datagrams, std::uint32_t payload_bytes, Words samples, std::uint64_t warm_up,
         std::uint64_t duration_ns) {
        const Plan plan = plan_of(samples, warm_up, duration_ns, std::nullopt, 2'000'000'000);
        return measured(
            [&] { return pingpong::run_descriptor(fd, datagrams, payload_bytes, plan); });
      },
      py::arg("fd"), py::arg("datagrams"), py::arg("payload_bytes"), py::arg("samples"),
      py::arg("warm_up"), py::arg("duration_ns"));
  m.def(
      "pingpong_serve_descriptor",
      [](int fd, bool datagrams, std::uint32_t payload_bytes) {
        const pingpong::InterruptGuard guard;
        pingpong::serve_descriptor(fd, datagrams, payload_bytes);
      },
      py::arg("fd"), py::arg("datagrams"), py::arg("payload_bytes"),
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "pingpong_zeromq",
      [](const std::string& library, const std::string& endpoint, bool blocking,
         std::uint32_t payload_bytes, Words samples, std::uint64_t warm_up,
         std::uint64_t duration_ns) {
        const Plan plan = plan_of(samples, warm_up, duration_ns, std::nullopt, 5'000'000'000);
        return measured([&] {
          return pingpong::run_zeromq({library, endpoint, blocking}, payload_bytes, plan);
        });
      },
      py::arg("library"), py::arg("endpoint"), py::arg("blocking"), py::arg("payload_bytes"),
      py::arg("samples"), py::arg("warm_up"), py::arg("duration_ns"));
  m.def(
      "pingpong_serve_zeromq",
      [](const std::string& library, const std::string& endpoint, bool blocking,
         std::uint32_t payload_bytes) {
        const pingpong::InterruptGuard guard;
        pingpong::serve_zeromq({library, endpoint, blocking}, payload_bytes);
      },
      py::arg("library"), py::arg("endpoint"), py::arg("blocking"), py::arg("payload_bytes"),
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace rdmaorder::bindings
