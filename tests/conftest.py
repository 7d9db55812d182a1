"""No test depends on the machine's devices, or on what is set in the shell that runs it.

But for the one choice that `make gpu` makes, for tests that hold on any device.
"""

import os

# Runs are the same to the last digit on the CPU only.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
for name in ("PROFILE", "DATASET", "SEED", "RESUME", "REUSE", "CIFAR10_ROOT"):
    os.environ.pop(name, None)
