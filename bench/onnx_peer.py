"""The published package's network in ONNX Runtime, as one of the peers of bench/cpu.py."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import snac
import torch
from torch import Tensor, nn

VERSION = onnxruntime.__version__


class _Encoder(nn.Module):
    def __init__(self, model: snac.SNAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode(audio))


class _Decoder(nn.Module):
    def __init__(self, model: snac.SNAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, *codes: Tensor) -> Tensor:
        audio: Tensor = self.model.decode(list(codes))
        return audio


def exported(model: snac.SNAC, kind: str, *given: Tensor) -> Callable[[], Any]:
    """Return a run of ``encode`` or ``decode`` of ``given``, in a session made for its shape.

    Parameters
    ----------
    model
        Whose weights it computes with.
    kind
        ``encode``, of Tensor[1 x 1 x T], or ``decode``, of Tensor[1 x n] of each level.
    given
        What is computed, each time it is called.
    """
    module = (_Encoder if kind == "encode" else _Decoder)(model).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(module, given, dynamo=True, verbose=False)
        assert program is not None
        program.save(str(path))
        session = onnxruntime.InferenceSession(str(path), options)
    names = [entry.name for entry in session.get_inputs()]
    inputs = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
    return lambda: session.run(None, inputs)


@contextlib.contextmanager
def _quiet() -> Any:
    """Leave out what the exporter says of packages that it would know as well."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
