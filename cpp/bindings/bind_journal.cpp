// Reading journals into numpy arrays, and a writer for programs that keep a journal of their own.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "rdmaorder/journal.hpp"
#include "rdmaorder/journal_reader.hpp"

namespace py = pybind11;

namespace rdmaorder::bindings {
namespace {

/// Fixed part of a row of a batch; the payload follows, padded with zeros to the width of the
/// batch. Same bytes as rdmaorder.journal.RECORD.
struct Row {
  std::uint64_t position;
  std::uint64_t time_ns;
  std::uint64_t sequence;
  std::uint32_t session_index;
  std::uint16_t kind;
  std::uint16_t detail;
  std::uint64_t payload_bytes;  // 64 bits: no padding, which numpy.concatenate would remove
};
static_assert(sizeof(Row) == 40);

/// Wide enough for the usual journal: slots of 64 bytes and session names. A batch with a longer
/// payload is wider, in steps of this.
constexpr std::size_t kPayloadWidth = 64;
constexpr std::size_t kBatchPayloadBytesMax = 64U << 20;

py::dtype row_dtype(std::size_t width) {
  py::list names;
  py::list formats;
  py::list offsets;
  const auto add = [&](const char* name, const std::string& format, std::size_t offset) {
    names.append(name);
    formats.append(format);
    offsets.append(offset);
  };
  add("position", "<u8", offsetof(Row, position));
  add("time_ns", "<u8", offsetof(Row, time_ns));
  add("sequence", "<u8", offsetof(Row, sequence));
  add("session_index", "<u4", offsetof(Row, session_index));
  add("kind", "<u2", offsetof(Row, kind));
  add("detail", "<u2", offsetof(Row, detail));
  add("payload_bytes", "<u8", offsetof(Row, payload_bytes));
  add("payload", "V" + std::to_string(width), sizeof(Row));
  return {std::move(names), std::move(formats), std::move(offsets),
          static_cast<py::ssize_t>(sizeof(Row) + width)};
}

py::dict to_dict(const journal::ScanResult& result) {
  py::dict out;
  out["record_count"] = result.record_count;
  out["last_position"] = result.last_position;
  out["clean"] = result.clean;
  out["damage"] = result.damage;
  out["segment_count"] = result.segment_count;
  return out;
}

class BatchReader {
 public:
  explicit BatchReader(std::string directory) : reader_(std::move(directory)) {}

  /// The next records as a structured array, empty at the end.
  py::array next_batch(std::size_t max_records) {
    if (max_records == 0) throw py::value_error("next_batch: max_records must be at least 1");
    if (busy_) throw Error(ErrorKind::kJournal, "this reader is in use by another thread");
    {
      busy_ = true;
      const py::gil_scoped_release release;
      fill(max_records);
    }
    busy_ = false;
    if (rows_.empty() && failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    std::size_t width = kPayloadWidth;
    for (const Row& row : rows_) width = std::max(width, std::size_t{row.payload_bytes});
    width = (width + kPayloadWidth - 1) / kPayloadWidth * kPayloadWidth;
    py::array batch(row_dtype(width), static_cast<py::ssize_t>(rows_.size()));
    auto* to = static_cast<std::byte*>(batch.mutable_data());
    const std::byte* payload = payloads_.data();
    for (const Row& row : rows_) {
      std::memcpy(to, &row, sizeof(Row));
      std::memcpy(to + sizeof(Row), payload, row.payload_bytes);
      std::memset(to + sizeof(Row) + row.payload_bytes, 0, width - row.payload_bytes);
      payload += row.payload_bytes;
      to += sizeof(Row) + width;
    }
    return batch;
  }

  [[nodiscard]] py::dict result() const { return to_dict(reader_.result()); }

 private:
  void fill(std::size_t max_records) {
    rows_.clear();
    payloads_.clear();
    try {
      journal::Record record;
      while (rows_.size() < max_records && payloads_.size() < kBatchPayloadBytesMax && !failure_ &&
             reader_.next(record)) {
        rows_.push_back({record.position, record.time_ns, record.sequence, record.session_index,
                         static_cast<std::uint16_t>(record.kind), record.detail,
                         record.payload.size()});
        payloads_.insert(payloads_.end(), record.payload.begin(), record.payload.end());
      }
    } catch (const std::exception&) {
      failure_ = std::current_exception();  // after what was read before it
    }
  }

  journal::Reader reader_;
  std::vector<Row> rows_;
  std::vector<std::byte> payloads_;
  std::exception_ptr failure_;
  bool busy_ = false;  ///< under the GIL
};

journal::SyncPolicy parse_sync(const std::string& name) {
  if (name == "none") return journal::SyncPolicy::kNone;
  if (name == "interval") return journal::SyncPolicy::kInterval;
  if (name == "batch") return journal::SyncPolicy::kBatch;
  throw Error(ErrorKind::kConfig,
              "journal sync policy '" + name + "' is unknown; it is none, interval or batch");
}

class PyWriter {
 public:
  PyWriter(const std::string& directory, std::uint64_t segment_bytes, const std::string& sync,
           std::uint64_t sync_interval_ns) {
    const journal::Config config{directory, segment_bytes, parse_sync(sync), sync_interval_ns};
    const py::gil_scoped_release release;
    writer_ = journal::Writer::open(config, {}, &recovered_);
  }

  std::uint64_t append(std::uint16_t kind, const py::bytes& payload, std::uint32_t session_index,
                       std::uint64_t sequence, std::uint64_t time_ns, std::uint16_t detail) {
    char* data = nullptr;
    py::ssize_t size = 0;
    if (PyBytes_AsStringAndSize(payload.ptr(), &data, &size) != 0) throw py::error_already_set();
    const auto bytes = static_cast<std::uint32_t>(std::min<py::ssize_t>(size, UINT32_MAX));
    const Status status = open_writer()->append(static_cast<journal::RecordKind>(kind), detail,
                                                session_index, sequence, time_ns, data, bytes);
    if (status == Status::kIo) throw Error(ErrorKind::kJournal, "append: " + writer_->last_error());
    if (!ok(status)) {
      throw py::value_error("append: a payload of " + std::to_string(size) +
                            " bytes; it must have 1 to 8192");
    }
    return writer_->last_position();
  }

  void sync() {
    const std::shared_ptr<journal::Writer> writer = open_writer();  // survives a close() meanwhile
    const Status status = [&] {
      const py::gil_scoped_release release;
      return writer->sync_now();
    }();
    if (!ok(status)) throw Error(ErrorKind::kJournal, writer->last_error());
  }

  void close() {
    std::shared_ptr<journal::Writer> writer = std::move(writer_);
    const py::gil_scoped_release release;
    writer.reset();
  }

  [[nodiscard]] std::uint64_t last_position() { return open_writer()->last_position(); }
  [[nodiscard]] std::uint64_t durable_position() { return open_writer()->durable_position(); }
  [[nodiscard]] std::string last_error() { return open_writer()->last_error(); }
  [[nodiscard]] py::dict recovered() const { return to_dict(recovered_); }

 private:
  const std::shared_ptr<journal::Writer>& open_writer() {
    if (writer_ == nullptr) throw Error(ErrorKind::kJournal, "this journal writer is closed");
    return writer_;
  }

  journal::ScanResult recovered_;
  std::shared_ptr<journal::Writer> writer_;
};

}  // namespace

void bind_journal(py::module_& m) {
  py::class_<BatchReader>(
      m, "JournalReader",
      "Reads a journal in batches. Use rdmaorder.journal. One thread at a time.")
      .def(py::init<std::string>(), py::arg("directory"))
      .def("next_batch", &BatchReader::next_batch, py::arg("max_records"),
           "The next records as a structured array, empty at the end. JournalError when a segment "
           "header cannot be read, after everything before it was returned.")
      .def_property_readonly("result", &BatchReader::result,
                             "Counts so far; clean and damage once an empty batch was returned.");

  py::class_<PyWriter>(m, "JournalWriter",
                       "Appends to a journal: the gateway's own writer. One thread at a time.")
      .def(py::init<const std::string&, std::uint64_t, const std::string&, std::uint64_t>(),
           py::arg("directory"), py::kw_only(), py::arg("segment_bytes") = 64ULL << 20,
           py::arg("sync") = "interval", py::arg("sync_interval_ns") = 10'000'000ULL,
           "Opens or creates, recovers, and locks the directory. sync: none, interval or batch.")
      .def("append", &PyWriter::append, py::arg("kind"), py::arg("payload"), py::kw_only(),
           py::arg("session_index") = 0, py::arg("sequence") = 0, py::arg("time_ns") = 0,
           py::arg("detail") = 0,
           "Appends one record (payload: 1 to 8192 bytes) and returns its position. JournalError "
           "when the disk is full or failed; then nothing was written.")
      .def("sync", &PyWriter::sync, "Brings everything to stable storage, or raises JournalError.")
      .def("close", &PyWriter::close, "Closes and unlocks; a second call does nothing.")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](PyWriter& self, const py::args&) { self.close(); })
      .def_property_readonly("last_position", &PyWriter::last_position)
      .def_property_readonly("durable_position", &PyWriter::durable_position,
                             "Highest position known to be on stable storage.")
      .def_property_readonly("last_error", &PyWriter::last_error,
                             "The last storage failure, empty if none.")
      .def_property_readonly("recovered", &PyWriter::recovered,
                             "What opening found: record_count, last_position, clean, damage, "
                             "segment_count.");
}

}  // namespace rdmaorder::bindings
