// The wire layout as C++ sees it, for tests and for tools that build or check slots from Python.
// Nothing here is on the order path.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/types.hpp"
#include "rdmaorder/wire/crc32c.hpp"
#include "rdmaorder/wire/messages.hpp"
#include "rdmaorder/wire/slot.hpp"
#include "rdmaorder/wire/status_line.hpp"

namespace py = pybind11;

namespace rdmaorder::bindings {
namespace {

// --- struct layouts ---------------------------------------------------------------------------

/// (offset, size, name, code); code is numpy's, "u8" or "i8", with "*n" for an array of n.
using FieldRow = std::tuple<std::size_t, std::size_t, std::string, std::string>;

template <typename T>
std::string code_of() {
  if constexpr (std::is_array_v<T>) {
    return code_of<std::remove_extent_t<T>>() + "*" + std::to_string(std::extent_v<T>);
  } else if constexpr (std::is_enum_v<T>) {
    return code_of<std::underlying_type_t<T>>();
  } else if constexpr (std::is_integral_v<T>) {
    return (std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
  } else {
    return "V" + std::to_string(sizeof(T));
  }
}

template <typename T>
FieldRow row(std::size_t offset_bytes, const char* name) {
  return {offset_bytes, sizeof(T), name, code_of<T>()};
}

// A field left out of a table shows as a hole in the block, which the layout test refuses.
#define FIELD(S, name) row<decltype(S::name)>(offsetof(S, name), #name)

std::map<std::string, std::vector<FieldRow>> layout_tables() {
  using namespace wire;
  std::map<std::string, std::vector<FieldRow>> tables;
  tables["MessageHeader"] = {FIELD(MessageHeader, block_length), FIELD(MessageHeader, template_id),
                             FIELD(MessageHeader, schema_id), FIELD(MessageHeader, version)};
  tables["NewOrder"] = {
      FIELD(NewOrder, cl_ord_id),      FIELD(NewOrder, price),      FIELD(NewOrder, quantity),
      FIELD(NewOrder, stale_after_ns), FIELD(NewOrder, instrument), FIELD(NewOrder, account),
      FIELD(NewOrder, smp_id),         FIELD(NewOrder, side),       FIELD(NewOrder, ord_type),
      FIELD(NewOrder, time_in_force),  FIELD(NewOrder, flags)};
  tables["ReplaceOrder"] = {
      FIELD(ReplaceOrder, cl_ord_id),      FIELD(ReplaceOrder, orig_cl_ord_id),
      FIELD(ReplaceOrder, price),          FIELD(ReplaceOrder, quantity),
      FIELD(ReplaceOrder, stale_after_ns), FIELD(ReplaceOrder, instrument),
      FIELD(ReplaceOrder, side),           FIELD(ReplaceOrder, ord_type),
      FIELD(ReplaceOrder, time_in_force),  FIELD(ReplaceOrder, flags)};
  tables["CancelOrder"] = {FIELD(CancelOrder, cl_ord_id),  FIELD(CancelOrder, orig_cl_ord_id),
                           FIELD(CancelOrder, quantity),   FIELD(CancelOrder, stale_after_ns),
                           FIELD(CancelOrder, instrument), FIELD(CancelOrder, account),
                           FIELD(CancelOrder, reserved),   FIELD(CancelOrder, side),
                           FIELD(CancelOrder, reserved2),  FIELD(CancelOrder, flags)};
  tables["MassCancel"] = {
      FIELD(MassCancel, cl_ord_id), FIELD(MassCancel, reserved),  FIELD(MassCancel, instrument),
      FIELD(MassCancel, account),   FIELD(MassCancel, reserved2), FIELD(MassCancel, side),
      FIELD(MassCancel, scope),     FIELD(MassCancel, reserved3), FIELD(MassCancel, flags)};
  tables["ExecutionReport"] = {
      FIELD(ExecutionReport, cl_ord_id),       FIELD(ExecutionReport, order_id),
      FIELD(ExecutionReport, price),           FIELD(ExecutionReport, quantity),
      FIELD(ExecutionReport, leaves_quantity), FIELD(ExecutionReport, order_sequence_low),
      FIELD(ExecutionReport, exec_type),       FIELD(ExecutionReport, ord_status),
      FIELD(ExecutionReport, reason),          FIELD(ExecutionReport, flags)};
  tables["SessionEvent"] = {FIELD(SessionEvent, from_sequence), FIELD(SessionEvent, count),
                            FIELD(SessionEvent, time_ns),       FIELD(SessionEvent, reserved),
                            FIELD(SessionEvent, reserved2),     FIELD(SessionEvent, kind),
                            FIELD(SessionEvent, reason),        FIELD(SessionEvent, reserved3)};
  tables["StatusLine"] = {FIELD(StatusLine, consumed),  FIELD(StatusLine, applied),
                          FIELD(StatusLine, durable),   FIELD(StatusLine, next_sequence),
                          FIELD(StatusLine, heartbeat), FIELD(StatusLine, time_ns),
                          FIELD(StatusLine, state),     FIELD(StatusLine, reason),
                          FIELD(StatusLine, reserved),  FIELD(StatusLine, commit_word)};
  tables["OrderRecord"] = {FIELD(OrderRecord, block_length), FIELD(OrderRecord, template_id),
                           FIELD(OrderRecord, session_index), FIELD(OrderRecord, block_words),
                           FIELD(OrderRecord, sequence)};
  tables["ReportRecord"] = {FIELD(ReportRecord, order_sequence), FIELD(ReportRecord, report),
                            FIELD(ReportRecord, sequence)};
  return tables;
}
#undef FIELD

// --- enumerations -----------------------------------------------------------------------------

// The compiler spells a template argument "ns::Side::kBuy" when the value has an enumerator and
// "(ns::Side)7" when it has none, so the tables below are read off the enumerations themselves and
// cannot fall behind them.
template <auto V>
constexpr std::string_view enumerator_name() {
  constexpr std::string_view text = __PRETTY_FUNCTION__;
  constexpr std::size_t start = text.find("V = ") + 4;
  constexpr std::string_view value = text.substr(start, text.find_first_of(";]", start) - start);
  if (value[0] == '(') return {};
  return value.substr(value.rfind(':') + 1);
}
static_assert(enumerator_name<Side::kSell>() == "kSell");
static_assert(enumerator_name<static_cast<Side>(7)>().empty());

using EnumTable = std::map<std::string, std::int64_t>;

template <typename E, int kFirst, std::size_t... kIndex>
EnumTable enum_table_of(std::index_sequence<kIndex...>) {
  EnumTable table;
  const auto add = [&table](std::string_view name, std::int64_t value) {
    if (!name.empty()) table.emplace(name, value);
  };
  (add(enumerator_name<static_cast<E>(kFirst + static_cast<int>(kIndex))>(),
       kFirst + static_cast<int>(kIndex)),
   ...);
  return table;
}

/// Every enumerator of E from kFirst to 255.
template <typename E, int kFirst = 0>
EnumTable enum_table() {
  return enum_table_of<E, kFirst>(std::make_index_sequence<256 - kFirst>{});
}

std::map<std::string, EnumTable> enum_tables() {
  return {{"TemplateId", enum_table<wire::TemplateId>()},
          {"Side", enum_table<Side>()},
          {"OrdType", enum_table<OrdType>()},
          {"TimeInForce", enum_table<TimeInForce>()},
          {"ExecType", enum_table<ExecType>()},
          {"OrdStatus", enum_table<OrdStatus>()},
          {"Reason", enum_table<Reason>()},
          {"MassCancelScope", enum_table<MassCancelScope>()},
          {"PeerState", enum_table<PeerState>()},
          {"SessionEventKind", enum_table<SessionEventKind>()},
          {"Status", enum_table<Status, -64>()}};
}

std::map<std::string, std::int64_t> wire_constants() {
  return {{"SCHEMA_ID", wire::kSchemaId},
          {"SCHEMA_VERSION", wire::kSchemaVersion},
          {"BLOCK_BYTES", wire::kBlockBytes},
          {"SLOT_BYTES", wire::kSlotBytesDefault},
          {"PRICE_EXPONENT", kPriceExponent},
          {"PRICE_SCALE", kPriceScale},
          {"NO_PRICE", kNoPrice},
          {"FLAG_POSS_RESEND", kFlagPossResend},
          {"KNOWN_FLAGS", kKnownFlags}};
}

// --- slots ------------------------------------------------------------------------------------

/// Contiguous bytes of any Python buffer, for the length of a call.
class BytesView {
 public:
  explicit BytesView(const py::handle& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~BytesView() { PyBuffer_Release(&view_); }
  BytesView(const BytesView&) = delete;
  BytesView& operator=(const BytesView&) = delete;

  [[nodiscard]] const void* data() const noexcept { return view_.buf; }
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

struct SlotCopy {
  alignas(kCacheLineBytes) std::array<std::uint64_t, wire::kSlotBytesMax / 8> words;
  std::uint32_t slot_bytes;

  explicit SlotCopy(const py::handle& object) {
    const BytesView bytes(object);
    if (!wire::is_valid_slot_bytes(bytes.size())) {
      throw Error(ErrorKind::kConfig, "a slot of " + std::to_string(bytes.size()) +
                                          " bytes: slots are a multiple of 64 bytes, at most " +
                                          std::to_string(wire::kSlotBytesMax));
    }
    slot_bytes = static_cast<std::uint32_t>(bytes.size());
    std::memcpy(words.data(), bytes.data(), slot_bytes);
  }

  [[nodiscard]] std::uint64_t expected_commit_word(std::uint64_t epoch,
                                                   std::uint64_t sequence) const noexcept {
    const std::uint32_t prefix = wire::slot_crc_prefix(epoch, sequence);
    return wire::make_commit_word(wire::slot_crc(prefix, words.data(), slot_bytes), sequence);
  }
  [[nodiscard]] std::uint64_t& commit_word() noexcept { return words[slot_bytes / 8 - 1]; }
  [[nodiscard]] py::bytes bytes() const {
    return {reinterpret_cast<const char*>(words.data()), slot_bytes};
  }
};

py::bytes seal_slot(const py::object& slot, std::uint64_t epoch, std::uint64_t sequence) {
  SlotCopy copy(slot);
  copy.commit_word() = copy.expected_commit_word(epoch, sequence);
  return copy.bytes();
}

bool verify_slot(const py::object& slot, std::uint64_t epoch, std::uint64_t sequence) {
  SlotCopy copy(slot);
  return copy.commit_word() == copy.expected_commit_word(epoch, sequence);
}

std::uint32_t crc32c(const py::object& data) {
  const BytesView bytes(data);
  return wire::crc32c(bytes.data(), bytes.size());
}

// --- samples ----------------------------------------------------------------------------------

// Every byte of a sample differs from its neighbours where the field's range allows it, so that a
// swapped or shifted field cannot decode to the right values.
template <typename Block>
py::bytes sample(wire::TemplateId id, const Block& block, std::uint64_t epoch,
                 std::uint64_t sequence) {
  struct {
    wire::MessageHeader header;
    Block block;
    std::uint64_t commit_word;
  } slot{wire::header_of(id), block, 0};
  static_assert(sizeof slot == wire::kSlotBytesDefault);
  const py::bytes unsealed(reinterpret_cast<const char*>(&slot), sizeof slot);
  return seal_slot(unsealed, epoch, sequence);
}

/// One sealed message of each template and a sealed status line, as tests/golden holds them.
std::map<std::string, py::bytes> encode_samples(std::uint64_t epoch, std::uint64_t sequence) {
  using wire::TemplateId;
  std::map<std::string, py::bytes> samples;
  samples["NewOrder"] =
      sample(TemplateId::kNewOrder,
             wire::NewOrder{0x0102030405060708, 101'250'000'000, 2500, 1'700'000'000'123'456'789,
                            0x11121314, 0x21222324, 0x31323334, Side::kSell, OrdType::kLimit,
                            TimeInForce::kImmediateOrCancel, kFlagPossResend},
             epoch, sequence);
  samples["ReplaceOrder"] =
      sample(TemplateId::kReplaceOrder,
             wire::ReplaceOrder{0x0102030405060708, 0x1112131415161718, -5, 0x2122232425262728,
                                1'700'000'000'123'456'789, 0x31323334, Side::kBuy, OrdType::kLimit,
                                TimeInForce::kGoodTillCancel, 0},
             epoch, sequence);
  samples["CancelOrder"] = sample(TemplateId::kCancelOrder,
                                  wire::CancelOrder{0x0102030405060708,
                                                    0x1112131415161718,
                                                    0x2122232425262728,
                                                    1'700'000'000'123'456'789,
                                                    0x31323334,
                                                    0x41424344,
                                                    0,
                                                    Side::kSell,
                                                    {},
                                                    kFlagPossResend},
                                  epoch, sequence);
  samples["MassCancel"] = sample(TemplateId::kMassCancel,
                                 wire::MassCancel{0x0102030405060708,
                                                  {},
                                                  0x31323334,
                                                  0x41424344,
                                                  0,
                                                  Side::kSell,
                                                  MassCancelScope::kSide,
                                                  0,
                                                  kFlagPossResend},
                                 epoch, sequence);
  samples["ExecutionReport"] = sample(
      TemplateId::kExecutionReport,
      wire::ExecutionReport{0x0102030405060708, 0x1112131415161718, kNoPrice, 0x2122232425262728,
                            0x3132333435363738, 0x41424344, ExecType::kTrade,
                            OrdStatus::kPartiallyFilled, Reason::kKill, kFlagPossResend},
      epoch, sequence);
  samples["SessionEvent"] = sample(TemplateId::kSessionEvent,
                                   wire::SessionEvent{0x0102030405060708,
                                                      0x1112131415161718,
                                                      1'700'000'000'123'456'789,
                                                      {},
                                                      0,
                                                      SessionEventKind::kNotApplied,
                                                      Reason::kStale,
                                                      {}},
                                   epoch, sequence);
  wire::StatusLine line{};
  line.consumed = 0x0102030405060708;
  line.applied = 0x0102030405060707;
  line.durable = 0x0102030405060706;
  line.next_sequence = 0x1112131415161718;
  line.heartbeat = 0x2122232425262728;
  line.time_ns = 1'700'000'000'123'456'789;
  line.state = PeerState::kHalted;
  line.reason = Reason::kJournalUnavailable;
  wire::seal_status_line(line, epoch, sequence);
  samples["StatusLine"] = py::bytes(reinterpret_cast<const char*>(&line), sizeof line);
  return samples;
}

}  // namespace

void bind_wire(py::module_& m) {
  m.def("layout_tables", &layout_tables,
        "Struct name -> [(offset, size, field, code)] of the C++ structs.");
  m.def("enum_tables", &enum_tables, "Enumeration name -> {enumerator: value} as in C++.");
  m.def("wire_constants", &wire_constants, "Constants of the wire format as in C++.");
  m.def("encode_samples", &encode_samples, py::arg("epoch"), py::arg("sequence"),
        "Message name -> sealed 64-byte sample encoded by C++.");
  m.def("crc32c", &crc32c, py::arg("data"), "CRC-32C of any contiguous buffer.");
  m.def(
      "has_crc32_instruction", [] { return wire::detail::kHasCrc32Instruction; },
      "Whether this processor computes CRC-32C itself.");
  m.def("seal_slot", &seal_slot, py::arg("slot"), py::arg("epoch"), py::arg("sequence"),
        "The slot with its commit word written; also seals a status line (sequence = version).");
  m.def("verify_slot", &verify_slot, py::arg("slot"), py::arg("epoch"), py::arg("sequence"),
        "Whether the slot's commit word is that of this epoch, sequence and contents.");
  m.def(
      "status_name", [](int value) { return status_name(static_cast<Status>(value)); },
      py::arg("value"));
  m.def(
      "reason_name", [](std::uint8_t value) { return reason_name(static_cast<Reason>(value)); },
      py::arg("value"));
  m.def(
      "exec_type_name",
      [](std::uint8_t value) { return exec_type_name(static_cast<ExecType>(value)); },
      py::arg("value"));
}

}  // namespace rdmaorder::bindings
