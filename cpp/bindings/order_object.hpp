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

/// The fields that lie elsewhere in each kind of request; as here where it has none.
struct OrderFields {
  std::uint64_t orig_cl_ord_id = 0;
  std::uint64_t stale_after_ns = 0;
  std::int64_t price = kNoPrice;
  std::int64_t quantity = 0;
  std::uint32_t instrument = 0;
  std::uint32_t account = 0;
  std::uint32_t smp_id = 0;
  std::uint8_t side = 0;
  std::uint8_t ord_type = 0;
  std::uint8_t time_in_force = 0;
  std::uint8_t scope = 0;
  std::uint8_t flags = 0;
};

/// The Python object. A copy: it may be kept, and answered in a later call.
struct OrderObject {
  PyObject_HEAD wire::OrderRecord record;
  std::shared_ptr<AnswerDesk>* desk;
  bool answered;  ///< a report was sent
  OrderFields fields;
};

/// Makes the type `Order` and adds it to the module.
void add_order_type(pybind11::module_& m);

/// A new one, not yet of an order. Throws error_already_set.
pybind11::object make_order_object(const std::shared_ptr<AnswerDesk>& desk);
/// Makes it that of `record`, unanswered.
void set_order(OrderObject& order, const wire::OrderRecord& record) noexcept;

}  // namespace rdmaorder::bindings
