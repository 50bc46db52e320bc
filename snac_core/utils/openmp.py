"""How threads that compute together wait for each other; to be imported before torch.

OpenMP's threads spin while they wait. Beside an event loop, threads that read and write, and
whatever else a machine does, they spin on the core that the thread they wait for needs, and a
batch takes many times as long.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
