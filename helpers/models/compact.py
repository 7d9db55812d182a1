"""Our own network under 100,000 parameters for S9's bonus and ResNet18's second part."""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from helpers.models.s7 import DepthwiseSeparableConv


class Residual(nn.Module):
    """Depthwise separable convolution and batch normalisation, added to their input; ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DepthwiseSeparableConv(channels, channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return (x + self.bn(self.conv(x))).relu()


class Compact(nn.Module):
    """Four blocks of `widths` channels; all but the first are residual, of `depths` each.

    No pooling but the global one: transition 1 is a 1x1 convolution, 2 (dilated) and 3 halve the
    maps with strided 3x3 kernels. Those see an eighth of the channels each, which takes about as
    many weights as a depthwise separable convolution.
    Maps (N, 3, 32, 32) to logits (N, 10).
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (40, 80, 104),
        depths: tuple[int, int, int] = (3, 4, 3),
        dilation: int = 3,
    ) -> None:
        super().__init__()
        conv = Conv2dNormActivation  # no bias; batch normalisation, ReLU
        self.block1 = nn.Sequential(conv(3, 32), conv(32, widths[0]))
        self.transition1 = conv(widths[0], widths[0], kernel_size=1)
        self.block2 = nn.Sequential(*(Residual(widths[0]) for _ in range(depths[0])))
        self.transition2 = conv(*widths[:2], stride=2, dilation=dilation, groups=8)
        self.block3 = nn.Sequential(*(Residual(widths[1]) for _ in range(depths[1])))
        self.transition3 = conv(*widths[1:], stride=2, groups=8)
        self.block4 = nn.Sequential(*(Residual(widths[2]) for _ in range(depths[2])))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block2(self.transition1(self.block1(x)))
        x = self.block4(self.transition3(self.block3(self.transition2(x))))
        return self.fc(self.gap(x).flatten(1))
