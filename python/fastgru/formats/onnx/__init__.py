"""ONNX graphs: bytes to named values, to layers, to a GRU or a Model; nothing in them is run."""
