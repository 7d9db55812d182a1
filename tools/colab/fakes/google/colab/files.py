"""An imitation of downloads from Colab: copies in a folder next to the notebook."""

import os
import shutil
from pathlib import Path


def download(filename: str) -> None:
    """Copy a file into the folder `downloads`.

    Args:
        filename: The path of the file.
    """
    folder = Path(os.environ["FAKE_COLAB_CONTENT"]) / "downloads"
    folder.mkdir(exist_ok=True)
    shutil.copy(filename, folder)
