// The venue's memory: every ClOrdID a session ever used, and the orders that are live.
//
//   cells   open addressing, linear probing, a power of two >= 2 x max_order_count, 16 bytes each.
//           Key (session_index, cl_ord_id). Cells are never removed (an id is used up for good), so
//           there are no tombstones and a cell's place never changes. A cell refers to a live order
//           or says how the order that bore the id ended under it.
//   orders  max_order_count x 64 bytes. A done order's place is taken again by the next one, last
//           freed first, so that the working set is the live orders and not all that ever were.
//   lists   kMaxSessionCount x 8 bytes: live orders of a session, oldest first, linked by index.
//
// 2^20 ids cost 32 MiB of cells, 64 MiB of orders and 0.5 MiB of lists. All of it is taken and
// touched at construction (huge pages where the kernel gives them); nothing is allocated after, and
// no page fault waits for the first order that lands on a page. The hash is seeded per table: a
// strategy that picks its ids in malice cannot make long probe sequences for the others.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/types.hpp"

namespace rdmaorder::gateway {

/// What a cell refers to: a live order's index, or one of these.
using OrderIndex = std::uint32_t;
inline constexpr OrderIndex kNeverSeen = 0;  ///< of a cell: empty. In a list: the end
inline constexpr OrderIndex kDoneCanceled = 1;
inline constexpr OrderIndex kDoneReplaced = 2;  ///< the order lives or ended under a later id
inline constexpr OrderIndex kDoneExpired = 3;
inline constexpr OrderIndex kFirstLive = 4;

struct alignas(kCacheLineBytes) LiveOrder {
  std::uint64_t cl_ord_id;         ///< the one it bears now
  std::uint64_t order_id;          ///< the venue's
  std::uint64_t opening_sequence;  ///< of the NewOrder
  std::int64_t price;
  std::int64_t open_quantity;
  std::uint32_t instrument;
  std::uint32_t account;
  std::uint32_t cell;   ///< of cl_ord_id
  OrderIndex next;      ///< in the session's list or in the free list
  OrderIndex previous;  ///< in the session's list
  Side side;
};
static_assert(sizeof(LiveOrder) == kCacheLineBytes);

class OrderTable {
 public:
  /// session_index is below this. It bounds the lists, not the work: idle sessions cost nothing.
  static constexpr std::uint32_t kMaxSessionCount = 1U << 16;
  static constexpr std::uint32_t kMaxOrderCountLimit = 1U << 28;

  /// Throws Error(kConfig) when max_order_count is 0 or above kMaxOrderCountLimit, Error(kSystem)
  /// when there is not that much memory.
  explicit OrderTable(std::uint32_t max_order_count);

  /// The cell of an id: its own when the id was seen, else the empty one that would be its.
  [[nodiscard]] std::uint32_t locate(std::uint32_t session_index,
                                     std::uint64_t cl_ord_id) const noexcept;
  /// What the id in that cell refers to.
  [[nodiscard]] OrderIndex state(std::uint32_t cell) const noexcept { return cells_[cell].order; }
  [[nodiscard]] LiveOrder& order(OrderIndex index) noexcept { return orders_[index]; }
  void prefetch(std::uint32_t session_index, std::uint64_t cl_ord_id) const noexcept {
    __builtin_prefetch(&cells_[home_of(session_index, cl_ord_id)]);
  }

  /// Whether the session may use up one more id.
  [[nodiscard]] bool has_room(std::uint32_t session_index) const noexcept {
    return used_id_count_ < max_order_count_ && session_index < kMaxSessionCount;
  }
  /// A live order under a new id, last in its session's list. Needs has_room() and the empty cell
  /// that locate() gave. The caller fills price, quantity, instrument, account, side and the ids
  /// of the venue.
  OrderIndex open(std::uint32_t cell, std::uint32_t session_index,
                  std::uint64_t cl_ord_id) noexcept;
  /// Gives a live order a new id; same needs as open(). The old id is kDoneReplaced.
  void rename(OrderIndex index, std::uint32_t cell, std::uint32_t session_index,
              std::uint64_t cl_ord_id) noexcept;
  /// Ends a live order; its id refers to `done` from now on. The index is free for the next open().
  void close(OrderIndex index, std::uint32_t session_index, OrderIndex done) noexcept;

  /// Oldest live order of the session (order().next leads on), kNeverSeen when it has none.
  [[nodiscard]] OrderIndex first_live(std::uint32_t session_index) const noexcept {
    return session_index < kMaxSessionCount ? lists_[session_index].first : kNeverSeen;
  }

 private:
  struct Cell {
    std::uint64_t cl_ord_id;
    std::uint32_t session_index;
    OrderIndex order;
  };
  static_assert(sizeof(Cell) == 16);
  struct List {
    OrderIndex first;
    OrderIndex last;
  };
  struct Freer {
    void operator()(void* memory) const noexcept;
  };
  template <typename T>
  using Array = std::unique_ptr<T[], Freer>;
  template <typename T>
  static Array<T> make_array(std::size_t count);

  [[nodiscard]] std::uint32_t home_of(std::uint32_t session_index,
                                      std::uint64_t cl_ord_id) const noexcept {
    // Folded 128-bit product: every bit of the key reaches the bits that pick the cell.
    const auto product = static_cast<unsigned __int128>(cl_ord_id ^ seed_) *
                         ((session_index + 1U) * 0x9E37'79B9'7F4A'7C15ULL | 1U);
    return static_cast<std::uint32_t>(
        (static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64)) &
        cell_mask_);
  }
  void occupy(std::uint32_t cell, std::uint32_t session_index, std::uint64_t cl_ord_id,
              OrderIndex index) noexcept;

  std::uint32_t max_order_count_;
  std::uint32_t used_id_count_ = 0;
  std::uint32_t cell_mask_;
  OrderIndex next_fresh_ = kFirstLive;
  OrderIndex first_free_ = kNeverSeen;
  std::uint64_t seed_;
  Array<Cell> cells_;
  Array<LiveOrder> orders_;
  Array<List> lists_;
};

}  // namespace rdmaorder::gateway
