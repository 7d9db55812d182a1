"""What the assignments demand, as tables to be read; `requirements` judges them.

For each notebook: the demands on the network, and those on the run, each with its judge and what
this demand asks of it.
"""

from helpers.anatomy import judges as j

PARTS = {
    "receptive field > 44": [j.field_over_44],
    "depthwise separable convolution, k > 1": [j.separable, 1],
    "dilated convolution, k > 1 and d > 1": [j.having, j.dilated],
    "global average pooling": [j.having, lambda x: x.kind == "gap"],
}
WITHOUT_POOLING = {
    "C1-C2-C3-C4-O: four blocks, then the output": [j.blocks, j.squeezes],
    "no pooling but the global one": [j.having, j.pooled, 0, 0],
    "3x3 convolutions of stride 2 (or dilated) in its place": [j.strided_or_dilated],
    **PARTS,
    "< 200,000 parameters": [j.params_below, 200_000],
}
FLIP = "Albumentations: flip, shift-scale-rotate, one 16x16 hole in the mean"
FLIPPED_AND_SHIFTED = {"HorizontalFlip": {}}, {"ShiftScaleRotate": {}, "Affine": {}}
CROPPED = (
    {"Pad": {"padding": 4}, "PadIfNeeded": {"min_height": 40, "min_width": 40}},
    {"RandomCrop": {"height": 32, "width": 32}},
)

DEMANDS = {
    "S7": (
        {
            "C1-C2-C3-C4-O: four blocks, then the output": [j.blocks],
            "three max poolings": [j.having, lambda x: x.kind == "max pool", 3, 3],
            **PARTS,
            "FC (or 1x1 convolution) after it": [j.fc_after_pooling],
            "< 1M parameters": [j.params_below, 1_000_000],
        },
        {"runs on the GPU": [j.on_gpu], "test accuracy >= 80 %": [j.accuracy, 80]},
    ),
    "S9": (
        {
            **WITHOUT_POOLING,
            "extra points: shrinks by a dilated kernel": [j.having, j.shrinks_dilated],
            "bonus: two depthwise separable convolutions": [j.separable, 2],
            "bonus: FC (or 1x1 convolution) after the pooling": [j.fc_after_pooling],
        },
        {
            "runs on the GPU": [j.on_gpu],
            FLIP: [j.augmented, *FLIPPED_AND_SHIFTED],
            "test accuracy >= 85 %": [j.accuracy, 85],
            "bonus: >= 87 % with < 100,000 parameters": [j.accuracy, 87, 100_000],
        },
    ),
    "S10": (
        {**WITHOUT_POOLING, "FC (or 1x1 convolution) after the pooling": [j.fc_after_pooling]},
        {
            "24 epochs": [j.given, "epochs", 24],
            "batch size 512": [j.given, "batch_size", 512],
            "Adam": [j.given, "optimizer", "Adam", "AdamW"],
            "one-cycle, a step a batch": [j.a_step_a_batch],
            "its maximum at the end of epoch 5": [j.given, "peak_epoch", 5],
            FLIP: [j.augmented, *FLIPPED_AND_SHIFTED],
            "test accuracy >= 90 % (the other assignment: 85 %)": [j.accuracy, 90],
        },
    ),
    "ResNet18_GradCAM": (
        {
            "no max pooling": [j.having, lambda x: x.kind == "max pool", 0, 0],
            "transition 1: a 1x1 convolution": [j.having, j.squeezes],
            "transition 2: dilated, shrinks the maps": [j.having, j.shrinks_dilated],
            "transition 3: a stride of 2": [j.having, j.strided],
            "six depthwise separable convolutions": [j.separable, 6],
            "< 100,000 parameters": [j.params_below, 100_000],
        },
        {
            "RandomCrop(32, padding=4), CutOut 16x16": [j.augmented, *CROPPED],
            "20 epochs, or up to 50 with < 100,000 parameters": [j.twenty_epochs],
            ">= 87 % with < 100,000 parameters": [j.accuracy, 87, 100_000],
        },
    ),
}
