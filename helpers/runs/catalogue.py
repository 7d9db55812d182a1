"""The runs of the series: which network is trained, with what augmentation, and how."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from helpers.images import transforms
from helpers.training.recipes import Recipe


@dataclass(frozen=True)
class Run:
    """A network (a name in MODELS) trained in one way.

    Its files go to the folder `name`, "notebook/run"; `transform` gives the augmentation for the
    channel means of the training images; `published` is the hand-in's test accuracy in %; with
    `find_rate`, `search.with_found_rate` gives it another `max_lr` before it is trained.
    """

    name: str
    net: str
    transform: Callable[[np.ndarray], Callable]
    recipe: Recipe
    published: float | None = None
    find_rate: bool = False

    @property
    def record(self) -> dict:
        """The recipe, and the name of the transform, as `metrics.json` keeps them."""
        return asdict(self.recipe) | {"transform": getattr(self.transform, "__name__", "")}


S7_RECIPE = Recipe(
    epochs=10, batch_size=128, max_lr=0.2, peak_epoch=2.5, weight_decay=5e-4, label_smoothing=0.1,
    whitened=True, identity=True,
)  # fmt: skip
S7_DROPOUT_RECIPE = replace(S7_RECIPE, optimizer="Muon", max_lr=0.1, dropout=0.05)
COMPACT_RECIPE = replace(S7_RECIPE, epochs=35, peak_epoch=7, dropout=0.0)
S9_RECIPE = replace(COMPACT_RECIPE, epochs=50, peak_epoch=10, weight_decay=2.5e-4)
S10_RECIPE = replace(
    COMPACT_RECIPE, epochs=24, batch_size=512, max_lr=0.003, peak_epoch=5, optimizer="AdamW",
    weight_decay=0.25,
)  # fmt: skip
RESNET18_RECIPE = replace(COMPACT_RECIPE, epochs=20, max_lr=0.1, peak_epoch=5)

RUNS = {
    run.name: run
    for run in (
        Run("S7/s7", "s7", transforms.flip_and_shift, S7_RECIPE, 86.88),
        Run("S7/s7_dropout", "s7_dropout", transforms.flip_and_shift, S7_DROPOUT_RECIPE, 82.93),
        Run("S9/s9", "s9", transforms.flip_shift_scale_rotate_and_rare_hole, S9_RECIPE, 85.22),
        Run("S9/compact", "compact", transforms.flip_shift_scale_rotate_and_hole, COMPACT_RECIPE),
        Run("S10/s10", "s10", transforms.flip_shift_and_hole, S10_RECIPE, 90.06, find_rate=True),
        Run("ResNet18_GradCAM/resnet18", "resnet18", transforms.crop_and_hole, RESNET18_RECIPE),
        Run("ResNet18_GradCAM/compact", "compact", transforms.crop_and_hole, COMPACT_RECIPE),
    )
}
