"""Encode so many seconds of audio; print by how many MiB the peak of memory rose."""

from __future__ import annotations

import resource
import sys

import numpy as np

from tests.support.models import TINY, random_codec

codec = random_codec(TINY)
codec.decode(codec.encode([np.zeros(24000 * 5, np.float32)]))
wave = np.full(24000 * int(sys.argv[1]), 0.01, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codec.encode([wave])
sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))
