"""Writes the `.pt` files beside it: what people have, from this and from older versions of torch.

    python tests/data/make_torch_files.py

They stay in the repository for ever, and so does this script; test_torch_files.py loads them where
there is no torch and compares them with `weights()`. The files of Python 2 and of torch 0.x are put
together here opcode by opcode, as those versions wrote them. Refuses nothing; it overwrites.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
I, H = 3, 2  # noqa: E741

Array = np.ndarray[Any, np.dtype[Any]]


def weights() -> dict[str, Array]:
    """Of a torch.nn.GRU(I, H): numbers that every dtype holds exactly."""
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih_l0": (3 * H, I),
        "weight_hh_l0": (3 * H, H),
        "bias_ih_l0": (3 * H,),
        "bias_hh_l0": (3 * H,),
    }
    state = {}
    for place, (name, shape) in enumerate(shapes.items()):
        values = np.arange(np.prod(shape), dtype=np.float32) - 5
        state[name] = (values / (8 << place)).reshape(shape)
    return state


def checkpoint(torch: Any) -> dict[str, Any]:
    """As training scripts save it, with what else stands in such files."""
    gru = torch.nn.GRU(I, H)
    gru.load_state_dict({name: torch.from_numpy(value) for name, value in weights().items()})
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"rnn": gru})})
    model["head"] = torch.nn.Linear(H, 2).double()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    gru.load_state_dict({name: torch.from_numpy(value) for name, value in weights().items()})
    return {
        "epoch": 7,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": (np.float64(0.5), np.arange(3.0), None, True, {"a", "b"}, 1j, b"bytes"),
        "vocabulary": OrderedDict(the=0, time=1),
        "random": torch.get_rng_state()[:16].clone(),
    }


def strided(torch: Any) -> dict[str, Any]:
    """Every dtype, transposed, sliced and shared storages, parameters."""
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    biases = torch.cat([tensors["bias_ih_l0"], tensors["bias_hh_l0"]]).to(torch.bfloat16)
    wide = torch.zeros(3 * H, 2 * H, dtype=torch.float64)
    wide[:, ::2] = tensors["weight_hh_l0"]
    return {
        "weight_ih_l0": torch.nn.Parameter(tensors["weight_ih_l0"].half().T.contiguous().T),
        "weight_hh_l0": wide[:, ::2],
        "bias_ih_l0": biases[: 3 * H],
        "bias_hh_l0": biases[3 * H :],
    }


def python2() -> bytes:
    """The chain of pickles of torch 0.3 under Python 2, saved from a GPU."""
    ops = b"\x80\x02ccollections\nOrderedDict\n]("
    for key, (name, value) in enumerate(weights().items()):
        storage = b"(" + _old("storage") + b"ctorch.cuda\nFloatStorage\n" + _old(str(key))
        storage += _old("cuda:0") + b"K" + bytes([value.size]) + b"NtQ"
        shape = b"(" + b"".join(b"\x8a\x01" + bytes([n]) for n in value.shape) + b"t"
        strides = [n // 4 for n in value.strides]
        stride = b"(" + b"".join(b"\x8a\x01" + bytes([n]) for n in strides) + b"t"
        tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\0" + shape + stride + b"tR"
        ops += b"](" + _old(name) + tensor + b"e"
    ops += b"e\x85R."
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [ops, b"\x80\x02](" + b"".join(_old(str(key)) for key in range(4)) + b"e."]
    for value in weights().values():
        parts.append(struct.pack("<q", value.size) + value.tobytes())
    return b"".join(parts)


def _old(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def main() -> None:
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    for name, value in (("checkpoint", checkpoint(torch)), ("strided", strided(torch))):
        torch.save(value, FOLDER / f"{name}.pt")
        legacy = FOLDER / f"{name}_before_1.6.pt"
        torch.save(value, legacy, _use_new_zipfile_serialization=False)
        torch.save(value, FOLDER / f"{name}_protocol_5.pt", pickle_protocol=5)
    (FOLDER / "python2.pt").write_bytes(python2())


if __name__ == "__main__":
    main()
