"""Benchmarks: training speed of the project and of a plain PyTorch baseline."""

import helpers  # noqa: F401  # before albumentations: it disables the check for updates
