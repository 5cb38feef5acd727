// A gateway handler written in Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "order_object.hpp"
#include "rdmaorder/handler.hpp"
#include "rdmaorder/monitor.hpp"

namespace rdmaorder::bindings {

/// Calls `object.on_order(order)` with an Order, which has the methods that answer it; or
/// `object.on_orders(batch)` with an array of ORDER_RECORD of one session, and takes an array of
/// HANDLER_REPORT (or None) back. With both methods, a lone order goes to on_order and several to
/// on_orders. `object.on_idle()`, where it exists, is called at most every idle_interval_ns and
/// returns what on_orders does. Runs in the receiver's thread and takes the GIL for each call.
///
/// A handler that raises, or returns something else, is taken to have acted on none of the batch:
/// each of its orders is rejected with kHandlerFailed (on_order: if it was not answered before),
/// the traceback is kept in last_error().
class PythonHandler final : public Handler {
 public:
  explicit PythonHandler(pybind11::object object);
  ~PythonHandler() override;

  /// `object.recover(batch)`, where it exists, returns what on_orders does; an error is kept and
  /// answers nothing.
  void recover(std::span<const wire::OrderRecord> in_doubt, ReportSink& sink) noexcept override;
  void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept override;
  void on_idle(ReportSink& sink) noexcept override;

  [[nodiscard]] std::string last_error() const;
  /// Errors are counted there from now on. Before the receiver starts.
  void count_errors_in(monitor::Counter counter) noexcept { error_counter_ = counter; }

 private:
  static constexpr std::uint64_t kIdleIntervalNs = 1'000'000;

  /// Holds the GIL, with the desk open for answers. Where gil_scoped_acquire makes and drops a
  /// Python thread state each time (which maps and unmaps memory: microseconds), this keeps that of
  /// the first thread that asked, the receiver's, until the handler goes.
  class Turn {
   public:
    Turn(PythonHandler& handler, ReportSink& sink);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    void take_gil(PythonHandler& handler);

    AnswerDesk& desk_;
    PyGILState_STATE other_thread_{};
    bool kept_;
  };

  void on_order(const wire::OrderRecord& order, ReportSink& sink);
  OrderObject& object_for(const wire::OrderRecord& order);
  pybind11::array array_for(std::size_t order_count);
  bool forward(const pybind11::object& result, ReportSink& sink);
  void keep_error(const std::string& text) noexcept;

  PyThreadState* thread_state_ = nullptr;  ///< of thread_, between turns
  std::thread::id thread_;
  pybind11::object on_order_;  ///< this and the next: None where there is no such method
  pybind11::object on_orders_;
  pybind11::object recover_;
  pybind11::object on_idle_;
  pybind11::object order_dtype_;
  pybind11::object report_dtype_;
  pybind11::object single_;  ///< array of one order, null before the first
  pybind11::object order_;   ///< an OrderObject, null before the first
  std::shared_ptr<AnswerDesk> desk_ = std::make_shared<AnswerDesk>();
  std::uint64_t next_idle_ticks_ = 0;
  std::uint64_t idle_interval_ticks_;
  monitor::Counter error_counter_;
  mutable std::mutex mutex_;  ///< guards last_error_
  std::string last_error_;
};

}  // namespace rdmaorder::bindings
