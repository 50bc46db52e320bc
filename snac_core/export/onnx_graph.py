"""SNAC as two ONNX graphs, an encoder and a decoder, built from the layers.

The graphs take one clip of any length. Every operator is of opset 17 and in onnxruntime-web. The
arithmetic is that of `snac_core.model`, in the same order, so that the codes are equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from snac_core.model.attention import HEAD_DIM, LocalMHA
from snac_core.model.layers import (
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)
from snac_core.model.quantizer import VectorQuantize
from snac_core.store.checkpoint import Checkpoint
from snac_core.store.weights import build

OPSET = 17
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def write_onnx(found: Checkpoint, folder: Path) -> list[Path]:
    """Write ``encoder.onnx`` and ``decoder.onnx``.

    The encoder takes ``audio``, float32 [1 x 1 x samples], padded within to whole frames, and
    gives ``codes_0`` and on, int64 [1 x codes]. The decoder takes these, and for each noise
    block ``noise_0`` and on, float32 [1 x 1 x positions]: standard normal values, or zeros for
    no noise. Block i has ``product of decoder_rates[: i + 1]`` positions for each latent. It
    gives ``audio``. What is needed of the configuration is in the models' metadata.

    Raises
    ------
    ModelError
        If the weights do not fit the configuration.
    OSError
        If a file cannot be written.
    """
    model = build(found.config, found.weights).fold()
    config = found.config
    quantizers = [one for one in model.quantizer.quantizers if isinstance(one, VectorQuantize)]
    about = {
        "version": found.version,
        "token_space": found.token_space,
        "sampling_rate": str(config.sampling_rate),
        "frame_samples": str(config.frame_samples),
        "config": json.dumps(config.to_dict()),
    }

    encoder = Graph()
    audio = encoder.input("audio", TensorProto.FLOAT, [1, 1, "samples"])
    latent = encoder.layer(model.encoder.block, encoder.padded(audio, config.pad_multiple))
    for level, quantizer in enumerate(quantizers):
        latent, codes = encoder.quantized(quantizer, latent)
        encoder.output(codes, f"codes_{level}", TensorProto.INT64, [1, f"codes_{level}_length"])

    decoder = Graph()
    total = ""
    for level, quantizer in enumerate(quantizers):
        codes = decoder.input(f"codes_{level}", TensorProto.INT64, [1, f"codes_{level}_length"])
        entries = decoder.op("Gather", decoder.constant(quantizer.codebook.weight), codes)
        part = decoder.expanded(quantizer, decoder.op("Transpose", entries, perm=[0, 2, 1]))
        total = decoder.op("Add", total, part) if total else part
    result = decoder.layer(model.decoder.model, total)
    decoder.output(result, "audio", TensorProto.FLOAT, [1, 1, "samples"])

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / ENCODER, folder / DECODER]
    for graph, path in zip((encoder, decoder), files, strict=True):
        onnx.save(graph.model(path.stem, about), path)
    return files


def operators(path: Path) -> list[str]:
    """Return the names of the operators in an ONNX file, sorted."""
    return sorted({node.op_type for node in onnx.load(path).graph.node})


class Graph:
    """An ONNX graph under construction; values are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def model(self, name: str, about: dict[str, str]) -> Any:
        """Return the finished model, checked."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, initializer=self._constants
        )
        # What the runtimes of that opset read.
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        helper.set_model_props(model, about)
        onnx.checker.check_model(model)
        return model

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Add an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add an operator with several outputs."""
        names = [f"{kind}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, values: Any) -> str:
        """Add a constant: a tensor, an array, or whole numbers."""
        array: npt.NDArray[Any] = (
            values.detach().numpy() if hasattr(values, "detach") else np.asarray(values)
        )
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def padded(self, audio: str, multiple: int) -> str:
        """Add zeros at the end up to a multiple of samples."""
        whole = self.constant(np.array([multiple]))
        length = self.op("Gather", self.op("Shape", audio), self.constant(np.array([2])), axis=0)
        over = self.op("Mod", length, whole)
        missing = self.op("Mod", self.op("Sub", whole, over), whole)
        none = self.constant(np.zeros(5, np.int64))
        return self.op("Pad", audio, self.op("Concat", none, missing, axis=0))

    def layer(self, module: nn.Module, x: str) -> str:
        """Add a layer of the encoder or the decoder, float [1 x channels x time]."""
        match module:
            case ResidualUnit():
                return self.op("Add", x, self.layer(module.block, x))
            case EncoderBlock() | DecoderBlock():
                return self.layer(module.block, x)
            case nn.Sequential():
                for one in module:
                    x = self.layer(one, x)
                return x
            case nn.Conv1d() | nn.ConvTranspose1d():
                return self.convolution(module, x)
            case Snake1d():
                return self.snake(module, x)
            case NoiseBlock():
                noise = f"noise_{module.index}"
                self.input(noise, TensorProto.FLOAT, [1, 1, f"{noise}_length"])
                return self.op("Add", x, self.op("Mul", noise, self.layer(module.linear, x)))
            case LocalMHA():
                return self.attention(module, x)
            case nn.Tanh():
                return self.op("Tanh", x)
        raise TypeError(f"no ONNX operators are known for {type(module).__name__}")

    def convolution(self, module: nn.Conv1d | nn.ConvTranspose1d, x: str) -> str:
        """Add a convolution, or a transposed one."""
        attributes: dict[str, Any] = {
            "kernel_shape": list(module.kernel_size),
            "strides": list(module.stride),
            "dilations": list(module.dilation),
            "pads": [int(module.padding[0])] * 2,
            "group": module.groups,
        }
        inputs = [x, self.constant(module.weight)]
        if module.bias is not None:
            inputs.append(self.constant(module.bias))
        if isinstance(module, nn.ConvTranspose1d):
            attributes["output_padding"] = list(module.output_padding)
            return self.op("ConvTranspose", *inputs, **attributes)
        return self.op("Conv", *inputs, **attributes)

    def snake(self, module: Snake1d, x: str) -> str:
        """Add ``x + sin(alpha x)^2 / alpha``."""
        sine = self.op("Sin", self.op("Mul", self.constant(module.alpha), x))
        inverse = self.constant((module.alpha + 1e-9).reciprocal())
        return self.op("Add", x, self.op("Mul", inverse, self.op("Mul", sine, sine)))

    def attention(self, module: LocalMHA, x: str) -> str:
        """Add attention within windows."""
        window, heads = module.window_size, module.heads
        scale, bias = self.constant(module.norm.weight), self.constant(module.norm.bias)
        rows = self.op(
            "LayerNormalization",
            *(self.op("Transpose", x, perm=[0, 2, 1]), scale, bias),
            axis=-1,
            epsilon=module.norm.eps,
        )
        qkv = self.op("MatMul", rows, self.constant(module.to_qkv.weight.t()))
        shape = self.constant(np.array([-1, window, heads, HEAD_DIM]))
        query, key, value = (
            self.op("Transpose", self.op("Reshape", part, shape), perm=[0, 2, 1, 3])
            for part in self.ops("Split", [qkv], 3, axis=-1)
        )
        angles = np.outer(np.arange(window), module.rel_pos.inv_freq.numpy()).astype(np.float32)
        angles = np.concatenate((angles, angles), axis=-1)
        query, key = self.rotated(query, angles), self.rotated(key, angles)
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.constant(np.float32(HEAD_DIM**-0.5)))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        flat = self.constant(np.array([1, -1, heads * HEAD_DIM]))
        out = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), flat)
        out = self.op("MatMul", out, self.constant(module.to_out.weight.t()))
        return self.op("Add", x, self.op("Transpose", out, perm=[0, 2, 1]))

    def rotated(self, x: str, angles: npt.NDArray[np.float32]) -> str:
        """Add rotary positions."""
        low, high = self.ops("Split", [x], 2, axis=-1)
        turned = self.op("Concat", self.op("Neg", high), low, axis=-1)
        cosine, sine = self.constant(np.cos(angles)), self.constant(np.sin(angles))
        return self.op("Add", self.op("Mul", x, cosine), self.op("Mul", turned, sine))

    def quantized(self, module: VectorQuantize, latent: str) -> tuple[str, str]:
        """Add one level; return what it leaves over, and its codes, int64 [1 x codes]."""
        pooled = latent
        if module.stride > 1:
            size = [module.stride]
            pooled = self.op("AveragePool", latent, kernel_shape=size, strides=size)
        projected = self.layer(module.in_proj, pooled)
        points = self.op("Transpose", projected, perm=[0, 2, 1])
        length = self.op("ReduceL2", points, axes=[-1], keepdims=1)
        points = self.op("Div", points, self.op("Max", length, self.constant(np.float32(1e-12))))
        book = nn.functional.normalize(module.codebook.weight)
        twice = self.op("Mul", points, self.constant(np.float32(2)))
        distance = self.op("Neg", self.op("MatMul", twice, self.constant(book.t())))
        own = self.op("ReduceSumSquare", points, axes=[-1], keepdims=1)
        distance = self.op("Add", distance, own)
        distance = self.op("Add", distance, self.constant(book.pow(2).sum(1)))
        codes = self.op("ArgMin", distance, axis=-1, keepdims=0)
        entries = self.op("Gather", self.constant(module.codebook.weight), codes)
        entries = self.op("Transpose", entries, perm=[0, 2, 1])
        # As in training: not quite the entries, by rounding.
        through = self.op("Add", projected, self.op("Sub", entries, projected))
        return self.op("Sub", latent, self.expanded(module, through)), codes

    def expanded(self, module: VectorQuantize, entries: str) -> str:
        """Add the projection back to the latent, each position as often as its level covers."""
        latent = self.layer(module.out_proj, entries)
        if module.stride == 1:
            return latent
        stacked = self.op("Unsqueeze", latent, self.constant(np.array([3])))
        repeated = self.op("Tile", stacked, self.constant(np.array([1, 1, 1, module.stride])))
        shape = self.constant(np.array([1, module.out_proj.out_channels, -1]))
        return self.op("Reshape", repeated, shape)
