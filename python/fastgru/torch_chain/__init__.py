"""A whole torch.nn.Module -> Model: torch.fx finds the chain of layers that its forward is.

Data flows one way: forward -> operations (tracing.py) -> values that know their layers (values.py,
*_operations.py, table.py) -> layers (search.py) -> Model (export.py) -> the module's own numbers,
or an error (check.py). torch is imported when it is used.
"""
