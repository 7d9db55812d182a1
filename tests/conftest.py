"""No test depends on what is set in the shell that runs it."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_choices_from_outside():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROFILE", "DATASET", "SEED", "RESUME", "REUSE", "CIFAR10_ROOT"):
            patch.delenv(name, raising=False)
        yield
