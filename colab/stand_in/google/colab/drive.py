"""Google Drive, as a folder beside the notebook."""

import sys
from pathlib import Path


def mount(mountpoint: str) -> None:
    """Make the folder; it takes the place of /content/drive, which is to be had in Colab only."""
    assert mountpoint == "/content/drive", mountpoint
    here = Path.cwd() / "drive"
    (here / "MyDrive").mkdir(parents=True, exist_ok=True)
    sys.modules["helpers.notebook"].DRIVE = here
    print(f"Mounted at {mountpoint}")
