"""The network of the first S7 submission: 439,808 parameters, receptive field 74 / 98."""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from helpers.models.layers import DepthwiseSeparableConv


class S7(nn.Module):
    """Four blocks with max pooling between them, global average pooling, 1x1 convolution.

    Each of the first three blocks widens to 128 channels. A 1x1 convolution then reduces them to
    64, so that the next block costs less.
    """

    def __init__(self) -> None:
        super().__init__()
        conv_bn_relu = Conv2dNormActivation  # 3x3 by default; keeps the size, has no bias
        self.block1 = nn.Sequential(
            conv_bn_relu(3, 64),
            conv_bn_relu(64, 64),
            conv_bn_relu(64, 128),
            conv_bn_relu(128, 64, kernel_size=1),
            nn.MaxPool2d(2),
        )
        self.block2 = nn.Sequential(
            conv_bn_relu(64, 64),
            conv_bn_relu(64, 128, dilation=2),
            conv_bn_relu(128, 64, kernel_size=1),
            nn.MaxPool2d(2),
        )
        self.block3 = nn.Sequential(
            conv_bn_relu(64, 64),
            conv_bn_relu(64, 128),
            conv_bn_relu(128, 64, kernel_size=1),
            nn.MaxPool2d(2),
        )
        self.block4 = nn.Sequential(
            DepthwiseSeparableConv(64, 64),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            conv_bn_relu(64, 128),
        )
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Conv2d(128, 10, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        x = self.block4(x)
        return self.output(self.gap(x)).flatten(1)
