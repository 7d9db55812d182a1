"""The tables printed in the seed documents: layer, output shape, parameters; receptive fields."""

import re

_S7 = """
Conv2d-1 [-1, 64, 32, 32] 1,728
BatchNorm2d-2 [-1, 64, 32, 32] 128
ReLU-3 [-1, 64, 32, 32] 0
Conv2d-4 [-1, 64, 32, 32] 36,864
BatchNorm2d-5 [-1, 64, 32, 32] 128
ReLU-6 [-1, 64, 32, 32] 0
Conv2d-7 [-1, 128, 32, 32] 73,728
BatchNorm2d-8 [-1, 128, 32, 32] 256
ReLU-9 [-1, 128, 32, 32] 0
Conv2d-10 [-1, 64, 32, 32] 8,192
BatchNorm2d-11 [-1, 64, 32, 32] 128
ReLU-12 [-1, 64, 32, 32] 0
MaxPool2d-13 [-1, 64, 16, 16] 0
Conv2d-14 [-1, 64, 16, 16] 36,864
BatchNorm2d-15 [-1, 64, 16, 16] 128
ReLU-16 [-1, 64, 16, 16] 0
Conv2d-17 [-1, 128, 16, 16] 73,728
BatchNorm2d-18 [-1, 128, 16, 16] 256
ReLU-19 [-1, 128, 16, 16] 0
Conv2d-20 [-1, 64, 16, 16] 8,192
BatchNorm2d-21 [-1, 64, 16, 16] 128
ReLU-22 [-1, 64, 16, 16] 0
MaxPool2d-23 [-1, 64, 8, 8] 0
Conv2d-24 [-1, 64, 8, 8] 36,864
BatchNorm2d-25 [-1, 64, 8, 8] 128
ReLU-26 [-1, 64, 8, 8] 0
Conv2d-27 [-1, 128, 8, 8] 73,728
BatchNorm2d-28 [-1, 128, 8, 8] 256
ReLU-29 [-1, 128, 8, 8] 0
Conv2d-30 [-1, 64, 8, 8] 8,192
BatchNorm2d-31 [-1, 64, 8, 8] 128
ReLU-32 [-1, 64, 8, 8] 0
MaxPool2d-33 [-1, 64, 4, 4] 0
Conv2d-34 [-1, 64, 4, 4] 576
Conv2d-35 [-1, 64, 4, 4] 4,096
depthwise_separable_conv-36 [-1, 64, 4, 4] 0
BatchNorm2d-37 [-1, 64, 4, 4] 128
ReLU-38 [-1, 64, 4, 4] 0
Conv2d-39 [-1, 128, 4, 4] 73,728
BatchNorm2d-40 [-1, 128, 4, 4] 256
ReLU-41 [-1, 128, 4, 4] 0
AdaptiveAvgPool2d-42 [-1, 128, 1, 1] 0
Conv2d-43 [-1, 10, 1, 1] 1,280
"""

_S7_DROPOUT = """
Conv2d-1 [-1, 32, 32, 32] 896
ReLU-2 [-1, 32, 32, 32] 0
BatchNorm2d-3 [-1, 32, 32, 32] 64
Dropout-4 [-1, 32, 32, 32] 0
Conv2d-5 [-1, 64, 32, 32] 18,496
ReLU-6 [-1, 64, 32, 32] 0
BatchNorm2d-7 [-1, 64, 32, 32] 128
Dropout-8 [-1, 64, 32, 32] 0
MaxPool2d-9 [-1, 64, 16, 16] 0
Conv2d-10 [-1, 64, 16, 16] 640
ReLU-11 [-1, 64, 16, 16] 0
BatchNorm2d-12 [-1, 64, 16, 16] 128
Dropout-13 [-1, 64, 16, 16] 0
Conv2d-14 [-1, 128, 16, 16] 8,320
ReLU-15 [-1, 128, 16, 16] 0
BatchNorm2d-16 [-1, 128, 16, 16] 256
MaxPool2d-17 [-1, 128, 8, 8] 0
Conv2d-18 [-1, 128, 8, 8] 1,280
ReLU-19 [-1, 128, 8, 8] 0
BatchNorm2d-20 [-1, 128, 8, 8] 256
Dropout-21 [-1, 128, 8, 8] 0
Conv2d-22 [-1, 256, 8, 8] 33,024
ReLU-23 [-1, 256, 8, 8] 0
BatchNorm2d-24 [-1, 256, 8, 8] 512
Dropout-25 [-1, 256, 8, 8] 0
Conv2d-26 [-1, 256, 4, 4] 590,080
ReLU-27 [-1, 256, 4, 4] 0
BatchNorm2d-28 [-1, 256, 4, 4] 512
Dropout-29 [-1, 256, 4, 4] 0
Conv2d-30 [-1, 64, 4, 4] 16,448
ReLU-31 [-1, 64, 4, 4] 0
Conv2d-32 [-1, 10, 4, 4] 650
ReLU-33 [-1, 10, 4, 4] 0
AvgPool2d-34 [-1, 10, 1, 1] 0
"""

Row = tuple[str, tuple[int, ...], int]


def rows(table: str) -> list[Row]:
    """Read rows as torchsummary prints them; class names lose case and underscores."""
    found = re.findall(r"(\w+-\d+)\s+\[([-\d, ]+)\]\s+([\d,]+)\s*$", table, re.MULTILINE)
    return [
        (
            name.replace("_", "").lower(),
            tuple(int(side) for side in shape.split(",")),
            int(params.replace(",", "")),
        )
        for name, shape, params in found
    ]


LAYERS = {"s7": rows(_S7), "s7_dropout": rows(_S7_DROPOUT)}
PARAMETERS = {"s7": 439_808, "s7_dropout": 671_690}
MILLION_MULT_ADDS = {"s7": 162.67, "s7_dropout": 34.06}
FIELDS = {"s7": (74, 98), "s7_dropout": (36, 48)}

# layer, Nin, k, p, s, Nout, Jout, Rout
S7_RECEPTIVE_FIELD = """
input 0 0 0 0 32 1 1
conv1 32 3 1 1 32 1 3
conv2 32 3 1 1 32 1 5
conv3 32 3 1 1 32 1 7
conv4 32 1 0 1 32 1 7
pool1 32 2 0 2 16 2 8
conv5 16 3 1 1 16 2 12
conv6 16 5 2 1 16 2 20
conv7 16 1 0 1 16 2 20
pool2 16 2 0 2 8 4 22
conv8 8 3 1 1 8 4 30
conv9 8 3 1 1 8 4 38
conv10 8 1 0 1 8 4 38
pool3 8 2 0 2 4 8 42
depthwise 4 3 1 1 4 8 58
pointwise 4 1 0 1 4 8 58
conv11 4 3 1 1 4 8 74
gap 4 4 0 1 1 8 98
conv12 1 1 0 1 1 8 98
"""
