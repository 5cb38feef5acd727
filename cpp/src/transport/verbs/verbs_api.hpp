// libibverbs as a table of functions, opened at run time. A test puts a table of its own in its
// place and makes each call fail. ibv_post_send, ibv_poll_cq and the ibv_wr_* calls are not here:
// the headers have them inline, through the operations of the context or the queue pair.
//
// Never link libibverbs: of the headers' inline functions only those that call no exported symbol
// may be used (no ibv_query_port, ibv_reg_mr or ibv_query_gid_ex; they are in the table).
#pragma once

#include <infiniband/verbs.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rdmaorder::transport {

struct VerbsApi {
  ibv_device** (*get_device_list)(int* count);
  void (*free_device_list)(ibv_device** list);
  const char* (*get_device_name)(ibv_device* device);
  ibv_context* (*open_device)(ibv_device* device);
  int (*close_device)(ibv_context* context);
  int (*query_device)(ibv_context* context, ibv_device_attr* attributes);
  int (*query_port)(ibv_context* context, std::uint8_t port, ibv_port_attr* attributes);
  int (*query_gid_ex)(ibv_context* context, std::uint32_t port, std::uint32_t index,
                      ibv_gid_entry* entry, std::uint32_t flags, std::size_t entry_bytes);
  ibv_pd* (*alloc_pd)(ibv_context* context);
  int (*dealloc_pd)(ibv_pd* domain);
  ibv_mr* (*reg_mr)(ibv_pd* domain, void* address, std::size_t bytes, int access);
  int (*dereg_mr)(ibv_mr* region);
  ibv_cq* (*create_cq)(ibv_context* context, int entries, void* cookie, ibv_comp_channel* channel,
                       int vector);
  int (*destroy_cq)(ibv_cq* queue);
  ibv_qp* (*create_qp)(ibv_pd* domain, ibv_qp_init_attr* attributes);
  /// Null with errno EOPNOTSUPP where the provider has no extended queue pairs.
  ibv_qp* (*create_qp_ex)(ibv_context* context, ibv_qp_init_attr_ex* attributes);
  ibv_qp_ex* (*qp_to_qp_ex)(ibv_qp* queue_pair);
  int (*destroy_qp)(ibv_qp* queue_pair);
  int (*modify_qp)(ibv_qp* queue_pair, ibv_qp_attr* attributes, int mask);
  int (*get_async_event)(ibv_context* context, ibv_async_event* event);
  void (*ack_async_event)(ibv_async_event* event);
  const char* (*wc_status_str)(ibv_wc_status status);
  const char* (*event_type_str)(ibv_event_type type);
  /// May be null: rdma-core before 41 has none.
  int (*query_qp_data_in_order)(ibv_qp* queue_pair, ibv_wr_opcode opcode, std::uint32_t flags);
  /// Where /sys is, and the time; a test has its own.
  std::string sysfs = "/sys";
  std::chrono::steady_clock::time_point (*now)() = std::chrono::steady_clock::now;
};

/// Opens `library` once more and fills a table. Throws Error(kTransport) that says what to install.
VerbsApi load_verbs_api(const char* library);

/// The table of this process, from libibverbs.so.1; opened at the first call and never closed
/// (providers keep state). Throws as load_verbs_api, at each call anew.
const VerbsApi& verbs_api();

/// Error(kTransport): "<operation> on <object>: <strerror>[; <remedy>]".
[[noreturn]] void throw_verbs(const std::string& operation, const std::string& object,
                              int error_number, const std::string& remedy = {});

}  // namespace rdmaorder::transport
