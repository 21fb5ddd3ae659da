"""`from_torch`: a whole torch.nn.Module as a Model.

A copy is searched for layers (search.py), and the result must give the module's own numbers
(check.py), as far as rounding lets it (closeness.py). Refuses anything but a chain of layers, with
every reason at once.
"""

from __future__ import annotations

from typing import Any

from fastgru.errors import UnsupportedLayerError
from fastgru.model import Model
from fastgru.options import check_isa, check_options, positive
from fastgru.torch_chain.check import LIMIT, eval_copy, measured


def from_torch(
    module: Any,
    *,
    precision: str = "float32",
    num_threads: int | None = None,
    isa: str | None = None,
) -> Model:
    """A Model of a torch.nn.Module whose forward is a chain of supported layers.

    Found with torch.fx, as in eval mode (dropout is left out), whatever mode the module is in: a
    copy is traced, the module stays as it is. Supported, as modules, functions and methods: an
    embedding or one_hot of the input; GRU, one or several, from no h_0 or one of torch.zeros;
    Linear, LayerNorm, ReLU, Tanh, Sigmoid, Softmax and LogSoftmax over the features; the last step
    (`[:, -1]`), `h_n[-1]` and both directions' last states joined; mean and max over time, also as
    adaptive pooling; flip over time; transposes between layouts, and reshapes that only merge and
    split time and batch. Where forward requires lengths as a second input for pack_padded_sequence,
    they are `lengths=` of the Model (whose output has x's T, where pad_packed_sequence cuts it to
    the longest).

    The model's x and result have the axes that the module's have; its batch_first is that of x.
    Model and module are compared in float32 on random input before `precision` is applied; how far
    they are apart tells `fastgru.max_error(module, model)`.

    Raises UnsupportedLayerError with a line for each operation that is none of these, naming it and
    the line of forward it stands in, where the module gives other numbers for the same x, and where
    the numbers differ by more than 1e-4, unless rounding explains it (a chaotic GRU, whose weights
    are huge, amplifies it, and is compared with small weights too); TypeError for what is no
    torch.nn.Module, and for one that is not in CPU memory; ValueError for options.

    >>> import numpy as np, torch, fastgru
    >>> class Classifier(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gru = torch.nn.GRU(4, 8, batch_first=True)
    ...         self.head = torch.nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         output, h_n = self.gru(x)
    ...         return self.head(h_n[-1])
    >>> model = fastgru.from_torch(Classifier())
    >>> model(np.ones((2, 5, 4), np.float32)).shape
    (2, 3)
    """
    check_options(precision=precision)
    check_isa(isa)
    if num_threads is not None:
        positive("num_threads", num_threads)
    # here, since importing fastgru must stay fast
    from fastgru.torch_chain.closeness import why_apart  # noqa: PLC0415
    from fastgru.torch_chain.search import layers_of, what_to_do  # noqa: PLC0415

    def build(module: Any) -> Model:
        return Model(layers_of(module, num_threads, isa))

    model = build(eval_copy(module))
    copied = eval_copy(module)
    error = measured(copied, model)
    if not error <= LIMIT and (why := why_apart(copied, model, error, build)):
        raise UnsupportedLayerError(f"the module: {why}\n  {what_to_do(module)}")
    return model if precision == "float32" else model.to(precision)
