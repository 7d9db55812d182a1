"""What to run and where things lie: the profiles, and the environment variables that choose."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Profile:
    """How much of the assignment is run; None stands for all of it.

    With `seconds`, a notebook takes as many images as its runs get through in about that time: on
    CIFAR-10, and in a third of it on the digits.
    """

    name: str
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    seconds: int | None = None


FULL = Profile("full")
QUICK = Profile("quick", epochs=2, seconds=70)
SMOKE = Profile("smoke", epochs=2, train_images=32, test_images=50)
PROFILES = {profile.name: profile for profile in (FULL, QUICK, SMOKE)}


def one_of(what: str, value: str, allowed: Iterable[str]) -> str:
    """The value; ValueError, naming it and what is allowed, where it is none of that."""
    if value not in allowed:
        raise ValueError(f"{what}={value} is unknown; it is one of {', '.join(allowed)}")
    return value


@dataclass(frozen=True)
class Settings:
    """The choices for one run.

    `dataset` is "auto", "cifar10" or "digits"; `resume` continues from a checkpoint that fits;
    `reuse` loads the run kept in `results/` in place of training; `home` is the folder of
    `results/` and `checkpoints/`.
    """

    profile: Profile
    dataset: str = "auto"
    seed: int = 0
    resume: bool = True
    reuse: bool = False
    home: Path = ROOT

    @classmethod
    def from_environment(
        cls, profile: str = "auto", dataset: str = "auto", home: Path = ROOT, reuse: bool = False
    ) -> "Settings":
        """Read PROFILE, DATASET, SEED, RESUME, REUSE and QUICK_SECONDS, which beat the arguments.

        Profile "auto" is "full" with a GPU, and "quick" without or on digits. ValueError names a
        variable whose value is not allowed, and what is.
        """
        given = os.environ.get
        name = one_of("PROFILE", given("PROFILE") or profile, ("auto", *PROFILES))
        dataset = one_of("DATASET", given("DATASET") or dataset, ("auto", "cifar10", "digits"))
        resume = one_of("RESUME", given("RESUME") or "1", ("0", "1"))
        reused = one_of("REUSE", given("REUSE") or str(int(reuse)), ("0", "1"))
        numbers = {name: given(name) or "0" for name in ("SEED", "QUICK_SECONDS")}
        for variable, value in numbers.items():
            if not value.isdecimal():
                raise ValueError(f"{variable}={value} is not a whole number from 0 on")
        seed, seconds = map(int, numbers.values())
        if name == "auto":
            import torch  # here, so that --help need not wait for it

            name = "full" if torch.cuda.is_available() and dataset != "digits" else "quick"
        if name == "full" and dataset == "digits":
            raise ValueError("PROFILE=full is about CIFAR-10; take quick or smoke for the digits")
        dataset = "cifar10" if name == "full" else dataset  # nothing may stand in for it
        quick = replace(QUICK, seconds=seconds or QUICK.seconds)
        chosen = quick if name == "quick" else PROFILES[name]
        return cls(chosen, dataset, seed, resume == "1", reused == "1", home)

    def trial(self) -> "Settings":
        """The same for a first try of a network: two epochs, kept apart from full runs."""
        profile = Profile("trial", epochs=2) if self.profile is FULL else self.profile
        return replace(self, profile=profile, reuse=False)

    def results(self, dataset: str) -> Path:
        """The folder of results: `results/` for all of CIFAR-10, else one that git ignores."""
        whole = self.profile is FULL and dataset == "cifar10"
        return self.home / "results" / ("" if whole else f"_{self.profile.name}-{dataset}")

    def checkpoints(self, dataset: str) -> Path:
        """The folder of this profile's checkpoints on this data."""
        return self.home / "checkpoints" / f"{self.profile.name}-{dataset}"


def cifar10_root() -> Path:
    """The folder that holds, or will hold, `cifar-10-batches-py`: CIFAR10_ROOT, else `data/`."""
    return ROOT / (os.environ.get("CIFAR10_ROOT") or "data")
