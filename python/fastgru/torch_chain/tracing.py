"""torch.fx over a module's forward, each operation understood as soon as it is recorded.

So forward may ask what is known, such as x.dim(), and every error knows the line of the user's
source. Refuses control flow that depends on data.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch.fx import Node, Proxy, Tracer
from torch.fx.proxy import Attribute

from fastgru.torch_chain.places import cannot_trace, frames_within, names_to_unpack, place
from fastgru.torch_chain.table import (
    IN_PLACE,
    MODULES,
    OPERATIONS,
    functions_by_name,
    module_kind,
    name_of,
    wrapped_functions,
)
from fastgru.torch_chain.values import (
    Constant,
    Facts,
    Lengths,
    Refused,
    States,
    Tensor,
    Zeros,
    other_count,
)

_BAD = object()  # the value of an operation that has been refused, or of one that takes it
# to be held around a ChainTracer: torch.fx puts functions of its own in the place of torch's while
# it traces, and puts back what it has found
ONE_AT_A_TIME = threading.RLock()


class _Long:
    """What a stand-in has beside torch.fx's: its length, where it stands for several values."""

    def __len__(self) -> int:
        known: Any = self
        count = _count(known.tracer.values.get(known.node))
        return super().__len__() if count is None else count  # type: ignore[misc]

    def __iter__(self) -> Iterator[Proxy]:
        """As torch.fx's: `a, b = x.size()` takes as many parts as there are names."""
        known: Any = self
        wanted = names_to_unpack(sys._getframe(1))
        if wanted is None:
            parts: Iterator[Proxy] = known.tracer.iter(self)
            return parts
        known.tracer.check_count(known.node, wanted)
        return (known[index] for index in range(wanted))


class StandIn(_Long, Proxy):
    def __getattr__(self, k: str) -> Attribute:
        return StandInAttribute(self, k)


class StandInAttribute(_Long, Attribute):
    """x.shape, before it is used."""


def _count(value: object) -> int | None:
    if isinstance(value, States) and value.form == "stacked":
        return value.num_layers * value.directions
    return len(value) if isinstance(value, tuple) else None


class ChainTracer(Tracer):
    """`trace(module)` gives every operation a value; `output` is what forward returns."""

    def __init__(self, rank: int) -> None:
        functions_by_name()  # before tracing puts others in their places
        wrapped = wrapped_functions()
        super().__init__(autowrap_functions=wrapped)
        # torch itself, for torch.zeros, and whatever module of helpers has imported one; torch.fx
        # looks at the modules of forwards alone
        loaded: list[Any] = list(sys.modules.values())
        self._autowrap_search += [
            module
            for module in loaded
            if isinstance(module, ModuleType)
            and any(vars(module).get(function.__name__) is function for function in wrapped)
        ]
        self.facts = Facts(rank)
        self.values: dict[Node, object] = {}
        self.problems: list[str] = []
        self.output: object = _BAD
        self._thread = threading.get_ident()
        self._looking = False  # at the module's attributes ourselves, which is no part of forward
        self._changed: list[tuple[str, Node]] = []  # (an operation in place, what it changes)

    def run(self, module: Any) -> None:
        """Traces `module`; `problems` has a line for each thing that a Model cannot do."""
        names = required_inputs(module)
        if not 1 <= len(names) <= 2:
            self.problems.append(
                f"forward requires {len(names)} inputs ({', '.join(names)}): a Model takes x, and "
                "lengths="
            )
            return
        self.facts.has_lengths = len(names) == 2
        try:
            self.trace(module)
        except Exception as error:
            self.problems.append(cannot_trace(error))
            return
        for operation, changed in self._changed:
            if len(changed.users) > 1:
                self.problems.append(f"{operation}: changes in place what is used elsewhere too")
        if self.facts.has_lengths and not self.facts.packed and not self.problems:
            self.problems.append(
                "forward takes a second input that no pack_padded_sequence uses: a Model takes x, "
                "and lengths="
            )

    # ---- what torch.fx asks ----

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """One input, and one of lengths where forward requires it; defaults stay what they are."""
        names = required_inputs(self.root)
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names]
        return root_fn, [self.root, *proxies]

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return module_kind(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: Proxy) -> bool:
        value = self.values.get(obj.node)
        return value if isinstance(value, bool) else super().to_bool(obj)

    def proxy(self, node: Node) -> Proxy:
        return StandIn(node, self)

    def iter(self, obj: Any) -> Iterator[Proxy]:
        count = _count(self.values.get(obj.node))
        return super().iter(obj) if count is None else (obj[index] for index in range(count))

    def check_count(self, node: Node, wanted: int) -> None:
        """Refuses to unpack a value into another number of names than it has parts."""
        value = self.values.get(node)
        if isinstance(value, tuple) and len(value) != wanted:
            self.problems.append(
                f"{self._described(node)}: {other_count(self.facts, value, wanted)}"
            )
            self.values[node] = _BAD

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(*args, **kwargs)
        self._looking = True
        try:
            self.values[node] = self._value(node)
        except Refused as reason:
            self.values[node] = _BAD
            self.problems.append(f"{self._described(node)}: {reason}")
        finally:
            self._looking = False
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if self._is_not_forward():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._is_not_forward():
            return forward(*args, **kwargs)
        paths = self.submodule_paths
        if paths is not None and m not in paths and next(m.parameters(), None) is None:
            # as in torch.nn.Softmax(dim=-1)(x): made in forward itself
            paths[m] = self.get_fresh_qualname("_made_in_forward")
            self.root.add_module(paths[m], m.eval())
        return super().call_module(m, forward, args, kwargs)

    def _is_not_forward(self) -> bool:
        """Other threads may run modules; ourselves at parameters, which may be computed."""
        return self._looking or threading.get_ident() != self._thread

    # ---- what an operation gives ----

    def _value(self, node: Node) -> object:
        if node.op == "placeholder":
            if len(self.values):
                return Lengths(str(node.target))
            axes = tuple(range(self.facts.rank))
            return Tensor(axes, indices=self.facts.rank == 2)
        if node.op == "get_attr":
            thing = self._attribute(str(node.target))
            # what torch.zeros has given where all its sizes were numbers
            made_here = str(node.target).startswith("_tensor_constant")
            return Zeros(tuple(thing.shape)) if made_here and not thing.any() else Constant(thing)
        args, kwargs = (self._resolved(part) for part in (node.args, node.kwargs))
        if node.op == "output":
            self.output = args[0]
            return args[0]
        if _holds_bad(args) or _holds_bad(kwargs):
            return _BAD
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        name = name_of(node.target)
        if (name in IN_PLACE or kwargs.get("inplace")) and node.all_input_nodes:
            self._changed.append((self._described(node), node.all_input_nodes[0]))
        operation = OPERATIONS.get(name.removesuffix("_") if name in IN_PLACE else name or "")
        if operation is None:
            raise Refused("no layer of fastgru does this")
        return _called(operation, self.facts, *args, **kwargs)

    def _module(self, node: Node, args: Any, kwargs: Any) -> object:
        module = self._attribute(str(node.target))
        kind = module_kind(module)
        if kind is None:
            hint = ": fastgru runs GRUs" if isinstance(module, torch.nn.RNNBase) else ""
            raise Refused(f"{type(module).__name__} is no layer of fastgru{hint}")
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise Refused(
                "has forward hooks or a forward of its own, which would be lost (weight_norm and "
                "prune leave such hooks): make them permanent with "
                "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove, or remove them"
            )
        if getattr(module, "inplace", False):
            self._changed.append((self._described(node), node.all_input_nodes[0]))
        return _called(MODULES[kind], self.facts, module, *args, **kwargs)

    def _attribute(self, path: str) -> Any:
        thing: Any = self.root
        for name in path.split("."):
            thing = getattr(thing, name)
        return thing

    def _resolved(self, argument: Any) -> Any:
        """An argument of a node, with values for nodes."""
        if isinstance(argument, Node):
            return self.values[argument]
        if isinstance(argument, dict):
            return {name: self._resolved(part) for name, part in argument.items()}
        if isinstance(argument, (tuple, list)):
            parts = [self._resolved(part) for part in argument]
            return tuple(parts) if isinstance(argument, tuple) else parts
        if isinstance(argument, slice):
            ends = (argument.start, argument.stop, argument.step)
            return slice(*(self._resolved(end) for end in ends))
        return argument

    # ---- what is reported ----

    def _described(self, node: Node) -> str:
        """An operation, while it is recorded: what it is, and where."""
        return f"{_named(node, self)}{_in(node)}{place(frames_within(ChainTracer.run.__code__))}"


def required_inputs(module: Any) -> list[str]:
    """Names of the inputs that a call of `module` must have."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _called(operation: Callable[..., object], *args: Any, **kwargs: Any) -> object:
    """`operation(...)`; Refused for arguments that it does not know."""
    try:
        bound = inspect.signature(operation).bind(*args, **kwargs)
    except TypeError as error:
        raise Refused(f"with these arguments: {error}") from error
    try:
        return operation(*bound.args, **bound.kwargs)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        # What an operation checks it refuses in its own words; these are arguments of other types.
        raise Refused("with arguments that fastgru does not know") from error


def _holds_bad(argument: object) -> bool:
    if isinstance(argument, dict):
        return any(map(_holds_bad, argument.values()))
    if isinstance(argument, slice):
        return any(map(_holds_bad, (argument.start, argument.stop, argument.step)))
    if isinstance(argument, (tuple, list)):
        return any(map(_holds_bad, argument))
    return argument is _BAD


def _named(node: Node, tracer: ChainTracer) -> str:
    target = node.target
    if node.op == "call_module":
        return f"call_module {type(tracer._attribute(str(target))).__name__} in node {node.name!r}"
    if callable(target):
        module = getattr(target, "__module__", None) or "torch"
        module = {"torch._C._nn": "torch.nn.functional", "_operator": "operator"}.get(
            module, module
        )
        target = f"{module}.{getattr(target, '__name__', target)}"
    return f"{node.op} {target} in node {node.name!r}"


def _in(node: Node) -> str:
    """Where in the module: the path of the submodule that the operation is in, or is."""
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return f" of {path}" if path else ""
