"""Our own network with fewer than 100,000 parameters.

It is for the bonus of S9 and for the second part of the ResNet18 assignment.
"""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from helpers.models.layers import DepthwiseSeparableConv


class Residual(nn.Module):
    """Depthwise separable convolution and batch normalization, added to their input; ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DepthwiseSeparableConv(channels, channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return (x + self.bn(self.conv(x))).relu()


class Compact(nn.Module):
    """Four blocks, three of them of residual units, with convolutions between them.

    There is no pooling but the global one. Transition 1 is a 1x1 convolution. Transitions 2
    (dilated) and 3 halve the maps with strided 3x3 convolutions of 8 groups, which have about as
    many parameters as a depthwise separable convolution.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (40, 80, 104),
        depths: tuple[int, int, int] = (3, 4, 3),
        dilation: int = 3,
    ) -> None:
        """Build the network.

        Args:
            widths: Channels of blocks 2, 3 and 4. Block 1 ends with those of block 2.
            depths: Number of residual units in blocks 2, 3 and 4.
            dilation: Dilation of transition 2.
        """
        super().__init__()
        conv_bn_relu = Conv2dNormActivation  # 3x3 by default; no bias
        self.block1 = nn.Sequential(conv_bn_relu(3, 32), conv_bn_relu(32, widths[0]))
        self.transition1 = conv_bn_relu(widths[0], widths[0], kernel_size=1)
        self.block2 = nn.Sequential(*(Residual(widths[0]) for _ in range(depths[0])))
        self.transition2 = conv_bn_relu(widths[0], widths[1], stride=2, dilation=dilation, groups=8)
        self.block3 = nn.Sequential(*(Residual(widths[1]) for _ in range(depths[1])))
        self.transition3 = conv_bn_relu(widths[1], widths[2], stride=2, groups=8)
        self.block4 = nn.Sequential(*(Residual(widths[2]) for _ in range(depths[2])))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block1(x)
        x = self.block2(self.transition1(x))
        x = self.block3(self.transition2(x))
        x = self.block4(self.transition3(x))
        return self.fc(self.gap(x).flatten(1))
