// What module.cpp calls. Python.h and pybind11 appear in this folder only.
#pragma once

#include <pybind11/pybind11.h>

#include "rdmaorder/error.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder::bindings {

void bind_errors(pybind11::module_& m);
void bind_wire(pybind11::module_& m);
void bind_journal(pybind11::module_& m);
void bind_monitor(pybind11::module_& m);
void bind_devices(pybind11::module_& m);
void bind_session(pybind11::module_& m);
void bind_gateway(pybind11::module_& m);
void bind_pingpong(pybind11::module_& m);

/// Sets the Python exception that rdmaorder/errors.py has for `error`.
void set_python_error(const Error& error);
/// The same for a refusal of the order path. `sent`: messages of the batch that did go.
void set_python_error(Status status, const std::string& message, std::uint64_t sent = 0);

/// What was obtained of an RDMA link, for status displays.
pybind11::dict verbs_facts(const transport::VerbsFacts& facts);

/// A class or constant of rdmaorder.messages or rdmaorder.errors, imported at first use.
pybind11::object from_messages(const char* name);

}  // namespace rdmaorder::bindings
