"""Faults in files, stores, caches and workers: numbers 10 to 14 of `attacks.py`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from attacked import TINY, Seen, Target, probed, publish_tiny, service, wait_ready

from snac_core.errors import SnacError
from snac_core.store.checkpoint import read
from snac_core.store.manifest import Manifest

Result = tuple[str, Seen | None]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def strides() -> Result:
    """A checkpoint whose one stored number is a tensor of 2 GiB."""
    with _folder() as folder:
        path = folder / "best_model.pt"
        weights = {"encoder.block.0.bias": torch.zeros(1).expand(2**29)}
        torch.save({"config": TINY.to_dict(), "model": weights}, path)
        code = (
            "import sys, resource\nfrom snac_core.store.checkpoint import load_model\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n    load_model(sys.argv[1])\n"
            "except BaseException as error:\n    print(type(error).__name__)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (12 * 2**30,) * 2),
        )
        said = done.stdout.split() or ["killed", "0"]
        return f"{path.stat().st_size} bytes: {said[0]}, +{int(said[-1]) // 1024} MiB", None


def mutated() -> Result:
    """Checkpoints with bytes changed: whose errors are they?"""
    numbers = random.Random(0)
    seen: Counter[str] = Counter()
    with _folder() as folder:
        path = folder / "best_model.pt"
        model = {"encoder.block.0.bias": torch.zeros(8), "x": torch.zeros(3)}
        torch.save({"config": TINY.to_dict(), "model": model}, path)
        original = path.read_bytes()
        for _ in range(2000):
            data = bytearray(original)
            for _ in range(numbers.randint(1, 6)):
                data[numbers.randrange(len(data))] = numbers.randrange(256)
            path.write_bytes(data)
            try:
                read(path)
                seen["read"] += 1
            except SnacError:
                seen["our error"] += 1
            except Exception as error:  # noqa: BLE001 - what is counted here
                seen[type(error).__name__] += 1
    foreign = sum(seen.values()) - seen["read"] - seen["our error"]
    return f"{foreign} of {sum(seen.values())} foreign exceptions", None


def high_rate() -> Result:
    """A version that says that its sample rate is 2e8 Hz."""
    with _folder() as folder, service(MODEL_STORE=str(publish_tiny(folder / "store").root)) as t:
        store = publish_tiny(folder / "other")
        version = store.current() or ""
        _rewrite(store.path(version), sampling_rate=200_000_000)
        with probed(t) as seen:
            shutil.copytree(store.path(version), folder / "store/versions" / version)
            _point(folder / "store", version)
            time.sleep(8)
        return f"states: {_states(t)}", seen


def kernels() -> Result:
    """A kernel cache that was cut short, one that is empty, and one that cannot be written."""
    said = []
    with _folder() as folder:
        for kind in ("whole", "cut", "empty", "unwritable"):
            for built in folder.rglob("kernels-*.so"):
                if kind in ("cut", "empty"):
                    size = 0 if kind == "empty" else built.stat().st_size // 2
                    os.truncate(built, size)
            cache = folder if kind != "unwritable" else Path("/proc/nowhere")
            code = "from snac_core.kernels.cpu import kernels; print(kernels('auto') is not None)"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "XDG_CACHE_HOME": str(cache)},
                capture_output=True,
                text=True,
                check=False,
            )
            fast = {"True": "fast", "False": "slow"}.get(done.stdout.strip())
            said.append(f"{kind}: {fast or f'exit {done.returncode}'}")
    return ", ".join(said), None


def hung_store() -> Result:
    """The store's pointer becomes a pipe that nobody writes to."""
    with (
        _folder() as folder,
        service(
            MODEL_STORE=str(publish_tiny(folder / "store").root), DRAIN_DELAY="0", DRAIN_TIMEOUT="3"
        ) as target,
    ):
        (folder / "store/current.json").unlink()
        os.mkfifo(folder / "store/current.json")
        time.sleep(5)
        with probed(target) as seen:
            try:
                with target.client(10) as http:
                    models = str(http.get("/v1/models").status_code)
            except httpx.HTTPError:
                models = "no answer"
        return f"/v1/models: {models}; SIGTERM: {target.stop(20)}", seen


def rewritten() -> Result:
    """The weights being served are cut short in place."""
    with _folder() as folder:
        store = publish_tiny(folder / "store")
        with service(MODEL_STORE=str(store.root), COMPILE="off") as target:
            with probed(target) as seen:
                weights = store.path(store.current() or "") / "model.safetensors"
                os.truncate(weights, 0)
                frames = json.dumps({"codes": [[1] * 40, [2] * 80, [3] * 160]}).encode()
                said = target.post("/v1/decode", frames, "application/json", timeout=20)
            return f"{said}; process: {target.process.poll() or 'alive'}", seen


def manifests() -> Result:
    """Manifests that are odd, each sealed as it should be, then 3,000 versions."""
    with _folder() as folder:
        store = publish_tiny(folder / "store", 2)
        first = store.versions()[0]
        values: dict[str, Any] = {
            **{"created": 5, "token_space": None, "parent": []},
            "golden": [[1e9]],
        }
        for count, (key, value) in enumerate(values.items()):
            odd = f"20200101T000000.00000{count}Z-00000000"
            shutil.copytree(store.path(first), folder / "store/versions" / odd)
            _rewrite(store.path(odd), version=odd, **{key: value})
        with service(MODEL_STORE=str(store.root)) as target:
            with target.client() as http:
                answer = http.get("/v1/models")
            states = _states(target) if answer.is_success else str(answer.status_code)
            manifest = Manifest.from_bytes((store.path(first) / "manifest.json").read_bytes())
            for index in range(3000):
                version = f"20210101T000000.{index:06}Z-00000000"
                place = folder / "store/versions" / version
                place.mkdir()
                changed = Manifest(**{**manifest.__dict__, "version": version})
                (place / "manifest.json").write_bytes(changed.to_bytes())
            took = []
            with probed(target) as seen, target.client() as http:
                for _ in range(2):
                    started = time.perf_counter()
                    http.get("/v1/models")
                    took.append(time.perf_counter() - started)
        return f"{states}; 3,000 listed in {took[0]:.2f} s, then {took[1]:.2f} s", seen


def workers() -> Result:
    """A worker is stopped; a second service starts on the same port."""
    with (
        _folder() as folder,
        service(
            MODEL=str(publish_tiny(folder / "store").root), DEVICES="cpu,cpu", HEARTBEAT_TIMEOUT="5"
        ) as target,
    ):
        time.sleep(5)
        second = "started beside the first"
        with (
            service(
                wait=False,
                MODEL=str(publish_tiny(folder / "other").root),
                DEVICES="cpu,cpu",
                PORT=str(target.port),
            ) as other,
            contextlib.suppress(subprocess.TimeoutExpired),
        ):
            second = f"ended with {other.process.wait(120)}"
        worker = next(
            child
            for child in psutil.Process(target.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        worker.send_signal(signal.SIGSTOP)
        replaced = "not replaced within 120 s"
        for _ in range(120):
            time.sleep(1)
            if not psutil.pid_exists(worker.pid) or worker.status() == psutil.STATUS_ZOMBIE:
                replaced = "replaced"
                break
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)
        wait_ready(target)
        return f"the second start: {second}; the stopped worker: {replaced}", None


def native_prints() -> Result:
    """A sound file that libsndfile prints about."""
    header = b"\xf0\x7e\x00\x01\x00\x00\x10" + b"\0" * 14 + b"\xf7"
    data = header + 9 * (b"\xf0\x7e\x00\x02" + bytes(range(123)))
    with service() as target:
        said = target.post("/v1/encode", data[:1166], "audio/x-sds")
        with target.client() as http:
            http.get("/health/live")
        lines = len(target.log.read_bytes().splitlines())
        return f"{said[:3]}, {lines} lines in the log", None


def _states(target: Target) -> str:
    with target.client() as http:
        models = http.get("/v1/models").json()["models"]
    counts = Counter(model["state"] for model in models)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _rewrite(folder: Path, sampling_rate: int | None = None, **values: object) -> None:
    """Change a version's configuration or manifest, and seal it again."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("sha256")
    if sampling_rate is not None:
        config = json.loads((folder / "config.json").read_bytes())
        data = json.dumps({**config, "sampling_rate": sampling_rate}).encode()
        (folder / "config.json").write_bytes(data)
        manifest["files"]["config.json"] = hashlib.sha256(data).hexdigest()
    body = {**manifest, **values}
    canonical = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    sealed = {**body, "sha256": hashlib.sha256(canonical).hexdigest()}
    (folder / "manifest.json").write_bytes(
        json.dumps(sealed, indent=1, sort_keys=True).encode() + b"\n"
    )


def _point(root: Path, version: str) -> None:
    values = {**json.loads((root / "current.json").read_bytes()), "version": version}
    (root / "next").write_text(json.dumps(values))
    (root / "next").replace(root / "current.json")


ATTACKS: dict[str, Callable[[], Result]] = {
    "10 stride 0": strides,
    "10 mutated checkpoints": mutated,
    "10 sample rate of 2e8": high_rate,
    "11 kernel cache": kernels,
    "12 hung store": hung_store,
    "12 version rewritten": rewritten,
    "12 odd manifests": manifests,
    "13 workers": workers,
    "14 native prints": native_prints,
}
