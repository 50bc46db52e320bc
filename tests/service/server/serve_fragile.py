"""The service's command on a device that a clip of 777 samples breaks.

Run as a program. ``FIRST_PAUSE`` in the environment is how many seconds the supervisor waits
before it starts a worker again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch

from service import cli
from service.server import supervisor
from snac_core.codec import Codec
from snac_core.inference.jobs import EncodeJob, Step

run = Codec.run


def fragile(self: Codec, steps: Sequence[Step]) -> None:
    """Run the steps, unless one is of the clip that the device cannot bear."""
    if any(isinstance(step.job, EncodeJob) and len(step.job.wave) == 777 for step in steps):
        raise torch.AcceleratorError("device-side assert triggered")
    run(self, steps)


Codec.run = fragile  # type: ignore[method-assign]
supervisor._FIRST_PAUSE = float(os.environ.get("FIRST_PAUSE", supervisor._FIRST_PAUSE))

if __name__ == "__main__":
    sys.exit(cli.main())
