"""Downloads to the reader's computer, as copies in a folder beside the notebook."""

import shutil
from pathlib import Path


def download(filename: str) -> None:
    """Copy the file into `downloads/`."""
    Path("downloads").mkdir(exist_ok=True)
    shutil.copy(filename, "downloads")
