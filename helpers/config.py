"""Profiles, settings, and environment variables: what to run and where files go."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Profile:
    """The amount of work in a run. None means all of it.

    Attributes:
        name: The name that PROFILE selects.
        epochs: The largest number of epochs.
        train_images: The number of training images.
        test_images: The number of test images.
        seconds: Time budget per notebook.
            `quick_profile.limit_to_time_budget` chooses a number of images that fits.
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


def validate_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return the value if it is one of the choices.

    Args:
        name: What the value is for, for the error message.
        value: The value to check.
        choices: The allowed values.

    Raises:
        ValueError: If the value is not allowed. The message lists the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}={value} is unknown; it is one of {', '.join(choices)}")
    return value


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        profile: The amount of work.
        dataset: "auto", "cifar10" or "sample".
        seed: Seeds weights, order of the images, augmentation and dropout.
        resume: Continue from a checkpoint that belongs to the same run.
        reuse: Load the saved run from `results/` instead of training.
        output_dir: The folder that contains `results/` and `checkpoints/`.
    """

    profile: Profile
    dataset: str = "auto"
    seed: int = 0
    resume: bool = True
    reuse: bool = False
    output_dir: Path = ROOT

    @classmethod
    def from_env(
        cls,
        profile: str = "auto",
        dataset: str = "auto",
        output_dir: Path = ROOT,
        reuse: bool = False,
    ) -> "Settings":
        """Read PROFILE, DATASET, SEED, RESUME, REUSE and QUICK_SECONDS from the environment.

        A variable that is set takes precedence over its argument. The profile "auto" is "full"
        with an NVIDIA GPU, and "quick" without one or on the sample.

        Args:
            profile: "auto", "full", "quick" or "smoke".
            dataset: "auto", "cifar10" or "sample".
            output_dir: The folder that contains `results/` and `checkpoints/`.
            reuse: Load the saved run instead of training.

        Raises:
            ValueError: If a variable has a value that is not allowed.
        """
        name = validate_choice("PROFILE", os.environ.get("PROFILE") or profile, ("auto", *PROFILES))
        dataset = os.environ.get("DATASET") or dataset
        validate_choice("DATASET", dataset, ("auto", "cifar10", "sample"))
        resume = validate_choice("RESUME", os.environ.get("RESUME") or "1", ("0", "1"))
        reuse_value = os.environ.get("REUSE") or str(int(reuse))
        validate_choice("REUSE", reuse_value, ("0", "1"))
        seed = _read_integer("SEED", default=0, minimum=0)
        seconds = _read_integer("QUICK_SECONDS", default=QUICK.seconds, minimum=1)

        if name == "auto":
            import torch  # imported here so that `--help` does not wait for it

            name = "full" if torch.cuda.is_available() and dataset != "sample" else "quick"
        if name == "full":
            if dataset == "sample":
                raise ValueError(
                    "PROFILE=full needs CIFAR-10; for the sample set PROFILE=quick or smoke"
                )
            dataset = "cifar10"  # a full run never falls back to other images
        selected = replace(QUICK, seconds=seconds) if name == "quick" else PROFILES[name]
        return cls(selected, dataset, seed, resume == "1", reuse_value == "1", output_dir)

    @property
    def is_full(self) -> bool:
        """Whether this is the whole assignment: all images, all epochs."""
        return self.profile == FULL

    def for_short_run(self) -> "Settings":
        """Return settings for a trial: two epochs instead of a full run, in a separate folder.

        The quick and smoke profiles stay as they are.
        """
        profile = Profile("trial", epochs=2) if self.is_full else self.profile
        return replace(self, profile=profile, reuse=False)

    def for_exercise(self, train_images: int, epochs: int) -> "Settings":
        """Return settings for the short runs of an exercise. The smoke profile stays as it is.

        Args:
            train_images: The number of training images.
            epochs: The number of epochs.
        """
        profile = self.profile
        if profile != SMOKE:
            profile = Profile("short", epochs=epochs, train_images=train_images)
        return replace(self, profile=profile, reuse=False)

    def results_dir(self, data_key: str) -> Path:
        """Return the folder of results.

        Args:
            data_key: `ImageData.key` of the data, for example "cifar10".

        Returns:
            `results/` for a full run on CIFAR-10, otherwise a folder in it that git ignores.
        """
        results = self.output_dir / "results"
        if self.is_full and data_key == "cifar10":
            return results
        return results / f"_{self.profile.name}-{data_key}"

    def checkpoint_dir(self, data_key: str) -> Path:
        """Return the folder of checkpoints of this profile and data.

        Args:
            data_key: `ImageData.key` of the data, for example "cifar10".
        """
        return self.output_dir / "checkpoints" / f"{self.profile.name}-{data_key}"


def _read_integer(variable: str, default: int, minimum: int) -> int:
    """Read an integer from an environment variable."""
    value = os.environ.get(variable) or str(default)
    if not value.isdecimal() or int(value) < minimum:
        raise ValueError(f"{variable}={value} is not a whole number from {minimum} on")
    return int(value)


def cifar10_root() -> Path:
    """Return the folder of `cifar-10-batches-py`: CIFAR10_ROOT if set, otherwise `data/`.

    CIFAR10_ROOT may also be `cifar-10-batches-py` itself.
    """
    root = ROOT / Path(os.environ.get("CIFAR10_ROOT") or "data").expanduser()
    return root.parent if root.name == "cifar-10-batches-py" else root
