"""`torch.compile` for the repeated parts of the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from snac_core.model import SNAC
from snac_core.model.layers import ResidualUnit


def compile_units(model: SNAC, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile every residual unit of ``model`` by itself, in place; return how many.

    They are most of the arithmetic, and each is small: compiling the whole network at once
    takes several times as long, and gains little over this. The quantizer stays as it is.
    """
    units = [module for module in model.modules() if isinstance(module, ResidualUnit)]
    # One piece of code is compiled for each unit, and again for each stage's shape.
    torch._dynamo.config.recompile_limit = max(
        torch._dynamo.config.recompile_limit,
        16 * len(units),
    )
    for unit in units:
        unit.compile(backend=backend, dynamic=False)
    return len(units)


def uncompiled(compiled: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context in which what `compile_units` compiled runs as written.

    For passes of other shapes, such as validation, that are not worth compiling for, and for
    codes, which must be those that the model makes in service.
    """
    if not compiled:
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager
