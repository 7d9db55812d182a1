"""Whatever a user or a disk does to files, a command ends in a result or in one line.

The commands run in one process (`fuzz_files.py`) on a copy of the package, in a folder with a space
and letters that are not ASCII, as a user with limited permissions.
"""

import os
import shutil
import subprocess
import sys

import pytest

from helpers.config import ROOT

pytestmark = pytest.mark.slow


def test_damaged_files_end_in_a_result_or_one_line(tmp_path_factory):
    root = tmp_path_factory.mktemp("Zoë") / "nets of Zoë"
    shutil.copytree(
        ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "S7.ipynb", root / "notebooks")
    shutil.copy(ROOT / "tests" / "fuzz_files.py", root)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(root), "TMPDIR": str(root.parent), "MPLCONFIGDIR": str(root)}
    command = [sys.executable, "fuzz_files.py"]
    if os.getuid() == 0 and shutil.which("setpriv"):  # permissions do not stop root otherwise
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    completed = subprocess.run(
        command, cwd=root, env=environment, timeout=600,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-4000:]
