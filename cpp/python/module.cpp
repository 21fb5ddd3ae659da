// The Python module fastgru._core. The files of this folder are the only ones that include
// pybind11: array views, shape checks, exceptions and the GIL. They convert and call, and compute
// nothing.
#include <pybind11/stl.h>

#include "kernels/dispatch.hpp"
#include "python/bindings.hpp"
#include "system/arena.hpp"

using namespace fastgru;

namespace {

// As an exception of fastgru's own.
void raise(const char* name, const std::exception& e) {
  const py::object type = py::module_::import("fastgru.errors").attr(name);
  PyErr_SetString(type.ptr(), e.what());
}

std::size_t checked_threads(py::ssize_t n) {
  if (n < 1) throw py::value_error("num_threads: expected at least 1, got " + std::to_string(n));
  return static_cast<std::size_t>(n);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled engine of fastgru (private).";
  m.attr("__version__") = FASTGRU_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Raised&) {  // Python's error is set
    } catch (const ShapeError& e) {
      raise("ShapeError", e);
    } catch (const PoolFull& e) {
      raise("PoolFullError", e);
    } catch (const UnknownSession& e) {
      PyErr_SetString(PyExc_KeyError, e.what());
    }
  });

  bind_networks(m);
  bind_gru(m);
  bind_layers(m);
  bind_stream(m);
  bind_pool(m);

  m.def("isa_levels", [] {
    std::vector<std::pair<std::string, bool>> levels;
    for (const IsaLevel& level : isa_levels()) levels.emplace_back(level.name, level.supported);
    return levels;
  });
  m.def("default_isa", [] { return choose_kernels("")->name; });
  m.def(
      "set_num_threads", [](py::ssize_t n) { set_default_num_threads(checked_threads(n)); },
      py::arg("n"));
  m.def("get_num_threads", &default_num_threads);
  m.def("release_memory", &release_memory);
  m.def("set_core_limit", [](py::ssize_t n) { set_core_limit(checked_threads(n)); }, py::arg("n"));
  m.def("openmp_runtime", &openmp_runtime);
}
