#include "transport/verbs/verbs_api.hpp"

#include <dlfcn.h>

#include <cerrno>
#include <cstring>

#include "rdmaorder/error.hpp"

namespace rdmaorder::transport {
namespace {

constexpr const char* kLibrary = "libibverbs.so.1";

// ibv_query_port as the header has it, except that the old entry comes from the library by name:
// its structure is a prefix of today's.
int (*old_query_port)(ibv_context*, std::uint8_t, ibv_port_attr*) = nullptr;

int query_port(ibv_context* context, std::uint8_t port, ibv_port_attr* attributes) {
  if (verbs_context* extended = verbs_get_ctx_op(context, query_port); extended != nullptr) {
    return extended->query_port(context, port, attributes, sizeof *attributes);
  }
  std::memset(attributes, 0, sizeof *attributes);
  return old_query_port(context, port, attributes);
}

ibv_qp* create_qp_ex(ibv_context* context, ibv_qp_init_attr_ex* attributes) {
  verbs_context* extended = verbs_get_ctx_op(context, create_qp_ex);
  if (extended == nullptr) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  return extended->create_qp_ex(context, attributes);
}

template <class Function>
void find(void* handle, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(handle, name));
}

template <class Function>
void require(void* handle, const char* name, Function*& function) {
  find(handle, name, function);
  if (function == nullptr) {
    throw Error(ErrorKind::kTransport, std::string(kLibrary) + " has no " + name +
                                           ": rdma-core 33 or newer is needed; upgrade libibverbs1 "
                                           "(Debian, Ubuntu) or libibverbs (Fedora, RHEL)");
  }
}

}  // namespace

VerbsApi load_verbs_api(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* cause = dlerror();
    throw Error(
        ErrorKind::kTransport,
        std::string("rdma:// needs ") + library + ", which cannot be opened (" +
            (cause == nullptr ? "no cause given" : cause) +
            "); install it: apt-get install libibverbs1 ibverbs-providers (Debian, Ubuntu) or "
            "dnf install libibverbs (Fedora, RHEL)");
  }
  VerbsApi api{};
  require(handle, "ibv_get_device_list", api.get_device_list);
  require(handle, "ibv_free_device_list", api.free_device_list);
  require(handle, "ibv_get_device_name", api.get_device_name);
  require(handle, "ibv_open_device", api.open_device);
  require(handle, "ibv_close_device", api.close_device);
  require(handle, "ibv_query_device", api.query_device);
  require(handle, "ibv_query_port", old_query_port);
  api.query_port = query_port;
  require(handle, "_ibv_query_gid_ex", api.query_gid_ex);
  require(handle, "ibv_alloc_pd", api.alloc_pd);
  require(handle, "ibv_dealloc_pd", api.dealloc_pd);
  require(handle, "ibv_reg_mr", api.reg_mr);
  require(handle, "ibv_dereg_mr", api.dereg_mr);
  require(handle, "ibv_create_cq", api.create_cq);
  require(handle, "ibv_destroy_cq", api.destroy_cq);
  require(handle, "ibv_create_qp", api.create_qp);
  api.create_qp_ex = create_qp_ex;
  require(handle, "ibv_qp_to_qp_ex", api.qp_to_qp_ex);
  require(handle, "ibv_destroy_qp", api.destroy_qp);
  require(handle, "ibv_modify_qp", api.modify_qp);
  require(handle, "ibv_get_async_event", api.get_async_event);
  require(handle, "ibv_ack_async_event", api.ack_async_event);
  require(handle, "ibv_wc_status_str", api.wc_status_str);
  require(handle, "ibv_event_type_str", api.event_type_str);
  find(handle, "ibv_query_qp_data_in_order", api.query_qp_data_in_order);
  return api;
}

const VerbsApi& verbs_api() {
  static const VerbsApi api = load_verbs_api(kLibrary);
  return api;
}

void throw_verbs(const std::string& operation, const std::string& object, int error_number,
                 const std::string& remedy) {
  std::string message = operation + " on " + object + ": " +
                        (error_number == 0 ? "failed" : std::strerror(error_number));
  if (!remedy.empty()) message += "; " + remedy;
  throw Error(ErrorKind::kTransport, message, error_number);
}

}  // namespace rdmaorder::transport
