// Scalar arguments of METH_FASTCALL builtins: integers with a range, positional or keyword, parsed
// straight out of the vectorcall array without a tuple, a dict or an allocation.
#pragma once

#include <Python.h>

#include <array>
#include <cstdint>
#include <utility>

#include "rdmaorder/platform.hpp"

namespace rdmaorder::bindings {

/// One scalar argument: every one is an integer within [low, high].
struct Argument {
  const char* name = nullptr;
  std::int64_t low = 0;
  std::int64_t high = 0;
  std::int64_t fallback = 0;
  bool required = false;
};

inline constexpr std::int64_t kU32Max = 0xFFFFFFFFLL;

inline constexpr std::size_t kArgumentMax = 12;

/// A constant of each call: ranges and defaults become part of its code.
struct Signature {
  const char* function;
  std::size_t count;
  std::array<Argument, kArgumentMax> arguments;
};

/// The interned name of each argument, made when the module is.
using Names = std::array<PyObject*, kArgumentMax>;

consteval Argument required(const char* name, std::int64_t low, std::int64_t high) {
  return {name, low, high, 0, true};
}
consteval Argument optional(const char* name, std::int64_t low, std::int64_t high,
                            std::int64_t fallback) {
  return {name, low, high, fallback, false};
}

using Values = std::array<std::int64_t, kArgumentMax>;

// Out of line: everything that raises.
[[gnu::cold, gnu::noinline]] inline bool out_of_range(const Signature& signature,
                                                      const Argument& argument, PyObject* value) {
  PyErr_Format(PyExc_ValueError, "%s: %s must be %lld .. %lld, not %R", signature.function,
               argument.name, static_cast<long long>(argument.low),
               static_cast<long long>(argument.high), value);
  return false;
}

[[gnu::cold, gnu::noinline]] inline bool not_an_integer(const Signature& signature,
                                                        const Argument& argument, PyObject* value) {
  if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
    PyErr_Clear();
    return out_of_range(signature, argument, value);
  }
  if (PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError,
                 "%s: %s must be an integer, not %R (prices: rdmaorder.price(\"1.25\"))",
                 signature.function, argument.name, value);
  }
  return false;
}

/// The value of an ordinary int that is 0 .. 2^60 - 1 (Python 3.12 on: what it calls compact), read
/// in place: PyLong_AsLongLong, which knows every other case, costs six calls an order.
RDMAORDER_ALWAYS_INLINE bool read_small(PyObject* value, std::int64_t* number) {
  if (RDMAORDER_UNLIKELY(!PyLong_CheckExact(value))) return false;
  const auto* integer = reinterpret_cast<const PyLongObject*>(value);
#if PY_VERSION_HEX >= 0x030C0000
  if (RDMAORDER_UNLIKELY(!PyUnstable_Long_IsCompact(integer))) return false;
  *number = PyUnstable_Long_CompactValue(integer);
#else
  const auto digit_count = static_cast<std::size_t>(Py_SIZE(value));  // huge for a negative number
  if (RDMAORDER_UNLIKELY(digit_count > 2)) return false;
  std::int64_t read = digit_count > 0 ? std::int64_t{integer->ob_digit[0]} : 0;
  if (digit_count == 2) read |= std::int64_t{integer->ob_digit[1]} << PyLong_SHIFT;
  *number = read;
#endif
  return true;
}

RDMAORDER_ALWAYS_INLINE bool convert(const Signature& signature, std::size_t index, PyObject* value,
                                     Values& values) {
  const Argument& argument = signature.arguments[index];
  std::int64_t number = 0;
  if (RDMAORDER_UNLIKELY(!read_small(value, &number))) {
    number = PyLong_AsLongLong(value);
    if (number == -1 && PyErr_Occurred()) return not_an_integer(signature, argument, value);
  }
  if (RDMAORDER_UNLIKELY(number < argument.low || number > argument.high)) {
    return out_of_range(signature, argument, value);
  }
  values[index] = number;
  return true;
}

[[gnu::cold, gnu::noinline]] inline bool missing(const Signature& signature,
                                                 const Argument& argument) {
  PyErr_Format(PyExc_TypeError, "%s() needs %s", signature.function, argument.name);
  return false;
}

/// What was not given: its default, or an error where there is none.
RDMAORDER_ALWAYS_INLINE bool fill_in(const Signature& signature, std::size_t index,
                                     Values& values) {
  const Argument& argument = signature.arguments[index];
  if (RDMAORDER_UNLIKELY(argument.required)) return missing(signature, argument);
  values[index] = argument.fallback;
  return true;
}

// Keyword names are interned: a pointer comparison finds them, and callers tend to use the order of
// the signature, so the search starts behind the last hit.
inline std::size_t find_keyword(const Signature& signature, const Names& interned, PyObject* name,
                                std::size_t start) {
  for (std::size_t n = 0; n < signature.count; ++n) {
    const std::size_t i = (start + n) % signature.count;
    if (interned[i] == name) return i;
  }
  for (std::size_t i = 0; i < signature.count; ++i) {  // a name made at run time
    if (PyUnicode_Compare(interned[i], name) == 0) return i;
  }
  return signature.count;
}

/// A call with keywords, or with more arguments than there are.
[[gnu::noinline]] inline bool parse_any(const Signature& signature, const Names& interned,
                                        PyObject* const* args, std::size_t positional,
                                        PyObject* names, Values& values) {
  if (positional > signature.count) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most %zu arguments, got %zd", signature.function,
                 signature.count, positional);
    return false;
  }
  for (std::size_t i = 0; i < positional; ++i) {
    if (!convert(signature, i, args[i], values)) return false;
  }
  std::uint32_t given = (1U << positional) - 1;
  std::size_t next = positional;
  const Py_ssize_t name_count = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  for (Py_ssize_t k = 0; k < name_count; ++k) {
    PyObject* name = PyTuple_GET_ITEM(names, k);
    const std::size_t i = find_keyword(signature, interned, name, next);
    if (i == signature.count) {
      PyErr_Format(PyExc_TypeError, "%s() has no argument %R", signature.function, name);
      return false;
    }
    if ((given >> i) & 1U) {
      PyErr_Format(PyExc_TypeError, "%s() got %R twice", signature.function, name);
      return false;
    }
    given |= 1U << i;
    if (!convert(signature, i, args[positional + static_cast<std::size_t>(k)], values)) {
      return false;
    }
    next = i + 1;
  }
  for (std::size_t i = positional; i < signature.count; ++i) {
    if (((given >> i) & 1U) == 0 && !fill_in(signature, i, values)) return false;
  }
  return true;
}

template <class Call, std::size_t... I>
RDMAORDER_ALWAYS_INLINE bool parse_each(PyObject* const* args, std::size_t positional,
                                        Values& values, std::index_sequence<I...> /*all*/) {
  return ((I < positional ? convert(Call::signature, I, args[I], values)
                          : fill_in(Call::signature, I, values)) &&
          ...);
}

/// `Call`: has a constant `signature` and its `names`. Without keywords the code is unrolled, an
/// argument at a time, with its range in it.
template <class Call>
RDMAORDER_ALWAYS_INLINE bool parse(PyObject* const* args, Py_ssize_t count, PyObject* names,
                                   Values& values) {
  constexpr std::size_t kCount = Call::signature.count;
  const auto positional = static_cast<std::size_t>(count);
  if (RDMAORDER_UNLIKELY(names != nullptr || positional > kCount)) {
    return parse_any(Call::signature, Call::names, args, positional, names, values);
  }
  return parse_each<Call>(args, positional, values, std::make_index_sequence<kCount>{});
}

/// Once for each Call, when the module is made.
template <class Call>
void intern_names() {
  for (std::size_t i = 0; i < Call::signature.count; ++i) {
    Call::names[i] = PyUnicode_InternFromString(Call::signature.arguments[i].name);
  }
}

/// For a PyMethodDef.
inline constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;
template <class F>
PyCFunction as_method(F function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace rdmaorder::bindings
