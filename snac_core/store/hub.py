"""A model's files from the Hugging Face Hub, through its client and its cache."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import file_download, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    HTTPError,  # of whichever httpx the client is built on
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from snac_core.errors import ModelError
from snac_core.store.manifest import CONFIG, WEIGHTS

TORCH_WEIGHTS = "pytorch_model.bin"

_FILE_NAME = re.compile(r"\w[\w.-]*")
_patching = threading.Lock()


class NotOnHubError(ModelError):
    """The hub answered that it has no such model."""


def files_of(repo: str, revision: str | None) -> tuple[Path, Path]:
    """Return the paths of a model's configuration and weights, both of one commit.

    Raises
    ------
    ModelError
        If they cannot be had; NotOnHubError if the hub says that it has no such model.
    """
    try:
        with _names_checked():
            config = Path(hf_hub_download(repo, CONFIG, revision=revision))
            # The commit whose config.json that is, so that both files are of one commit even if
            # somebody pushes between the two downloads.
            return config, _weights(repo, commit=config.parent.name)
    except RepositoryNotFoundError as error:
        raise NotOnHubError(
            f"the Hugging Face Hub has no model {repo!r} that this machine may read"
        ) from error
    except RevisionNotFoundError as error:
        raise NotOnHubError(f"{repo!r} on the Hugging Face Hub has no {revision!r}") from error
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ModelError(
            f"{repo!r} cannot be had from the Hugging Face Hub and is not in its cache: {reason}"
        ) from error


def _weights(repo: str, commit: str) -> Path:
    # Looking for what is cached first, since without a network the client takes half a minute
    # to give up on the one of the two that was never there.
    for name in (WEIGHTS, TORCH_WEIGHTS):
        cached = try_to_load_from_cache(repo, name, revision=commit)
        if isinstance(cached, str):
            return Path(cached)
    try:
        return Path(hf_hub_download(repo, WEIGHTS, revision=commit))
    except EntryNotFoundError:
        return Path(hf_hub_download(repo, TORCH_WEIGHTS, revision=commit))


@contextlib.contextmanager
def _names_checked() -> Iterator[None]:
    """Have the client refuse an entity tag or commit that is no file name.

    It makes paths in its cache of both as the endpoint says them, and would follow ``..`` out of
    it.
    """
    with _patching:
        asked = file_download.get_hf_file_metadata

        def checked(*arguments: Any, **named: Any) -> Any:
            metadata = asked(*arguments, **named)
            for name in (metadata.etag, metadata.commit_hash):
                if name is not None and not _FILE_NAME.fullmatch(name):
                    raise ModelError(f"the hub names a file {name!r:.80}, which is no file name")
            return metadata

        file_download.get_hf_file_metadata = checked
        try:
            yield
        finally:
            file_download.get_hf_file_metadata = asked
