"""`replace_gru`: the GRUs of an eager PyTorch model run on fastgru, everything else stays.

A replaced module remains the object that it is, with its parameters, buffers and hooks; only its
class changes, as torch.nn.utils.parametrize does it too. So checkpoints, references from elsewhere
and attributes that a model's code reads (hidden_size, batch_first) stay what they were, and undoing
is exact. Refuses to train, to cut an autograd graph silently, and to run on anything but a CPU or
in other dtypes than float32. `import fastgru` leaves this module out: it imports torch.
"""

from __future__ import annotations

import copy
import copyreg
import functools
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function_variadic

from fastgru import _core
from fastgru.errors import UnsupportedLayerError
from fastgru.options import check_options, positive
from fastgru.packed_sequence import run_packed
from fastgru.problems import call_problems, raise_all, raise_any, shape_problems
from fastgru.text import report
from fastgru.torch_calls import UNDO, call_overridden, has_gradient, outside_compiler
from fastgru.torch_tensors import (
    as_next_state,
    as_output,
    as_tensor,
    as_unbatched,
    read_state,
    read_tensor,
    result_dtype,
)
from fastgru.torch_weights import PackedWeights, pack_weights, problems_of, see_weights

__all__ = ["replace_gru"]

Module = TypeVar("Module", bound=nn.Module)


def replace_gru(
    module: Module, *, precision: str = "float32", num_threads: int | None = None
) -> Module:
    """Turns every nn.GRU and nn.GRUCell in `module` into a fastgru one, in place; returns `module`.

    They keep their weights, names and hooks and take what they took: tensors (dense, float32, on
    the CPU) or a PackedSequence, batched or not, with or without hx; they give tensors. A second
    call undoes it: if anything in `module` is replaced, all of it becomes what it was, and the
    options do not matter. `precision`: of the weights, as in `GRU.to`; their packed copy is made
    now. `num_threads`: the most that a call may use; None: what both torch.get_num_threads() and
    fastgru.get_num_threads() allow.

    What a result shows beside its numbers is what PyTorch's shows: strides (with batch_first those
    of a transposed (T, B, D*H)), dtype, what it is a view of.

    A replaced GRU raises RuntimeError in training mode, under autograd (grad mode is on, and input,
    hx or a weight requires grad), under torch.vmap and for whatever makes a program of the model
    (torch.export, torch.onnx.export, torch.jit, torch.fx); torch.compile breaks its graph there, as
    it does at every nn.GRU. TypeError for tensors elsewhere or of
    another dtype; in a CPU autocast region bfloat16 and float16 are widened, and results rounded to
    what PyTorch's would have. Changed weights (load_state_dict, an optimizer, `p.data = ...`) are
    packed again by the next call; a change of some elements through `p.data` or NumPy, which
    PyTorch does not count, may go unseen: replace the model after such changes.

    state_dict() has the same keys; deepcopy copies a replaced model; pickle and torch.save write
    the PyTorch model that it was, which loads without fastgru and can be replaced again. A
    subclass's own forward stays and gets fastgru's results from super().forward().

    Raises ValueError if there is no GRU, and UnsupportedLayerError listing every one whose weights
    are not its own float32 parameters in CPU memory (weight_norm, prune and parametrizations
    compute them) or whose instance has a forward: then nothing is replaced.

    >>> import torch, fastgru
    >>> class Tagger(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv1d(8, 16, 3, padding=1)
    ...         self.gru = torch.nn.GRU(16, 32, batch_first=True, bidirectional=True)
    ...     def forward(self, x):
    ...         return self.gru(self.conv(x).transpose(1, 2))[0]
    >>> model = fastgru.torch.replace_gru(Tagger().eval())
    >>> with torch.inference_mode():
    ...     model(torch.ones(2, 8, 50)).shape
    torch.Size([2, 50, 64])
    >>> type(fastgru.torch.replace_gru(model).gru)
    <class 'torch.nn.modules.rnn.GRU'>
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    check_options(precision=precision)
    threads = None if num_threads is None else positive("num_threads", num_threads)
    # What is there twice stands under its first name.
    parts: dict[str, nn.Module] = dict(module.named_modules())
    kinds = (nn.GRU, nn.GRUCell)
    found: dict[str, Any] = {path: part for path, part in parts.items() if isinstance(part, kinds)}
    plain: Any
    replaced: dict[str, Any] = {p: part for p, part in found.items() if isinstance(part, _Replaced)}
    problems = [
        f"{path or part._plain.__name__}: its class has changed since; remove parametrizations and "
        "the like first"
        for path, part in replaced.items()
        if type(part) is not _replaced_class(part._plain)
    ]
    if problems:
        raise UnsupportedLayerError(report("undoing replace_gru", problems))
    for part in replaced.values():
        plain = part._plain
        del part._fastgru
        part.__class__ = plain
    if replaced:
        return module

    if not found:
        raise ValueError(
            f"{type(module).__name__}: found no torch.nn.GRU or GRUCell among its modules "
            "(TorchScript and quantized ones are other classes)"
        )
    problems = [
        f"{path or type(part).__name__}: {problem}"
        for path, part in found.items()
        for problem in problems_of(part)
    ]
    if problems:
        raise UnsupportedLayerError(report("replace_gru", problems))
    # All of them before anything changes: int8 refuses weights that are not finite.
    packed = [pack_weights(part, precision, threads) for part in found.values()]
    for part, weights in zip(found.values(), packed, strict=True):
        plain = type(part)
        part.__class__ = _replaced_class(plain)
        part._fastgru = weights
    return module


_MAKE_FX = torch._C._TorchDispatchModeKey.PROXY
# What every call asks of torch: each look-up of a name in another module takes 20 ns.
_is_compiling = torch.compiler.is_compiling
_tracing_state = torch._C._get_tracing_state
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_grad_enabled = torch.is_grad_enabled


class _Replaced(nn.Module):
    """What the two kinds of replaced modules share."""

    _plain: type[nn.Module]  # the class that it was
    _fastgru: PackedWeights

    def _current(self, x: Any, hx: Any) -> tuple[_core.GRU, int]:
        """The packed weights, and the threads of a call with these tensors."""
        if not isinstance(x, Tensor):
            raise self._no_tensor("input", "a torch.Tensor", x)
        if not (hx is None or isinstance(hx, Tensor)):
            raise self._no_tensor("hx", "a torch.Tensor or None", hx)
        if (
            _is_compiling()
            or _tracing_state() is not None
            or (_dispatch_modes() and torch._C._get_dispatch_mode(_MAKE_FX))
        ):
            raise RuntimeError(f"{self._told()} cannot be exported or traced; {UNDO}")
        if self.training:
            raise RuntimeError(
                f"{self._told()} only runs in eval mode: call the model's .eval(); to train it, "
                "undo it with a second fastgru.torch.replace_gru(model)"
            )
        if _is_grad_enabled() or forward_ad._current_level >= 0:
            self._refuse_gradients(x, hx)
        packed = self._fastgru
        if not packed.is_current(self._parameters):
            problems = list(problems_of(self))
            if problems:
                raise UnsupportedLayerError(report(self._told(), problems))
            packed = pack_weights(self, packed.gru.precision, packed.gru.num_threads)
            self._fastgru = packed
        gru = packed.gru
        threads = gru.num_threads or torch.get_num_threads()
        if threads > 1 and not gru.num_threads:
            threads = min(threads, _core.get_num_threads())
        return gru._core, threads

    def _no_tensor(self, name: str, expected: str, given: object) -> TypeError:
        text = f"{name}: expected {expected}, got {type(given).__name__}"
        if isinstance(given, torch.fx.Proxy):
            text += f"; {self._told()} cannot be traced by torch.fx: {UNDO}"
        return TypeError(text)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script calls first."""
        raise RuntimeError(f"{self._told()} cannot be compiled by torch.jit.script; {UNDO}")

    def _refuse_gradients(self, *inputs: Tensor | None) -> None:
        for what, tensors in (("input", inputs), ("weights", self._parameters.values())):
            if any(tensor is not None and has_gradient(tensor) for tensor in tensors):
                raise RuntimeError(
                    f"{self._told()} has no gradients, and its {what} would need one: call the "
                    "model in torch.inference_mode() or torch.no_grad(), or undo it with a second "
                    "fastgru.torch.replace_gru(model)"
                )

    def _told(self) -> str:
        return f"a {self._plain.__name__} replaced by fastgru"

    def extra_repr(self) -> str:
        gru = self._fastgru.gru
        return f"{super().extra_repr()}, fastgru: {gru.precision}, {gru.isa}"

    def __reduce__(self) -> tuple[Any, ...]:
        """As what it was: files and other processes get a module that needs no fastgru."""
        state = dict(self.__getstate__())  # type: ignore[no-untyped-call]
        del state["_fastgru"]
        # What protocols 0 and 1 use for every object; later ones' would insist on type(self).
        return copyreg._reconstructor, (self._plain, object, None), state  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        make, arguments, state = self.__reduce__()
        other = make(*arguments)
        memo[id(self)] = other
        other.__setstate__(copy.deepcopy(state, memo))
        packed = self._fastgru
        same = packed.is_current(self._parameters)  # else the copy packs its own when it is called
        other._fastgru = replace(packed, seen=see_weights(other) if same else ())
        other.__class__ = type(self)
        return other


class FastGRU(_Replaced, nn.GRU):
    """A torch.nn.GRU that runs on fastgru; made by `replace_gru` alone."""

    _plain = nn.GRU

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:  # noqa: A002
        """As torch.nn.GRU's: output and h_n."""
        run = outside_compiler(FastGRU._run)
        if has_torch_function_variadic(input, hx):
            return call_overridden(run, self, input, hx)
        return run(self, input, hx)

    def _run(self, x: Any, hx: Tensor | None) -> Any:
        if isinstance(x, PackedSequence):
            return self._run_packed(x, hx)
        model, threads = self._current(x, hx)
        array, dtype = read_tensor("input", x, self._told), result_dtype(x, hx)
        # A batch_first batch is run time first, and its output turned back, as PyTorch does it. One
        # step of one row is the same either way, and input of a wrong shape is told as it came.
        shape, batch_first = array.shape, self.batch_first
        batched, turned = len(shape) == 3, False
        if batched and batch_first and not shape[0] == shape[1] == 1:
            turned = shape[2] == self.input_size
            if turned:
                array = array.transpose(1, 0, 2)
        h_0 = read_state(hx, self._told)
        try:
            output, h_n = model.run(array, h_0, None, batch_first and not turned, threads)
        except ValueError as error:
            given = array.transpose(1, 0, 2) if turned else array
            raise_all(self._told(), error, call_problems(self, given, h_0))
        if not len(output):
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")  # torch's own
        if batched:
            return as_output(output, dtype, turned), as_tensor(h_n, dtype)
        return as_unbatched(output, dtype, batch_first), as_unbatched(h_n, dtype, False)

    def _run_packed(self, x: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        model, threads = self._current(x.data, hx)
        data, dtype = read_tensor("input.data", x.data, self._told), result_dtype(x.data, hx)
        packed, h_n = run_packed(
            lambda x, h_0, lengths: model.run(x, h_0, lengths, False, threads),
            x._replace(data=torch.from_numpy(data)),
            read_state(hx, self._told),
            self,
        )
        return packed._replace(data=packed.data.to(dtype)), as_tensor(h_n, dtype)


class FastGRUCell(_Replaced, nn.GRUCell):
    """A torch.nn.GRUCell that runs on fastgru; made by `replace_gru` alone."""

    _plain = nn.GRUCell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """As torch.nn.GRUCell's: the next state."""
        run = outside_compiler(FastGRUCell._run)
        overridden = has_torch_function_variadic(input, hx)
        state: Tensor = (
            call_overridden(run, self, input, hx) if overridden else run(self, input, hx)
        )
        return state

    def _run(self, x: Tensor, hx: Tensor | None) -> Tensor:
        model, threads = self._current(x, hx)
        array, dtype = read_tensor("input", x, self._told), result_dtype(x, hx)
        h = read_state(hx, self._told)
        rows = array.shape[:-1]
        size, hidden = self.input_size, self.hidden_size
        problems = [*shape_problems("input", array.shape, ("B", size), (size,))]
        if h is not None:
            known = [(*rows, hidden)] if len(rows) < 2 else [("B", hidden), (hidden,)]
            problems += shape_problems("hx", h.shape, *known)
            h = h[None]
        raise_any(self._told(), problems)
        _, h_n = model.run(array[None], h, None, False, threads)
        if rows:
            return as_next_state(h_n[0], dtype, hx)
        return as_tensor(h_n, dtype).squeeze(0)  # in torch, too, a view of a batch of one


@functools.cache
def _replaced_class(plain: Any) -> Any:
    """A subclass goes before ours: its forward stays, and its super().forward() is fastgru's."""
    fast = FastGRU if issubclass(plain, nn.GRU) else FastGRUCell
    if plain is fast._plain:
        return fast
    return type(plain)(f"Fast{plain.__name__}", (plain, fast), {"_plain": plain})
