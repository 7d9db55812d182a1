"""An imitation of Google Drive: a folder next to the notebook."""

import os
from pathlib import Path

import helpers.colab


def mount(mountpoint: str) -> None:
    """Create the folder and let `helpers.colab` use it.

    Args:
        mountpoint: Colab's own path, which other machines do not have.

    Raises:
        ValueError: If the path is not Colab's.
    """
    if mountpoint != "/content/drive":
        raise ValueError(f"mountpoint={mountpoint} is not /content/drive")
    folder = Path(os.environ["FAKE_COLAB_CONTENT"]) / "drive"
    (folder / "MyDrive").mkdir(parents=True, exist_ok=True)
    helpers.colab.DRIVE = folder
    print(f"Mounted at {mountpoint}")
