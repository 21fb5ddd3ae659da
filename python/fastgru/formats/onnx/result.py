"""What an ONNX graph gives -> a GRU or a Model.

A GRU where the outputs are those of one stack of GRU nodes and nothing else; otherwise the one
output's chain as a Model. Refuses what would come out in another arrangement than a Model has:
shapes are never changed silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastgru.errors import UnsupportedLayerError
from fastgru.formats.onnx.plans import (
    GruPlan,
    LayerPlan,
    Plan,
    Settings,
    StatePlan,
    gru_of,
    model_of,
    stacks,
)
from fastgru.formats.onnx.sizes import Atom
from fastgru.formats.onnx.values import (
    Axes,
    Data,
    Group,
    States,
    Step,
    Value,
    axes_text,
)
from fastgru.gru import GRU
from fastgru.model import Model
from fastgru.over_time import SequenceLayer
from fastgru.text import Message

Outputs = Sequence[tuple[str, Value | None]]


def result_of(outputs: Outputs, settings: Settings) -> GRU | Model:
    """The network that gives `outputs`; UnsupportedLayerError where there is none."""
    steps = _stack(outputs)
    if steps is not None:
        plans = [step.plan for step in steps]
        top = next(value for _, value in outputs if isinstance(value, Data | States))
        data = top.parts[-1] if isinstance(top, States) else top
        _check_lengths(plans)
        _check_h_0(plans)
        return gru_of(plans, _batch_first(data), settings)
    if len(outputs) != 1:
        names = ", ".join(repr(name) for name, _ in outputs[:12])
        raise UnsupportedLayerError(
            f"the graph has {len(outputs)} outputs ({names}), which are not output and h_n of one "
            "stack of GRUs; a Model has one output: export a module that gives one"
        )
    ((name, value),) = outputs
    if not isinstance(value, Data):
        raise UnsupportedLayerError(f"output {name!r} is not one that layers of fastgru give")
    plans = [step.plan for step in value.steps()]
    if not any(isinstance(plan, GruPlan) for plan in plans):
        raise UnsupportedLayerError("no GRU node between the graph's input and its output")
    _check_model(plans)
    batch_first = _batch_first(value)
    _check_arrangement(name, value, batch_first)
    return model_of(plans, batch_first, settings)


def _stack(outputs: Outputs) -> list[Step] | None:
    """The GRU nodes whose outputs these are; None if they are not just that."""
    found: list[Step] = []
    for _, value in outputs:
        steps = _all_of(value)
        if steps is None:
            return None
        found = max(found, steps, key=len)
    whole = all(_all_of(value) == found for _, value in outputs)
    return found if found and whole and stacks([step.plan for step in found]) else None


def _all_of(value: Value | None) -> list[Step] | None:
    """The GRU nodes of which `value` is the output, or all last states."""
    if isinstance(value, States):
        parts = [[s for s in part.steps() if isinstance(s.plan, GruPlan)] for part in value.parts]
        top = parts[-1]
        others = any(isinstance(s.plan, LayerPlan) for part in value.parts for s in part.steps())
        if others or parts != [top[: count + 1] for count in range(len(top))]:
            return None
        return top if _is_h_n(value.axes, (value.layers,), value.parts[0]) else None
    if not isinstance(value, Data) or value.last is None or value.frame is None:
        return None
    steps = value.steps()
    is_state = isinstance(steps[-1].plan, StatePlan)
    grus = steps[:-1] if is_state else steps
    if not grus or not all(isinstance(step.plan, GruPlan) for step in grus):
        return None
    if is_state and len(grus) > 1:  # of the last layer only
        return None
    fits = _is_h_n(value.axes, (), value) if is_state else _is_output(value)
    return grus if fits else None


def _untouched(value: Data) -> Axes:
    """The axes of a Y_h as a node of layout 0 gives it, before anything has moved them."""
    assert value.frame is not None
    batch: Group = () if value.frame.batch is None else (value.frame.batch,)
    return (value.features[:-1], batch, value.features[-1:])


def _is_h_n(axes: Axes, layers: Group, of: Data) -> bool:
    """(L*D, B, H), or with ONNX's layout 1 (B, D, H); (L*D, H) for one unbatched sequence."""
    assert of.frame is not None
    way, batch, units = _untouched(of)
    node = next(step.plan for step in of.steps()[::-1] if isinstance(step.plan, GruPlan))
    usual = (layers + way, batch, units)
    allowed = [usual] + ([(batch, way, units)] if node.layout and not layers else [])
    return axes in allowed or (not batch and axes == (layers + way, units))


def _is_output(value: Data) -> bool:
    """(T, B, D*H) or (B, T, D*H), as torch, or with the axis of directions of a node."""
    assert value.frame is not None
    time: Group = (value.frame.time,)
    way, batch, units = _untouched(value)
    rows = (batch, time) if _batch_first(value) else (time, batch)
    node = value.steps()[-1].plan
    raw = (batch, time, way, units) if node.layout else (time, way, batch, units)
    is_raw = value.axes == raw and node.layout == int(_batch_first(value))
    unbatched = not batch and value.axes == (time, way + units)
    return is_raw or unbatched or value.axes == (*rows, way + units)


def _batch_first(value: Data) -> bool:
    """Whether the graph's input is (B, T, ...); UnsupportedLayerError for another arrangement."""
    source, frame = value.source, value.frame
    assert frame is not None
    rows = source.axes if source.is_integer else source.axes[:-1]
    if frame.batch is None:
        allowed: list[Axes] = [((frame.time,),)]
    else:
        allowed = [((frame.time,), (frame.batch,)), ((frame.batch,), (frame.time,))]
    if rows not in allowed:
        text = axes_text(source.axes)
        raise UnsupportedLayerError(
            f"input {source.name!r} has axes {text}, of which {frame.time} is time; fastgru takes "
            "(T, B, I), (B, T, I) or (T, I), and for an Embedding or a OneHot the same without I"
        )
    return frame.batch is not None and rows[0] == (frame.batch,)


def _check_arrangement(name: str, value: Data, batch_first: bool) -> None:
    frame = value.frame
    assert frame is not None
    time: Group = (frame.time,)
    batch: Axes = () if frame.batch is None else ((frame.batch,),)
    reduced = not any(frame.time in group for group in value.axes)
    if reduced:
        expected: Axes = (*batch, value.features)
    else:
        expected = (*batch, time, value.features) if batch_first else (time, *batch, value.features)
    if value.axes != expected:
        given, wanted = axes_text(value.axes), axes_text(expected)
        if given == wanted:  # sizes do not tell which axes these are
            letters = {frame.time: "T", frame.batch: "B"}
            given, wanted = (_letters_text(axes, letters) for axes in (value.axes, expected))
        raise UnsupportedLayerError(f"output {name!r} is {given}, where a Model gives {wanted}")


def _letters_text(axes: Axes, letters: Mapping[Atom | None, str]) -> str:
    """As axes_text, with names for sizes: `(D, B*H)`."""
    names = ["*".join(letters.get(atom, atom.name) for atom in group) or "1" for group in axes]
    return f"({', '.join(names)})"


def _check_lengths(plans: Sequence[Plan]) -> None:
    lengths = {plan.lengths for plan in plans if isinstance(plan, GruPlan)}
    if len(lengths) > 1:
        raise UnsupportedLayerError(
            "sequence_lens: not the same for all GRU nodes; a call's lengths= are for all of them"
        )


def _check_h_0(plans: Sequence[GruPlan]) -> None:
    """None for zeros; otherwise each layer has its rows of one input."""
    if all(plan.h_0 is None for plan in plans):
        return
    directions = plans[0].directions
    first = plans[0].h_0
    expected = first and [
        (first[0], layer * directions, (layer + 1) * directions) for layer in range(len(plans))
    ]
    given = [plan.h_0 for plan in plans]
    whole = len(plans) == 1 and first is not None and first[1:] in ((0, -1), (0, directions))
    if whole:
        return
    if given != expected:
        texts = [
            f"{plan.node}: initial_h "
            + ("is zeros" if at is None else f"{at[0].name!r} rows {at[1]} to {at[2]}")
            for plan, at in zip(plans, given, strict=True)
        ]
        raise UnsupportedLayerError(
            "the layers' initial states are not the rows of one input h_0 (L*D, B, H) in order: "
            + "; ".join(texts[:12])
        )


def _check_model(plans: Sequence[Plan]) -> None:
    """A Model starts from zeros, and its layers over time know lengths where ONNX has zeros."""
    _check_lengths(plans)
    problems = [
        f"{plan.node}: initial_h is the input {plan.h_0[0].name!r}; a Model starts from zeros: "
        "export it without that input"
        for plan in plans
        if isinstance(plan, GruPlan) and plan.h_0 is not None
    ]
    if any(isinstance(plan, GruPlan) and plan.lengths is not None for plan in plans):
        problems += [
            f"{plan.kind.__name__} after a GRU with sequence_lens: the graph counts padding, "
            "fastgru does not; take the last states (Y_h) or export it without lengths"
            for plan in plans
            if isinstance(plan, LayerPlan) and issubclass(plan.kind, SequenceLayer)
        ]
    if problems:
        raise UnsupportedLayerError(Message(*problems))
