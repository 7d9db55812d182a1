"""The network of the first S7 hand-in: 439,808 parameters, receptive field 74 / 98."""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution that mixes them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.pointwise(self.depthwise(x))


class S7(nn.Module):
    """Four blocks, three max poolings between them, global average pooling, 1x1 convolution.

    Each of the first three blocks widens to 128 channels, then squeezes to 64 with a 1x1
    convolution, so that the pooled maps are cheap. Maps (N, 3, 32, 32) to logits (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        conv = Conv2dNormActivation  # size kept, no bias; batch normalisation, ReLU
        self.block1 = nn.Sequential(
            conv(3, 64), conv(64, 64), conv(64, 128), conv(128, 64, kernel_size=1), nn.MaxPool2d(2)
        )
        self.block2 = nn.Sequential(
            conv(64, 64), conv(64, 128, dilation=2), conv(128, 64, kernel_size=1), nn.MaxPool2d(2)
        )
        self.block3 = nn.Sequential(
            conv(64, 64), conv(64, 128), conv(128, 64, kernel_size=1), nn.MaxPool2d(2)
        )
        self.block4 = nn.Sequential(
            DepthwiseSeparableConv(64, 64), nn.BatchNorm2d(64), nn.ReLU(), conv(64, 128)
        )
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Conv2d(128, 10, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.output(self.gap(x)).flatten(1)
