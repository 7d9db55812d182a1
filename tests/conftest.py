"""No test depends on the machine's devices, or on what is set in the shell that runs it.

But for the one choice that `make gpu` makes, for tests that hold on any device.
"""

import os

# Runs are the same to the last digit on the CPU only.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
if "PYTEST_XDIST_WORKER" in os.environ:  # others compute beside it
    os.environ["OMP_NUM_THREADS"] = "1"
# The tests' own servers are not reached by a proxy.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
names = ("PROFILE", "DATASET", "SEED", "RESUME", "REUSE", "QUICK_SECONDS", "CIFAR10_ROOT")
for name in names:
    os.environ.pop(name, None)
