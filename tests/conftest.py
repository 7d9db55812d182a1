"""Makes the tests independent of the machine's devices and of the shell's environment variables.

One variable stays: `make gpu` sets ACCELERATE_USE_CPU for the tests that hold on any device.
"""

import os

# Runs repeat to the last digit on the CPU only.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
# Requests to the tests' own servers must not go through a proxy.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ["no_proxy"] = "127.0.0.1,localhost"
for name in ("PROFILE", "DATASET", "SEED", "RESUME", "REUSE", "QUICK_SECONDS", "CIFAR10_ROOT"):
    os.environ.pop(name, None)
