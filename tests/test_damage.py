"""Whatever a user or a disk does to files, a command ends in a result or in one line.

The commands run in one process (`damage.py`) on a copy of the repository, in a folder with a space
and letters that are not ASCII, as a user whom permissions stop.
"""

import os
import shutil
import subprocess
import sys

import pytest

from helpers.settings import ROOT

pytestmark = pytest.mark.slow


def test_damage_ends_in_a_result_or_one_line(tmp_path_factory):
    place = tmp_path_factory.mktemp("Zoë") / "nets of Zoë"
    for name in ("helpers", "tracing", "upkeep"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "S7.ipynb", place / "notebooks")
    shutil.copy(ROOT / "tests" / "damage.py", place)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(place), "TMPDIR": str(place.parent), "MPLCONFIGDIR": str(place)}
    command = [sys.executable, "damage.py"]
    if os.getuid() == 0 and shutil.which("setpriv"):  # else no permission would stop root
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(
        command, cwd=place, env=environment, timeout=600,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
