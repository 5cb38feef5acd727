#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
  namespace b = rdmaorder::bindings;
  m.doc() = "C++ core of rdmaorder. Use the rdmaorder package; this module is its private half.";
  m.attr("__version__") = RDMAORDER_VERSION;
  b::bind_errors(m);
  b::bind_wire(m);
  b::bind_journal(m);
  b::bind_monitor(m);
  b::bind_devices(m);
  b::bind_session(m);
  b::bind_gateway(m);
  b::bind_pingpong(m);
}
