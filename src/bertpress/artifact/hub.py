"""To the hub and back: the files of the manifest and nothing else."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bertpress.artifact import manifest as manifests
from bertpress.artifact.manifest import Manifest
from bertpress.errors import ArtifactError, MachineError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""``user/name``."""


def push(
    folder: Path,
    manifest: Manifest,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    api: "HfApi | None" = None,
) -> str:
    """Make the repository where needed and upload in one commit; returns the commit's address.

    Args:
        folder: of the artifact.
        manifest: its files are what is uploaded, so that notes or secrets lying beside them stay here.
        repo_id: ``user/name``.
        private: of a new repository.
        token: handed to the client and kept nowhere.
        message: of the commit.
        api: the client; huggingface_hub's own when None.

    Raises:
        MachineError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    client = api or HfApi(token=token)
    try:
        client.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[manifests.NAME, *manifest.files],
            commit_message=message or f"Upload {manifest.name} with bertpress {manifest.bertpress}",
        )
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise MachineError(f"{repo_id}: upload failed: {' '.join(str(error).split())[:300]}") from None
    return str(commit.commit_url)


def pull(repo_id: str) -> Path:
    """Download an artifact, or find it in the hub's cache, and return its folder.

    Raises:
        ArtifactError: the hub has none of that name, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repo_id))
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ArtifactError(f"{repo_id}: no such folder, and the hub gave none ({reason})") from None
