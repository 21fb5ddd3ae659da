#include "python/shortcut.hpp"

#include <structmember.h>

#include <cstddef>

#include "plan/plan.hpp"

namespace fastgru {
namespace {

// Made once for a decorated method; lives as long as its class.
struct Shortcut {
  PyObject_HEAD vectorcallfunc call;
  FastPath plain;
  PyObject* function;
  PyObject* dict;  // __wrapped__, __doc__ and the rest, by functools.update_wrapper
  PyObject* weak_references;
};

PyObject* call(PyObject* self, PyObject* const* args, std::size_t count, PyObject* names) {
  const auto* shortcut = reinterpret_cast<Shortcut*>(self);
  PyObject* result = shortcut->plain(args, PyVectorcall_NARGS(count), names);
  if (result) return result;
  PyErr_Clear();
  return PyObject_Vectorcall(shortcut->function, args, count, names);
}

// As a function's: a method of the object it is read from.
PyObject* bind(PyObject* self, PyObject* object, PyObject*) {
  return object ? PyMethod_New(self, object) : Py_NewRef(self);
}

PyObject* describe(PyObject* self) {
  return PyObject_Repr(reinterpret_cast<Shortcut*>(self)->function);
}

// Pickled and copied as functions are: by name.
PyObject* reduce(PyObject* self, PyObject*) {
  return PyObject_GetAttrString(reinterpret_cast<Shortcut*>(self)->function, "__qualname__");
}

void destroy(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  if (reinterpret_cast<Shortcut*>(self)->weak_references) PyObject_ClearWeakRefs(self);
  Py_XDECREF(reinterpret_cast<Shortcut*>(self)->function);
  Py_XDECREF(reinterpret_cast<Shortcut*>(self)->dict);
  type->tp_free(self);
  Py_DECREF(type);
}

py::object make_type() {
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Shortcut, call), READONLY, nullptr},
      {"__dictoffset__", T_PYSSIZET, offsetof(Shortcut, dict), READONLY, nullptr},
      {"__weaklistoffset__", T_PYSSIZET, offsetof(Shortcut, weak_references), READONLY, nullptr},
      {}};
  static PyGetSetDef attributes[] = {
      {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr}, {}};
  static PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, nullptr}, {}};
  static PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                                {Py_tp_descr_get, reinterpret_cast<void*>(bind)},
                                {Py_tp_repr, reinterpret_cast<void*>(describe)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                                {Py_tp_members, members},
                                {Py_tp_methods, methods},
                                {Py_tp_getset, attributes},
                                {}};
  static PyType_Spec spec = {"fastgru._core.Shortcut", sizeof(Shortcut), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL |
                                 Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_DISALLOW_INSTANTIATION |
                                 Py_TPFLAGS_IMMUTABLETYPE,
                             slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(type);
}

}  // namespace

std::size_t threads_of(PyObject* owner, double microseconds, bool is_gru) {
  static PyObject* const gru_name = PyUnicode_InternFromString("_gru");
  static PyObject* const threads_name = PyUnicode_InternFromString("_threads");
  if (microseconds < kParallelFrom) return 1;
  const auto attribute = [](PyObject* object, PyObject* name) {
    auto value = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, name));
    if (!value) throw py::error_already_set();
    return value;
  };
  const py::object gru =
      is_gru ? py::reinterpret_borrow<py::object>(owner) : attribute(owner, gru_name);
  return attribute(gru.ptr(), threads_name).cast<std::size_t>();
}

void bind_shortcut(py::module_& m, const char* name, FastPath plain) {
  if (!py::hasattr(m, "Shortcut")) m.attr("Shortcut") = make_type();
  m.def(
      name,
      [type = py::object(m.attr("Shortcut")), plain](const py::function& function) {
        auto* const python_type = reinterpret_cast<PyTypeObject*>(type.ptr());
        PyObject* object = python_type->tp_alloc(python_type, 0);
        if (!object) throw py::error_already_set();
        auto* const shortcut = reinterpret_cast<Shortcut*>(object);
        shortcut->call = call;
        shortcut->plain = plain;
        shortcut->function = function.inc_ref().ptr();
        const py::object update = py::module_::import("functools").attr("update_wrapper");
        return update(py::reinterpret_steal<py::object>(object), function);
      },
      py::arg("function"));
}

}  // namespace fastgru
