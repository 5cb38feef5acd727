// GatewayCore: the C++ gateway as rdmaorder/gateway/ uses it.
#include <fcntl.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>

#include "bindings.hpp"
#include "python_handler.hpp"
#include "rdmaorder/gateway.hpp"
#include "rdmaorder/rdma_link.hpp"
#include "rdmaorder/transport/shm.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

template <class Value>
Value choose(const char* what, const std::string& text,
             std::initializer_list<std::pair<const char*, Value>> values) {
  std::string names;
  for (const auto& [name, value] : values) {
    if (text == name) return value;
    names += std::string(names.empty() ? "\"" : ", \"") + name + "\"";
  }
  throw Error(ErrorKind::kConfig,
              std::string(what) + " must be one of " + names + ", not \"" + text + "\"");
}

/// Settings arrive as a dict with the field names and units of
/// rdmaorder.gateway.GatewayConfig.
template <class Value>
void take(const py::dict& settings, const char* name, Value& value) {
  if (settings.contains(name)) value = settings[name].cast<Value>();
}

GatewayConfig gateway_config(const py::dict& d) {
  GatewayConfig config;
  std::string idle = "spin";
  std::string huge_pages = "try";
  take(d, "max_sessions", config.max_session_count);
  take(d, "cancel_reserve", config.cancel_reserve_count);
  take(d, "batch_limit", config.batch_limit_count);
  take(d, "backlog_limit", config.backlog_limit_count);
  take(d, "heartbeat_interval_ns", config.heartbeat_interval_ns);
  take(d, "torn_timeout_ns", config.torn_timeout_ns);
  take(d, "cpu", config.cpu);
  take(d, "counters", config.counters_path);
  take(d, "instruments", config.guard.instruments);
  take(d, "max_quantity", config.guard.max_quantity);
  take(d, "max_orders_per_s", config.throttle.orders_per_s);
  take(d, "orders_burst", config.throttle.burst_count);
  take(d, "throttle_disconnect", config.throttle.disconnect_count);
  take(d, "idle", idle);
  take(d, "huge_pages", huge_pages);
  config.idle = choose<IdleStrategy>("idle", idle,
                                     {{"spin", IdleStrategy::kSpin},
                                      {"yield", IdleStrategy::kYield},
                                      {"backoff", IdleStrategy::kBackoff}});
  config.huge_pages = choose<memory::HugePages>("huge_pages", huge_pages,
                                                {{"off", memory::HugePages::kOff},
                                                 {"try", memory::HugePages::kTry},
                                                 {"require", memory::HugePages::kRequire}});
  return config;
}

journal::Config journal_config(const py::dict& d) {
  journal::Config config;
  std::string sync = "interval";
  take(d, "journal", config.directory);
  take(d, "segment_bytes", config.segment_bytes);
  take(d, "sync_interval_ns", config.sync_interval_ns);
  take(d, "sync", sync);
  config.sync = choose<journal::SyncPolicy>("sync", sync,
                                            {{"none", journal::SyncPolicy::kNone},
                                             {"interval", journal::SyncPolicy::kInterval},
                                             {"batch", journal::SyncPolicy::kBatch}});
  return config;
}

class GatewayCore {
 public:
  GatewayCore(const py::dict& settings, const py::object& handler)
      : cancel_reserve_(gateway_config(settings).cancel_reserve_count) {
    const GatewayConfig config = gateway_config(settings);
    std::unique_ptr<Handler> native = make_handler(settings, handler);
    const journal::Config journal = journal_config(settings);
    const py::gil_scoped_release release;
    std::unique_ptr<journal::Writer> writer;
    SessionRecovery recovery(native.get());
    if (!journal.directory.empty()) {
      writer = journal::Writer::open(journal, std::ref(recovery), &recovered_);
    }
    gateway_ = std::make_unique<Gateway>(config, std::move(native), std::move(writer),
                                         recovery.sessions(), recovery.all_killed());
    in_doubt_ = gateway_->counters().make("orders_in_doubt").get();
    const monitor::Counter errors = gateway_->counters().make("handler_errors");
    links_failed_ = gateway_->counters().make("links_failed");
    if (python_handler_ != nullptr) python_handler_->count_errors_in(errors);
  }
  ~GatewayCore() {
    if (::getpid() != process_) {  // threads, links and journal are the parent's, not a fork's
      (void)gateway_.release();
      return;
    }
    const py::gil_scoped_release release;  // the receiver may be waiting for the GIL
    gateway_.reset();
  }
  GatewayCore(const GatewayCore&) = delete;
  GatewayCore& operator=(const GatewayCore&) = delete;

  py::dict open_session(const std::string& name, std::uint32_t slot_bytes,
                        std::uint32_t order_slot_count, std::uint32_t report_slot_count,
                        std::uint16_t schema_id, std::uint16_t schema_version) {
    SessionRequest request{name,      slot_bytes,    order_slot_count, report_slot_count,
                           schema_id, schema_version};
    SessionGrant grant;
    {
      const py::gil_scoped_release release;
      grant = gateway_->open_session(request);
    }
    py::dict d;
    d["session_index"] = grant.session_index;
    d["live"] = grant.live;
    d["next_order_sequence"] = grant.next_order_sequence;
    d["next_report_sequence"] = grant.next_report_sequence;
    d["undelivered_report_sequence"] = grant.undelivered_report_sequence;
    d["slot_bytes"] = slot_bytes;
    d["order_slot_count"] = grant.order_slot_count;
    d["report_slot_count"] = grant.report_slot_count;
    d["cancel_reserve_count"] = std::min(cancel_reserve_, grant.order_slot_count - 1);
    d["heartbeat_interval_ns"] = gateway_->config().heartbeat_interval_ns;
    return d;
  }

  py::dict attach_shm(std::uint32_t session_index, int report_fd, const py::dict& report_window,
                      std::uint64_t next_order_sequence, std::uint64_t next_report_sequence) {
    AttachRequest request = attach_request(session_index, report_window, next_order_sequence);
    request.next_report_sequence = next_report_sequence;
    AttachResult result;
    {
      const py::gil_scoped_release release;
      if (!request.report_geometry.is_valid()) refuse_geometry();
      memory::UniqueFd fd(fcntl(report_fd, F_DUPFD_CLOEXEC, 0));
      if (!fd) throw_errno("duplicate", "the report window's descriptor", errno);
      const std::uint64_t bytes = request.report_geometry.window_bytes();
      // Mapped when the ring is known to be no larger than what was granted.
      request.connect = [&fd, bytes](const memory::Window&) {
        try {
          return transport::make_shm(memory::Window::map_peer(std::move(fd), bytes));
        } catch (const Error& error) {
          throw Error(ErrorKind::kRefused, error.what(), error.error_number(), "BadWindow");
        }
      };
      result = gateway_->attach(std::move(request));
    }
    py::dict d = attach_answer(result);
    d["fd"] = result.order_window_fd.release();
    return d;
  }

  py::dict attach_rdma(std::uint32_t session_index, const py::dict& endpoint,
                       const py::dict& window, std::uint64_t next_order_sequence,
                       std::uint64_t next_report_sequence, const std::string& local_address,
                       const py::dict& options) {
    AttachRequest request = attach_request(session_index, window, next_order_sequence);
    request.next_report_sequence = next_report_sequence;
    request.hold = true;  // until the strategy's queue pair can receive
    control::Endpoint peer;
    take(endpoint, "qp_number", peer.qp_number);
    take(endpoint, "packet_sequence", peer.packet_sequence);
    take(endpoint, "lid", peer.lid);
    take(endpoint, "mtu_bytes", peer.mtu_bytes);
    const auto gid = endpoint["gid"].cast<std::string>();
    if (gid.size() != peer.gid.size()) {
      throw Error(ErrorKind::kRefused, "a GID has 16 bytes, not " + std::to_string(gid.size()), 0,
                  "BadEndpoint");
    }
    std::memcpy(peer.gid.data(), gid.data(), gid.size());
    const transport::VerbsAddress remote = to_verbs_address(
        peer, window["address"].cast<std::uint64_t>(), window["key"].cast<std::uint32_t>(),
        window["bytes"].cast<std::uint64_t>());
    std::map<std::string, std::string> texts;  // numbers come as int
    for (const auto& [key, value] : options) texts[py::str(key)] = py::str(value);
    const transport::VerbsConfig config = verbs_config(texts, local_address);
    transport::VerbsAddress local;
    bool data_in_order = false;
    AttachResult result;
    {
      const py::gil_scoped_release release;
      if (!request.report_geometry.is_valid()) refuse_geometry();
      request.connect = [&](const memory::Window& order_window) {
        auto own = transport::VerbsEndpoint::open(config, order_window);
        local = own->local();
        auto connected = transport::VerbsEndpoint::connect(std::move(own), remote);
        check_slot_fits(*connected, request.report_geometry.slot_bytes);
        data_in_order = connected->facts().data_in_order;
        return connected;
      };
      result = gateway_->attach(std::move(request));
    }
    py::dict answer;
    answer["qp_number"] = local.qp_number;
    answer["packet_sequence"] = local.packet_sequence;
    answer["gid"] = py::bytes(reinterpret_cast<const char*>(local.gid.data()), local.gid.size());
    answer["lid"] = local.lid;
    answer["mtu_bytes"] = local.mtu_bytes;
    py::dict d = attach_answer(result);
    d["endpoint"] = answer;
    d["data_in_order"] = data_in_order ? 1 : 0;
    d["window"]["address"] = local.window_address;
    d["window"]["key"] = local.window_key;
    return d;
  }

  void activate(std::uint32_t session_index, std::uint64_t epoch, bool data_in_order) {
    const py::gil_scoped_release release;
    if (!gateway_->activate(session_index, epoch, data_in_order)) {
      throw Error(ErrorKind::kRefused, "the link that was made is gone; establish again", 0,
                  "SessionBlocked");
    }
  }

  py::dict detach(std::uint32_t session_index, std::uint64_t epoch, bool drain) {
    DetachResult result;
    {
      const py::gil_scoped_release release;
      result = gateway_->detach(session_index, epoch, drain);
    }
    py::dict d;
    d["last_order_sequence"] = result.last_order_sequence;
    d["last_report_sequence"] = result.last_report_sequence;
    return d;
  }

  py::bytes fates(std::uint32_t session_index, std::uint64_t from, std::uint32_t count) {
    return asked([&] { return gateway_->fates(session_index, from, count); });
  }

  py::bytes open_orders(std::uint32_t session_index, std::uint64_t from) {
    return asked([&] { return gateway_->open_orders(session_index, from); });
  }

  std::uint64_t cancel_orders(std::uint32_t session_index, std::uint8_t scope,
                              std::uint32_t instrument, std::uint8_t side, std::uint32_t account,
                              std::uint8_t reason) {
    wire::MassCancel request{};
    request.scope = static_cast<MassCancelScope>(scope);
    request.instrument = instrument;
    request.side = static_cast<Side>(side);
    request.account = account;
    const py::gil_scoped_release release;
    return gateway_->cancel_orders(session_index, request, static_cast<Reason>(reason));
  }

  std::optional<std::uint64_t> cancel_gone(std::uint32_t session_index, std::uint64_t gone_for_ns,
                                           std::uint8_t reason) {
    const py::gil_scoped_release release;
    return gateway_->cancel_gone(session_index, gone_for_ns, static_cast<Reason>(reason));
  }

  /// None: every session, those to come included; so with release.
  using Chosen = std::optional<std::vector<std::uint32_t>>;

  py::list kill(const Chosen& session_indices, std::uint64_t since_ns) {
    std::vector<KillResult> results;
    {
      const py::gil_scoped_release release;
      results = session_indices ? gateway_->kill(*session_indices, since_ns)
                                : gateway_->kill_all(since_ns);
    }
    py::list list;
    for (const KillResult& result : results) {
      py::dict d;
      d["session_index"] = result.session_index;
      d["name"] = result.name;
      d["canceled"] = result.canceled_count;
      d["fence_ns"] = result.fence_ns;
      d["recorded"] = result.recorded ? 1 : 0;
      d["epoch"] = result.epoch;
      d["refusal"] = result.refusal;
      list.append(d);
    }
    return list;
  }

  bool release(const Chosen& session_indices) {
    const py::gil_scoped_release unlocked;
    return session_indices ? gateway_->release(*session_indices) : gateway_->release_all();
  }

  py::list sessions() {
    std::vector<SessionView> views;
    {
      const py::gil_scoped_release release;
      views = gateway_->sessions();
    }
    py::list list;
    for (const SessionView& view : views) {
      py::dict d;
      d["name"] = view.name;
      d["session_index"] = view.session_index;
      d["live"] = view.live;
      d["killed"] = view.killed;
      d["epoch"] = view.epoch;
      d["next_order_sequence"] = view.next_order_sequence;
      d["next_report_sequence"] = view.next_report_sequence;
      d["rejected"] = view.rejected_count;
      d["backlog"] = view.backlog_count;
      d["failure"] = view.failure;
      list.append(d);
    }
    return list;
  }

  py::dict counters() const {
    py::dict d;
    for (const auto& [name, value] : gateway_->counters().snapshot()) d[py::str(name)] = value;
    return d;
  }

  [[nodiscard]] std::uint64_t links_failed() const { return links_failed_.get(); }

  py::dict journal_state() const {
    py::dict d;
    journal::Writer* writer = gateway_->journal_writer();
    if (writer == nullptr) return d;
    d["last_position"] = writer->last_position();
    d["durable_position"] = writer->durable_position();
    d["last_error"] = writer->last_error();
    d["recovered_records"] = recovered_.record_count;
    d["damage"] = recovered_.damage;
    d["in_doubt"] = in_doubt_;
    return d;
  }

  void halt(std::uint8_t reason) {
    const py::gil_scoped_release release;
    gateway_->halt(static_cast<Reason>(reason));
  }
  void resume() {
    const py::gil_scoped_release release;
    gateway_->resume();
  }
  void stamp_orders(const py::array_t<std::uint64_t, py::array::c_style>& rows) {
    if (rows.ndim() != 2 || rows.shape(1) != sizeof(OrderStamps) / 8 || !rows.writeable()) {
      throw py::value_error("stamps are a writable uint64 array of eight columns");
    }
    stamps_ = rows;
    gateway_->stamp_orders(
        {static_cast<OrderStamps*>(const_cast<void*>(static_cast<const void*>(rows.data()))),
         static_cast<std::size_t>(rows.shape(0))});
  }
  void start() {
    const py::gil_scoped_release release;
    gateway_->start();
  }
  void announce_closing() {
    const py::gil_scoped_release release;
    gateway_->announce_closing();
  }
  void stop() {
    const py::gil_scoped_release release;
    gateway_->stop();
  }
  [[nodiscard]] std::string handler_error() const {
    return python_handler_ == nullptr ? std::string() : python_handler_->last_error();
  }

 private:
  template <class Question>
  static py::bytes asked(Question question) {
    std::vector<OrderFate> found;
    {
      const py::gil_scoped_release release;
      found = question();
    }
    return {reinterpret_cast<const char*>(found.data()), found.size() * sizeof(OrderFate)};
  }
  static AttachRequest attach_request(std::uint32_t session_index, const py::dict& report_window,
                                      std::uint64_t next_order_sequence) {
    AttachRequest request;
    request.session_index = session_index;
    request.next_order_sequence = next_order_sequence;
    take(report_window, "offset_bytes", request.report_geometry.offset_bytes);
    take(report_window, "slot_bytes", request.report_geometry.slot_bytes);
    take(report_window, "slot_count", request.report_geometry.slot_count);
    return request;
  }
  [[noreturn]] static void refuse_geometry() {
    throw Error(ErrorKind::kRefused, "the report ring's geometry is out of range", 0, "BadWindow");
  }
  static py::dict attach_answer(const AttachResult& result) {
    py::dict window;
    window["bytes"] = result.order_window_bytes;
    window["offset_bytes"] = result.order_geometry.offset_bytes;
    window["slot_bytes"] = result.order_geometry.slot_bytes;
    window["slot_count"] = result.order_geometry.slot_count;
    py::dict d;
    d["epoch"] = result.epoch;
    d["window"] = window;
    d["next_order_sequence"] = result.next_order_sequence;
    d["next_report_sequence"] = result.next_report_sequence;
    d["not_applied_count"] = result.not_applied_count;
    return d;
  }

  std::unique_ptr<Handler> make_handler(const py::dict& settings, const py::object& handler) {
    if (!py::isinstance<py::str>(handler)) {
      auto python = std::make_unique<PythonHandler>(handler);
      python_handler_ = python.get();
      return python;
    }
    const auto name = handler.cast<std::string>();
    VenueConfig venue;
    take(settings, "venue_max_orders", venue.max_order_count);
    if (name == "accept") return make_accept_handler();
    if (name == "venue") return make_venue_handler(venue);
    if (name == "null") return make_null_handler();
    throw Error(ErrorKind::kConfig, "no built-in handler \"" + name +
                                        "\"; there are accept, venue and null, or give "
                                        "package.module:Class");
  }

  std::uint32_t cancel_reserve_;
  PythonHandler* python_handler_ = nullptr;  ///< owned by the gateway
  monitor::Counter links_failed_;
  journal::ScanResult recovered_;
  std::uint64_t in_doubt_ = 0;
  py::object stamps_;  ///< kept while the receiver writes into it
  pid_t process_ = ::getpid();
  std::unique_ptr<Gateway> gateway_;
};

}  // namespace

void bind_gateway(py::module_& m) {
  add_order_type(m);
  py::class_<GatewayCore>(m, "GatewayCore",
                          "The gateway's native half; rdmaorder.Gateway is the public one.")
      .def(py::init<const py::dict&, const py::object&>(), py::arg("settings"), py::arg("handler"))
      .def("open_session", &GatewayCore::open_session, py::arg("name"), py::arg("slot_bytes"),
           py::arg("order_slot_count"), py::arg("report_slot_count"), py::arg("schema_id"),
           py::arg("schema_version"))
      .def("attach_shm", &GatewayCore::attach_shm, py::arg("session_index"), py::arg("report_fd"),
           py::arg("report_window"), py::arg("next_order_sequence"),
           py::arg("next_report_sequence"))
      .def("attach_rdma", &GatewayCore::attach_rdma, py::arg("session_index"), py::arg("endpoint"),
           py::arg("window"), py::arg("next_order_sequence"), py::arg("next_report_sequence"),
           py::arg("local_address"), py::arg("options"))
      .def("activate", &GatewayCore::activate, py::arg("session_index"), py::arg("epoch"),
           py::arg("data_in_order"))
      .def("detach", &GatewayCore::detach, py::arg("session_index"), py::arg("epoch"),
           py::arg("drain"))
      .def("fates", &GatewayCore::fates, py::arg("session_index"), py::arg("from_sequence"),
           py::arg("count"))
      .def("open_orders", &GatewayCore::open_orders, py::arg("session_index"),
           py::arg("from_sequence"))
      .def("cancel_orders", &GatewayCore::cancel_orders, py::arg("session_index"), py::arg("scope"),
           py::arg("instrument"), py::arg("side"), py::arg("account"), py::arg("reason"))
      .def("cancel_gone", &GatewayCore::cancel_gone, py::arg("session_index"),
           py::arg("gone_for_ns"), py::arg("reason"))
      .def("kill", &GatewayCore::kill, py::arg("session_indices"), py::arg("since_ns"))
      .def("release", &GatewayCore::release, py::arg("session_indices"))
      .def("sessions", &GatewayCore::sessions)
      .def("counters", &GatewayCore::counters)
      .def("links_failed", &GatewayCore::links_failed)
      .def("journal_state", &GatewayCore::journal_state)
      .def("halt", &GatewayCore::halt, py::arg("reason"))
      .def("resume", &GatewayCore::resume)
      .def("stamp_orders", &GatewayCore::stamp_orders, py::arg("rows"))
      .def("start", &GatewayCore::start)
      .def("announce_closing", &GatewayCore::announce_closing)
      .def("stop", &GatewayCore::stop)
      .def("handler_error", &GatewayCore::handler_error);
}

}  // namespace rdmaorder::bindings
