"""No test depends on the machine's devices, or on what is set in the shell that runs it."""

import os

os.environ["ACCELERATE_USE_CPU"] = "true"  # runs are the same to the last digit on the CPU only
for name in ("PROFILE", "DATASET", "SEED", "RESUME", "REUSE", "CIFAR10_ROOT"):
    os.environ.pop(name, None)
