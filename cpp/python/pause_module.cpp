// The Python module fastgru._pause: how long one pause of a spinning thread takes here. A module of
// its own, without OpenMP, because libgomp counts its spins in pauses and reads how many when it is
// loaded, with _core. 14 ns on an Emerald Rapids guest, 0.2 to 0.3 us on Zen 1 and 4 guests, where
// the same count spins 20 times as long.
#include <Python.h>

#include <algorithm>
#include <chrono>

#include "system/pause.hpp"

namespace {

// The shortest of a few runs: whatever else the machine does makes them longer.
PyObject* nanoseconds(PyObject*, PyObject*) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRuns = 5, kPauses = 200;
  double least = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = Clock::now();
    for (int i = 0; i < kPauses; ++i) fastgru::pause();
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    least = std::min(least, took.count() / kPauses);
  }
  return PyFloat_FromDouble(least);
}

PyMethodDef methods[] = {{"nanoseconds", nanoseconds, METH_NOARGS,
                          "What one pause takes; measured anew, in 20 to 300 us."},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_pause",
                      "The cost of a pause (private).",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__pause() { return PyModule_Create(&module); }
