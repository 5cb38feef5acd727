#include <exception>

#include "bindings.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

py::object from_errors(const char* name) {
  return py::module_::import("rdmaorder.errors").attr(name);
}

void raise(const char* class_name, const std::string& message, const py::dict& keywords = {}) {
  const py::object type = from_errors(class_name);
  const py::object instance = type(message, **keywords);
  PyErr_SetObject(type.ptr(), instance.ptr());
}

const char* class_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kConfig:
      return "ConfigError";
    case ErrorKind::kSystem:
      return "SystemFailure";
    case ErrorKind::kHandshake:
      return "HandshakeError";
    case ErrorKind::kRefused:
      return "Refused";
    case ErrorKind::kTimeout:
      return "ConnectTimeout";
    case ErrorKind::kTransport:
      return "TransportError";
    case ErrorKind::kJournal:
      return "JournalError";
    case ErrorKind::kClosed:
      return "SessionClosed";
    case ErrorKind::kInterrupted:
      break;  // what interrupted is the exception already
  }
  return "RdmaOrderError";
}

}  // namespace

py::object from_messages(const char* name) {
  return py::module_::import("rdmaorder.messages").attr(name);
}

void set_python_error(const Error& error) {
  if (error.kind() == ErrorKind::kInterrupted && PyErr_Occurred() != nullptr) return;
  py::dict keywords;
  if (error.kind() == ErrorKind::kSystem || error.kind() == ErrorKind::kJournal) {
    keywords["error_number"] = error.error_number();
  } else if (error.kind() == ErrorKind::kRefused) {
    keywords["code"] = error.code();
  }
  raise(class_of(error.kind()), error.what(), keywords);
}

void set_python_error(Status status, const std::string& message, std::uint64_t sent) {
  py::dict keywords;
  keywords["sent"] = sent;
  switch (status) {
    case Status::kFull:
    case Status::kThrottled:
    case Status::kTimeout:
      return raise("BackPressure", message, keywords);
    case Status::kNotConnected:
      return raise("NotConnected", message, keywords);
    case Status::kClosed:
      return raise("SessionClosed", message, keywords);
    case Status::kHalted:
      return raise("Halted", message, keywords);
    default:
      return raise("TransportError", message, keywords);
  }
}

void bind_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      set_python_error(error);
    }
  });
}

}  // namespace rdmaorder::bindings
