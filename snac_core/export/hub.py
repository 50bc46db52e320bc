"""Uploading models to the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from snac_core.errors import ModelError
from snac_core.export.upstream import write_upstream
from snac_core.store import checkpoint


def push(ref: str | Path, repo: str, card: str | None = None, *, half: bool = False) -> str:
    """Upload the model that ``ref`` names as a published SNAC model, and return its URL.

    Parameters
    ----------
    ref
        Anything that `snac_core.load` takes.
    repo
        ``owner/name``, made if it is missing. ``HF_TOKEN`` and ``HF_ENDPOINT`` mean what they
        always do.
    card
        The README.md.
    half
        Round the weights to float16 first.

    Raises
    ------
    ModelError
        If there is no such model, or the hub refuses.
    """
    found = checkpoint.read(ref)
    if half:
        weights = {name: value.half() for name, value in found.weights.items()}
        found = dataclasses.replace(found, weights=weights)
    with tempfile.TemporaryDirectory(prefix="snac-export-") as folder:
        write_upstream(found, Path(folder), card)
        return push_folder(Path(folder), repo, found.version)


def push_folder(folder: Path, repo: str, version: str) -> str:
    """Upload a folder to a model of the hub, in one commit, and return its URL.

    Raises
    ------
    ModelError
        If the hub refuses or cannot be reached.
    """
    hub = HfApi()
    try:
        hub.create_repo(repo, repo_type="model", exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo,
            repo_type="model",
            folder_path=folder,
            commit_message=f"Upload {version}",
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{repo!r} cannot be pushed to the Hugging Face Hub: {reason}") from error
    return str(commit.commit_url)
