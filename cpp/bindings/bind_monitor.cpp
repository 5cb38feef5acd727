// Histograms for Python. Counters files need no binding: rdmaorder/monitor/counters.py reads them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings.hpp"
#include "rdmaorder/monitor.hpp"

namespace py = pybind11;

namespace rdmaorder::bindings {
namespace {

using monitor::Histogram;
using Values = py::array_t<std::uint64_t, py::array::c_style>;

/// The histogram's own memory as a read-only array that keeps `self` (and through it whatever owns
/// the histogram) alive. The counts never move, so the view stays right as values are recorded.
py::array counts_view(const py::object& self) {
  const auto counts = self.cast<const Histogram&>().counts();
  py::array view(py::dtype::of<std::uint64_t>(), {static_cast<py::ssize_t>(counts.size())},
                 {static_cast<py::ssize_t>(sizeof(std::uint64_t))}, counts.data(), self);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

py::array bucket_uppers() {
  Values uppers(static_cast<py::ssize_t>(Histogram::kBucketCount));
  auto out = uppers.mutable_unchecked<1>();
  for (std::size_t bucket = 0; bucket < Histogram::kBucketCount; ++bucket) {
    out(static_cast<py::ssize_t>(bucket)) = Histogram::bucket_upper(bucket);
  }
  return uppers;
}

py::array values_at(const Histogram& histogram,
                    const py::array_t<double, py::array::c_style | py::array::forcecast>& qs) {
  if (qs.ndim() != 1) throw py::value_error("values_at: quantiles must be one-dimensional");
  Values values(qs.size());
  const auto in = qs.unchecked<1>();
  auto out = values.mutable_unchecked<1>();
  for (py::ssize_t i = 0; i < qs.size(); ++i) out(i) = histogram.value_at(in(i));
  return values;
}

void record_all(Histogram& histogram, const Values& values) {
  const std::uint64_t* data = values.data();
  for (py::ssize_t i = 0; i < values.size(); ++i) histogram.record(data[i]);
}

}  // namespace

void bind_monitor(py::module_& m) {
  py::class_<Histogram>(
      m, "Histogram",
      "Log-linear histogram of nanoseconds (or any unsigned 64-bit values): exact below 256, then "
      "within 1/128. One thread records; readers elsewhere may see a value counted and not yet "
      "in count.")
      .def(py::init<>())
      .def(py::init<const Histogram&>(), py::arg("other"), "A copy that no longer changes with it.")
      .def("record", &Histogram::record, py::arg("value"), "Counts one value.")
      .def("record_all", &record_all, py::arg("values").noconvert(),
           "Counts each value of a contiguous uint64 array; another dtype is a TypeError, because "
           "converting could wrap negative values.")
      .def("value_at", &Histogram::value_at, py::arg("q"),
           "The smallest value that at least ceil(q * count) samples do not exceed, rounded up to "
           "the end of its bucket but never above max; 0 when empty.")
      .def("values_at", &values_at, py::arg("quantiles"),
           "value_at of each quantile, as a uint64 array.")
      .def("merge", &Histogram::merge, py::arg("other"), "Adds everything `other` counted.")
      .def("clear", &Histogram::clear, "Forgets every value.")
      .def_property_readonly("count", &Histogram::count, "Values recorded.")
      .def_property_readonly("min", &Histogram::min, "Smallest value, exact; 0 when empty.")
      .def_property_readonly("max", &Histogram::max, "Largest value, exact; 0 when empty.")
      .def_property_readonly("counts", &counts_view,
                             "Values per bucket: a read-only uint64 view of the histogram's own "
                             "memory, which it keeps "
                             "alive and which goes on counting. Copy it to keep a moment.")
      .def_static("bucket_uppers", &bucket_uppers,
                  "The largest value of each bucket, parallel to counts (uint64).");
}

}  // namespace rdmaorder::bindings
