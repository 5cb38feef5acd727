// A batch as it comes from Python: an array of an order dtype, or raw slots.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "rdmaorder/wire/messages.hpp"
#include "session_object.hpp"

namespace rdmaorder::bindings {

/// Says so, with what would be one; false.
[[gnu::cold, gnu::noinline]] inline bool no_batch(PyObject* dtype, std::uint32_t slot_bytes,
                                                  const char* function) {
  if (slot_bytes == wire::kSlotBytesDefault) {
    PyErr_Format(PyExc_TypeError,
                 "%s: a batch has the dtype NEW_ORDER, REPLACE_ORDER, CANCEL_ORDER, MASS_CANCEL or "
                 "SLOT of rdmaorder.messages (rdmaorder.new_orders(n) makes one), or V64, not %S",
                 function, dtype);
  } else {
    PyErr_Format(PyExc_TypeError,
                 "%s: a batch of this session has whole slots of %u bytes (numpy.zeros(n, 'V%u'), "
                 "or a structured dtype of that size), not %S",
                 function, static_cast<unsigned>(slot_bytes), static_cast<unsigned>(slot_bytes),
                 dtype);
  }
  return false;
}

/// Looks through the order dtypes, and takes raw bytes of a slot's size; over 64 bytes any
/// structured dtype of that size, for the slots there are the caller's own.
[[gnu::cold, gnu::noinline]] inline bool is_order_dtype(SessionState& state, PyObject* dtype) {
  const std::uint32_t slot_bytes = state.session->slot_bytes();
  bool good = false;
  if (slot_bytes == wire::kSlotBytesDefault) {
    for (const pybind11::handle known : state.batch_dtypes) good = good || known.ptr() == dtype;
    for (const pybind11::handle known : state.batch_dtypes) {
      if (good) break;
      const int equal = PyObject_RichCompareBool(dtype, known.ptr(), Py_EQ);
      if (equal < 0) return false;
      good = equal == 1;
    }
  }
  const auto facts = pybind11::reinterpret_borrow<pybind11::dtype>(dtype);
  if (!good) {
    good = facts.kind() == 'V' && facts.itemsize() == static_cast<pybind11::ssize_t>(slot_bytes) &&
           (slot_bytes != wire::kSlotBytesDefault || !facts.has_fields());
  }
  if (good) state.batch_dtype = facts;  // its next batch passes at a glance
  return good;
}

/// A borrowed buffer of whole slots.
class SlotBuffer {
 public:
  SlotBuffer() = default;
  SlotBuffer(const SlotBuffer&) = delete;
  SlotBuffer& operator=(const SlotBuffer&) = delete;
  ~SlotBuffer() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }
  /// False, with a Python error that names `function`, for anything but an array of whole slots:
  /// of an order dtype, or a buffer without dtype whose items have a slot's size.
  bool open(SessionState& state, PyObject* object, const char* function) {
    const std::uint32_t slot_bytes = state.session->slot_bytes();
    if (pybind11::isinstance<pybind11::array>(object)) {
      PyObject* dtype = pybind11::detail::array_proxy(object)->descr;
      if (RDMAORDER_UNLIKELY(dtype != state.batch_dtype.ptr()) && !is_order_dtype(state, dtype)) {
        return PyErr_Occurred() == nullptr && no_batch(dtype, slot_bytes, function);
      }
    }
    if (!PyObject_CheckBuffer(object)) {
      PyErr_Format(PyExc_TypeError,
                   "%s: a batch is an array of slot records (rdmaorder.new_orders(n) makes one), "
                   "not %R",
                   function, reinterpret_cast<PyObject*>(Py_TYPE(object)));
      return false;
    }
    if (PyObject_GetBuffer(object, &view_, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      PyErr_Format(PyExc_ValueError,
                   "%s: the batch is not contiguous; numpy.ascontiguousarray(batch) copies it",
                   function);
      return false;
    }
    if (view_.itemsize != slot_bytes || view_.len % slot_bytes != 0) {
      PyErr_Format(PyExc_ValueError,
                   "%s: a batch has whole slots of %u bytes, this buffer has items of %zd",
                   function, static_cast<unsigned>(slot_bytes), view_.itemsize);
      return false;
    }
    if (reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(std::uint64_t) != 0) {
      PyErr_Format(PyExc_ValueError,
                   "%s: the batch does not start on a multiple of 8 bytes; batch.copy() does",
                   function);
      return false;
    }
    count_ = static_cast<std::size_t>(view_.len) / slot_bytes;
    return true;
  }
  [[nodiscard]] const std::uint64_t* words() const {
    return static_cast<const std::uint64_t*>(view_.buf);
  }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  Py_buffer view_{};
  std::size_t count_ = 0;
};

}  // namespace rdmaorder::bindings
