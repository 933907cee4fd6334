"""Read and publish `.safetensors` files on the Hugging Face Hub, as `hf:OWNER/NAME[@REVISION]`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcap.messages.errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
_SUFFIX = ".safetensors"
_USUAL = f"model{_SUFFIX}"


def is_reference(text: str | os.PathLike[str]) -> bool:
    """Return whether a text names a repository on the Hub, rather than a file."""
    return str(text).startswith(PREFIX)


def fetch(reference: str | os.PathLike[str]) -> Path:
    """Download the weights of a repository into the Hub's own cache, or find them there.

    Only the `.safetensors` file is read: `model.safetensors`, or the only one.

    Raises:
      InputError: huggingface_hub is not installed, there is no such repository or revision, it does
        not have exactly one file to read, or the Hub cannot be reached.
    """
    repository, revision = _split(reference)
    api = _api(reference)
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        try:  # without a network, this finds what was downloaded earlier
            return Path(api.hf_hub_download(repository, _USUAL, revision=revision))
        except RemoteEntryNotFoundError:
            pass
        files = api.list_repo_files(repository, revision=revision)
        found = [name for name in files if name.endswith(_SUFFIX)]
        if len(found) != 1:
            raise InputError(
                f"{reference}: expected one {_SUFFIX} file or {_USUAL}, found {len(found)}"
                f"{': ' if found else ''}{', '.join(found[:5])}. Other formats are not read, "
                "because they may hold code."
            )
        return Path(api.hf_hub_download(repository, found[0], revision=revision))
    except InputError:
        raise
    except Exception as error:  # the library raises its own, the transport's and the system's
        raise InputError(f"{reference}: {_reason(error)}") from error


def publish(reference: str | os.PathLike[str], file: Path, card: str, *, message: str) -> str:
    """Upload a file as `model.safetensors`, with a model card; return the address of the commit.

    The repository is created if it does not exist.

    Raises:
      InputError: see `fetch`; or the token lacks the permission.
    """
    repository, revision = _split(reference)
    api = _api(reference)
    from huggingface_hub import CommitOperationAdd

    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.create_commit(
            repository,
            [
                CommitOperationAdd(_USUAL, file),
                CommitOperationAdd("README.md", card.encode("utf-8")),
            ],
            commit_message=message,
            revision=revision,
        )
    except Exception as error:
        raise InputError(f"{reference}: {_reason(error)}") from error
    return str(commit.commit_url)


def _split(reference: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Return the repository, OWNER/NAME, and the revision."""
    repository, _, revision = str(reference).removeprefix(PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"{reference}: expected {PREFIX}OWNER/NAME[@REVISION].")
    return repository, revision or None


def _api(reference: str | os.PathLike[str]) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise InputError(
            f"{reference}: the Hub needs huggingface_hub: pip install 'jaxcap[hub]'"
        ) from None
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="jaxcap")


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return "this repository asks for consent: accept its terms on its page, then hf auth login."
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one: hf auth login gives access."
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision."
    return f"the Hub cannot be reached, or refused: {error}"
