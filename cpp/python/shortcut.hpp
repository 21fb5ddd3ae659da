// Note [Shortcut]
// Python code that looks at a call's arguments, and pybind11's dispatch, cost more than a step of a
// small network. So the methods that are called most are wrapped by a Shortcut, which is the Python
// function to its users (name, signature, documentation, errors, weak references, pickling; not
// inspect.isfunction) but first offers the call to a function in C. That one takes the plain call:
// exact types, nothing to convert, nothing wrong. Every other call goes on to the Python function,
// the only one that converts and complains; so the two need not agree about errors, only about
// which calls are plain.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace fastgru {

namespace py = pybind11;

// The result as a new reference; or null, with or without a Python error, for a call that is not
// plain, and then nothing has changed. args, count, names: as of a vectorcall, `self` first.
using FastPath = PyObject* (*)(PyObject* const* args, std::size_t count, PyObject* names);

// Adds `name`, the decorator for the Python function that `plain` is the short way of.
void bind_shortcut(py::module_& m, const char* name, FastPath plain);

// The threads that a call estimated at this many microseconds may have: num_threads of the
// fastgru.GRU that `owner` is or holds as `_gru`, 0 for the process's default. Read only where it
// matters, since that takes 40 ns. error_already_set where there is none.
std::size_t threads_of(PyObject* owner, double microseconds, bool is_gru);

// The T behind `object`, of exactly T's Python type; else null. pybind11's cast searches two maps.
template <class T>
T* object_of(PyObject* object) {
  static const PyObject* const type = py::type::of<T>().ptr();
  if (!object || reinterpret_cast<PyObject*>(Py_TYPE(object)) != type) return nullptr;
  return reinterpret_cast<py::detail::instance*>(object)->get_value_and_holder().value_ptr<T>();
}

}  // namespace fastgru
