// rdmaorder.Order: what the on_order of a handler written in Python is given.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <thread>

#include "rdmaorder/handler.hpp"

namespace rdmaorder::bindings {

/// Where the orders of one handler are answered: open while the receiver's thread is in a call of
/// the handler. Read and written with the GIL held.
struct AnswerDesk {
  ReportSink* sink = nullptr;  ///< null: closed
  std::thread::id thread;      ///< of the call
};

/// The Python object. A copy: it may be kept, and answered in a later call.
struct OrderObject {
  PyObject_HEAD wire::OrderRecord record;
  std::shared_ptr<AnswerDesk>* desk;
  bool answered;  ///< a report was sent

  // What its attributes read, whatever the kind of request; 0 (price: kNoPrice) what it has not.
  std::uint64_t cl_ord_id, orig_cl_ord_id, stale_after_ns;
  std::int64_t price, quantity;
  std::uint32_t instrument, account, smp_id;
  std::uint8_t side, ord_type, time_in_force, scope, flags;
};

/// Makes the type `Order` and adds it to the module.
void add_order_type(pybind11::module_& m);

/// A new one, not yet of an order. Throws error_already_set.
pybind11::object make_order_object(const std::shared_ptr<AnswerDesk>& desk);
/// Makes it that of `record`, unanswered.
void set_order(OrderObject& order, const wire::OrderRecord& record) noexcept;

}  // namespace rdmaorder::bindings
