// RDMA devices as rdmaorder/devices.py shows them.
#include <pybind11/stl.h>

#include <map>

#include "bindings.hpp"
#include "rdmaorder/rdma_link.hpp"

namespace rdmaorder::bindings {
namespace py = pybind11;
namespace {

py::dict gid_dict(const transport::VerbsGid& gid) {
  py::dict d;
  d["index"] = gid.index;
  d["address"] = gid.text;
  d["type"] = gid.type;
  d["netdev"] = gid.netdev;
  return d;
}

py::dict port_dict(const transport::VerbsPort& port) {
  py::dict d;
  d["number"] = port.number;
  d["active"] = port.active;
  d["link_layer"] = port.link_layer == transport::LinkLayer::kEthernet ? "Ethernet" : "InfiniBand";
  d["lid"] = port.lid;
  d["mtu_bytes"] = port.mtu_bytes;
  d["max_message_bytes"] = port.max_message_bytes;
  py::list gids;
  for (const transport::VerbsGid& gid : port.gids) gids.append(gid_dict(gid));
  d["gids"] = gids;
  return d;
}

py::dict device_dict(const transport::VerbsDevice& device) {
  py::dict d;
  d["name"] = device.name;
  d["firmware"] = device.firmware;
  d["unusable"] = device.unusable;
  d["numa_node"] = device.numa_node;
  d["max_depth"] = device.max_depth;
  d["max_completions"] = device.max_completions;
  d["max_region_bytes"] = device.max_region_bytes;
  py::list ports;
  for (const transport::VerbsPort& port : device.ports) ports.append(port_dict(port));
  d["ports"] = ports;
  return d;
}

py::list rdma_devices() {
  std::vector<transport::VerbsDevice> devices;
  {
    const py::gil_scoped_release release;
    devices = transport::list_verbs_devices();
  }
  py::list list;
  for (const transport::VerbsDevice& device : devices) list.append(device_dict(device));
  return list;
}

py::dict rdma_choice(const std::string& local_address,
                     const std::map<std::string, std::string>& options) {
  transport::VerbsChoice choice;
  {
    const py::gil_scoped_release release;
    choice = transport::choose_verbs_device(verbs_config(options, local_address));
  }
  py::dict d;
  d["device"] = choice.device.name;
  d["port"] = choice.port;
  d["gid"] = gid_dict(choice.gid);
  d["numa_node"] = choice.device.numa_node;
  d["why"] = choice.why;
  return d;
}

}  // namespace

void bind_devices(py::module_& m) {
  m.def("rdma_devices", &rdma_devices);
  m.def("rdma_choice", &rdma_choice, py::arg("local_address"), py::arg("options"));
  m.def("local_address_towards", &transport::local_address_towards, py::arg("host"));
}

}  // namespace rdmaorder::bindings
