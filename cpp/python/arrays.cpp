#include "python/arrays.hpp"

#include <algorithm>
#include <array>
#include <cassert>

namespace fastgru {
namespace {

// The bytes [first, second) that an array's elements lie in.
std::pair<const char*, const char*> extent(const py::array& a) {
  const char* low = static_cast<const char*>(a.data());
  const char* high = low + a.itemsize();
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.shape(i) == 0) return {low, low};
    (a.strides(i) < 0 ? low : high) += (a.shape(i) - 1) * a.strides(i);
  }
  return {low, high};
}

}  // namespace

std::string shape_text(const py::array& a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + (a.ndim() == 1 ? ",)" : ")");
}

void wrong_shape(const char* name, const std::string& expected, const py::array& got) {
  throw ShapeError(std::string(name) + ": expected " + expected + ", got " + shape_text(got));
}

std::string tuple_text(std::initializer_list<std::size_t> sizes) {
  std::string text = "(";
  for (const std::size_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

bool has_shape(const py::array& a, std::initializer_list<std::size_t> sizes) {
  if (static_cast<std::size_t>(a.ndim()) != sizes.size()) return false;
  py::ssize_t i = 0;
  for (const std::size_t size : sizes)
    if (static_cast<std::size_t>(a.shape(i++)) != size) return false;
  return true;
}

void check_view(const py::array& a, const char* name) {
  if (is_array_of(a.ptr())) return;
  check_type<float>(a, name);
  if (a.size() == 0) return;  // NumPy may give such an array any strides
  const bool aligned = (a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  const py::ssize_t last = a.ndim() - 1;
  if (!aligned || (last >= 0 && a.shape(last) > 1 && a.strides(last) != sizeof(float)))
    throw py::value_error(std::string(name) +
                          ": expected aligned float32 with a contiguous last axis");
}

namespace {

constexpr std::size_t kMostAxes = 64;  // NumPy's own limit

// By NumPy itself, which refuses sizes that overflow (pybind11's constructor computes strides
// first, unchecked).
py::array_t<float> new_array(const Py_intptr_t* shape, std::size_t axes) {
  const auto& numpy = py::detail::npy_api::get();
  PyObject* array =
      numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, Py_NewRef(dtype_of<float>()),
                                  static_cast<int>(axes), shape, nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::array_t<float>>(array);
}

}  // namespace

py::array_t<float> new_array(std::initializer_list<std::size_t> sizes) {
  std::array<Py_intptr_t, 5> shape{};
  assert(sizes.size() <= shape.size());
  std::copy(sizes.begin(), sizes.end(), shape.begin());
  return new_array(shape.data(), sizes.size());
}

py::array_t<float> new_array_like(const py::array& a, py::ssize_t axes, std::size_t last) {
  std::array<Py_intptr_t, kMostAxes + 1> shape{};
  std::copy_n(a.shape(), axes, shape.begin());
  shape[static_cast<std::size_t>(axes)] = static_cast<Py_intptr_t>(last);
  return new_array(shape.data(), static_cast<std::size_t>(axes) + 1);
}

bool overlap(const py::array& x, const py::array& y) {
  const auto a = extent(x), b = extent(y);
  return a.first < b.second && b.first < a.second;
}

py::array_t<float> Sequences::make(std::size_t width) const {
  if (!batched) return new_array({T, width});
  return batch_first ? new_array({B, T, width}) : new_array({T, B, width});
}

bool Sequences::fits(const py::array& a, std::size_t width) const {
  if (!batched) return has_shape(a, {T, width});
  return batch_first ? has_shape(a, {B, T, width}) : has_shape(a, {T, B, width});
}

Sequences sequences_of(const py::array& x, const char* name, std::size_t input, bool batch_first) {
  check_view(x, name);
  const auto size = [&](py::ssize_t axis) { return static_cast<std::size_t>(x.shape(axis)); };
  if (x.ndim() == 2 && size(1) == input) return {size(0), 1, false, batch_first};
  if (x.ndim() == 3 && size(2) == input)
    return batch_first ? Sequences{size(1), size(0), true, true}
                       : Sequences{size(0), size(1), true, false};
  const std::string i = std::to_string(input);
  wrong_shape(name, (batch_first ? "(B, T, " : "(T, B, ") + i + ") or (T, " + i + ")", x);
}

const float* initial_state(const std::optional<py::array>& h_0, const Sequences& s,
                           std::size_t layers, std::size_t hidden) {
  if (!h_0) return nullptr;
  if (s.batched && !has_shape(*h_0, {layers, s.B, hidden}))
    wrong_shape("h_0", tuple_text({layers, s.B, hidden}), *h_0);
  if (!s.batched && !has_shape(*h_0, {layers, hidden}))
    wrong_shape("h_0", tuple_text({layers, hidden}), *h_0);
  return contiguous(*h_0, "h_0");
}

std::vector<std::int64_t> checked_lengths(const std::optional<py::array>& lengths,
                                          const Sequences& s, std::int64_t at_least) {
  if (!lengths) return {};
  if (!s.batched) throw ShapeError("lengths: expected a batch of sequences, got unbatched x");
  if (!has_shape(*lengths, {s.B})) wrong_shape("lengths", tuple_text({s.B}), *lengths);
  const auto* data = contiguous<std::int64_t>(*lengths, "lengths");
  const std::vector<std::int64_t> copy(data, data + s.B);
  for (std::size_t b = 0; b < s.B; ++b)
    if (copy[b] < at_least || static_cast<std::uint64_t>(copy[b]) > s.T)
      throw py::value_error("lengths[" + std::to_string(b) + "]: expected " +
                            std::to_string(at_least) + " <= length <= " + std::to_string(s.T) +
                            ", got " + std::to_string(copy[b]));
  return copy;
}

}  // namespace fastgru
