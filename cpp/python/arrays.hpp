// What the bindings share about arrays: checks of what a user passes, the errors they raise, and
// new arrays for results. Refuses to convert anything: that is python/fastgru/arrays.py's.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "run/run.hpp"

namespace fastgru {

namespace py = pybind11;

// fastgru.ShapeError in Python.
struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

std::string shape_text(const py::array& a);
std::string tuple_text(std::initializer_list<std::size_t> sizes);
[[noreturn]] void wrong_shape(const char* name, const std::string& expected, const py::array& got);

bool has_shape(const py::array& a, std::initializer_list<std::size_t> sizes);

// NumPy's own dtype object, borrowed.
template <class T>
PyObject* dtype_of() {
  static PyObject* const dtype = py::dtype::of<T>().release().ptr();
  return dtype;
}

// An exact np.ndarray of NumPy's own dtype object, C-contiguous and aligned: what a Shortcut takes
// as it is.
template <class T = float>
bool is_array_of(PyObject* object) {
  static PyTypeObject* const array = py::detail::npy_api::get().PyArray_Type_;
  constexpr int flags = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (Py_TYPE(object) != array) return false;
  const auto* proxy = py::detail::array_proxy(object);
  return proxy->descr == dtype_of<T>() && (proxy->flags & flags) == flags;
}

// TypeError for another dtype.
template <class T>
void check_type(const py::array& a, const char* name) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw py::type_error(std::string(name) + ": expected " +
                         py::str(py::dtype::of<T>()).cast<std::string>() + ", got " +
                         py::str(a.dtype()).cast<std::string>());
}

// Aligned float32 whose last axis is contiguous: what a SequenceView can describe.
void check_view(const py::array& a, const char* name);

// The data of an aligned C-contiguous array. TypeError for another dtype (byte-swapped is one),
// ValueError for another layout: an element that is not aligned is not a T.
template <class T = float>
const T* contiguous(const py::array& a, const char* name) {
  if (!is_array_of<T>(a.ptr())) {
    check_type<T>(a, name);
    constexpr int flags = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((a.flags() & flags) != flags)
      throw py::value_error(std::string(name) + ": expected an aligned C-contiguous array");
  }
  return static_cast<const T*>(a.data());
}

// Uninitialised, C-contiguous.
py::array_t<float> new_array(std::initializer_list<std::size_t> sizes);

// The same with the first `axes` axes of `a` and one more.
py::array_t<float> new_array_like(const py::array& a, py::ssize_t axes, std::size_t last);

// In floats.
inline std::ptrdiff_t stride(const py::array& a, py::ssize_t axis) {
  return a.strides(axis) / static_cast<std::ptrdiff_t>(sizeof(float));
}

// Whether their elements may share memory.
bool overlap(const py::array& x, const py::array& y);

// The user's `out`, if it fits and can be written to while x is read, or else ValueError; without
// one a new array. fits(array): whether it has the shape of what make() makes.
template <class Fits, class Make>
py::array_t<float> output(const std::optional<py::array>& out, const py::array& x, Fits fits,
                          Make make) {
  if (!out) return make();
  const auto refuse = [](const std::string& why) { throw py::value_error("out: " + why); };
  if (!fits(*out)) refuse("expected " + shape_text(make()) + ", got " + shape_text(*out));
  if (!is_array_of(out->ptr()) && !py::isinstance<py::array_t<float>>(*out))
    refuse("expected float32, got " + py::str(out->dtype()).cast<std::string>());
  if (!(out->flags() & py::array::c_style) ||
      !(out->flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    refuse("expected an aligned C-contiguous array");
  if (!out->writeable()) refuse("expected a writable array, got a read-only one");
  if (overlap(*out, x)) refuse("overlaps the input");
  return py::reinterpret_borrow<py::array_t<float>>(*out);
}

// A batch of sequences in the user's layout: (T, B, width), (B, T, width) or (T, width).
struct Sequences {
  std::size_t T, B;
  bool batched, batch_first;

  template <class T>
  SequenceView<T> view(T* data, const py::array& a) const {
    if (!batched) return {data, stride(a, 0), 0};
    return {data, stride(a, batch_first ? 1 : 0), stride(a, batch_first ? 0 : 1)};
  }
  py::array_t<float> make(std::size_t width) const;
  bool fits(const py::array& a, std::size_t width) const;
};

Sequences sequences_of(const py::array& x, const char* name, std::size_t input, bool batch_first);

// [layers, B, H], or null: zeros.
const float* initial_state(const std::optional<py::array>& h_0, const Sequences& s,
                           std::size_t layers, std::size_t hidden);

// A copy: the user's array may change while the GIL is released.
std::vector<std::int64_t> checked_lengths(const std::optional<py::array>& lengths,
                                          const Sequences& s, std::int64_t at_least = 0);

}  // namespace fastgru
