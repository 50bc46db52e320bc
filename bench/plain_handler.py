"""What people write in an afternoon: the published package behind one FastAPI handler.

    python bench/plain_handler.py --model DIR --port 8001

The peer of bench/serving.py. ``DIR`` holds ``config.json`` and ``pytorch_model.bin``.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
from pathlib import Path
from typing import Any

import snac
import soundfile
import torch
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool


def app(folder: Path) -> FastAPI:
    """Return an application with ``POST /v1/encode`` alone."""
    model = snac.SNAC(**json.loads((folder / "config.json").read_text())).eval()
    model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    served, lock = FastAPI(), threading.Lock()

    def encode(body: bytes) -> dict[str, Any]:
        wave, rate = soundfile.read(io.BytesIO(body), dtype="float32")
        # One clip after the other, each with every core: side by side they only get in each
        # other's way.
        with lock, torch.inference_mode():
            codes = model.encode(torch.from_numpy(wave)[None, None])
        return {"codes": [level[0].tolist() for level in codes], "sample_rate": rate}

    @served.post("/v1/encode")
    async def answer(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(encode, await request.body())

    @served.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    return served


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(app(options.model), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
