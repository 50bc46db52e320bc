"""Load each model that the arguments name; print a line for each: its identity, or the error."""

from __future__ import annotations

import sys
import time

import snac_core

# The client asks a dead hub six times and waits in between.
time.sleep = lambda seconds: None

for ref in sys.argv[1:]:
    try:
        codec = snac_core.load(ref, device="cpu")
    except snac_core.ModelError as error:
        sys.stdout.write(f"error: {error}\n")
    else:
        sys.stdout.write(f"{codec.version} {codec.token_space}\n")
