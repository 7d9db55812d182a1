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
    """Four blocks of residual units, with convolutions between them.

    There is no pooling but the global one. Three 3x3 convolutions halve the maps: the last one of
    block 1, transition 2 (dilated) and transition 3. Transition 1 is a 1x1 convolution. All
    three have 8 groups, and with them about as many parameters as a depthwise separable
    convolution.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 64, 64, 96),
        depths: tuple[int, int, int, int] = (4, 5, 4, 3),
        dilation: int = 3,
    ) -> None:
        """Build the network.

        Args:
            widths: Channels of the four blocks.
            depths: Number of residual units in the four blocks.
            dilation: Dilation of transition 2.
        """
        super().__init__()
        conv_bn_relu = Conv2dNormActivation  # 3x3 by default; no bias
        units = [
            [Residual(width) for _ in range(depth)]
            for width, depth in zip(widths, depths, strict=True)
        ]
        self.block1 = nn.Sequential(
            conv_bn_relu(3, widths[0]),
            *units[0],
            conv_bn_relu(widths[0], widths[1], stride=2, groups=8),
        )
        self.transition1 = conv_bn_relu(widths[1], widths[1], kernel_size=1)
        self.block2 = nn.Sequential(*units[1])
        self.transition2 = conv_bn_relu(widths[1], widths[2], stride=2, dilation=dilation, groups=8)
        self.block3 = nn.Sequential(*units[2])
        self.transition3 = conv_bn_relu(widths[2], widths[3], stride=2, groups=8)
        self.block4 = nn.Sequential(*units[3])
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block1(x)
        x = self.block2(self.transition1(x))
        x = self.block3(self.transition2(x))
        x = self.block4(self.transition3(x))
        return self.fc(self.gap(x).flatten(1))
