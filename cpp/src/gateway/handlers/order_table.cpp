#include "gateway/handlers/order_table.hpp"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>

#include "rdmaorder/error.hpp"

namespace rdmaorder::gateway {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

std::uint32_t checked_count(std::uint32_t max_order_count) {
  if (max_order_count == 0 || max_order_count > OrderTable::kMaxOrderCountLimit) {
    throw Error(ErrorKind::kConfig, "venue: max_order_count is " + std::to_string(max_order_count) +
                                        "; it must be 1 to " +
                                        std::to_string(OrderTable::kMaxOrderCountLimit));
  }
  return max_order_count;
}

std::uint64_t random_seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

}  // namespace

void OrderTable::Freer::operator()(void* memory) const noexcept { std::free(memory); }

template <typename T>
OrderTable::Array<T> OrderTable::make_array(std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
  const std::size_t alignment =
      count * sizeof(T) >= kHugePageBytes ? kHugePageBytes : kCacheLineBytes;
  const std::size_t bytes = (count * sizeof(T) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) {
    throw_errno("venue: allocate", std::to_string(bytes >> 20) + " MiB for the order table", ENOMEM,
                "lower max_order_count");
  }
  // Advice only: where huge pages are off the table works the same on small ones.
  if (alignment == kHugePageBytes) static_cast<void>(::madvise(memory, bytes, MADV_HUGEPAGE));
  std::memset(memory, 0, bytes);
  return Array<T>(static_cast<T*>(memory));
}

OrderTable::OrderTable(std::uint32_t max_order_count)
    : max_order_count_(checked_count(max_order_count)),
      cell_mask_(std::bit_ceil(max_order_count * 2) - 1),
      seed_(random_seed()),
      cells_(make_array<Cell>(std::size_t{cell_mask_} + 1)),
      orders_(make_array<LiveOrder>(std::size_t{max_order_count} + kFirstLive)),
      lists_(make_array<List>(kMaxSessionCount)) {}

std::uint32_t OrderTable::locate(std::uint32_t session_index,
                                 std::uint64_t cl_ord_id) const noexcept {
  // Ends: at most half of the cells are ever taken.
  for (std::uint32_t cell = home_of(session_index, cl_ord_id);; cell = (cell + 1) & cell_mask_) {
    const Cell& c = cells_[cell];
    if (c.order == kNeverSeen) return cell;
    if (c.cl_ord_id == cl_ord_id && c.session_index == session_index) return cell;
  }
}

void OrderTable::occupy(std::uint32_t cell, std::uint32_t session_index, std::uint64_t cl_ord_id,
                        OrderIndex index) noexcept {
  cells_[cell] = {cl_ord_id, session_index, index};
  orders_[index].cl_ord_id = cl_ord_id;
  orders_[index].cell = cell;
  ++used_id_count_;
}

OrderIndex OrderTable::open(std::uint32_t cell, std::uint32_t session_index,
                            std::uint64_t cl_ord_id) noexcept {
  // A fresh index exists when none is free: live orders are never more than ids used.
  OrderIndex index = first_free_;
  if (index != kNeverSeen) {
    first_free_ = orders_[index].next;
  } else {
    index = next_fresh_++;
  }
  occupy(cell, session_index, cl_ord_id, index);

  List& list = lists_[session_index];
  orders_[index].next = kNeverSeen;
  orders_[index].previous = list.last;
  (list.last == kNeverSeen ? list.first : orders_[list.last].next) = index;
  list.last = index;
  return index;
}

void OrderTable::rename(OrderIndex index, std::uint32_t cell, std::uint32_t session_index,
                        std::uint64_t cl_ord_id) noexcept {
  cells_[orders_[index].cell].order = kDoneReplaced;
  occupy(cell, session_index, cl_ord_id, index);
}

void OrderTable::close(OrderIndex index, std::uint32_t session_index, OrderIndex done) noexcept {
  LiveOrder& order = orders_[index];
  List& list = lists_[session_index];
  (order.previous == kNeverSeen ? list.first : orders_[order.previous].next) = order.next;
  (order.next == kNeverSeen ? list.last : orders_[order.next].previous) = order.previous;
  cells_[order.cell].order = done;
  order.next = first_free_;
  first_free_ = index;
}

}  // namespace rdmaorder::gateway
