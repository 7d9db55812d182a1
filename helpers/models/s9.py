"""The network of the S9 hand-in: 181,984 parameters, receptive field 55 / 95."""

from torch import Tensor, nn


def conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    """3x3 convolution (no bias, size kept), ReLU, dropout, batch normalisation."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm2d(out_channels)]


def transition(padding: int, dilation: int = 1) -> list[nn.Module]:
    """1x1 convolution of stride 2 with bias from 64 to 32 channels, ReLU, batch normalisation."""
    reduce = nn.Conv2d(64, 32, 1, stride=2, padding=padding, dilation=dilation)
    return [reduce, nn.ReLU(), nn.BatchNorm2d(32)]


class SeparableConv2d(nn.Module):
    """As published: the "depthwise" kernel is 1x1 and mixes nothing in space."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.layers(x)


class S9(nn.Module):
    """No pooling but the global one; the maps shrink from 32 to 17, 9 and 6 pixels.

    They do so by strided 1x1 convolutions, which skip three of four values of the maps before them;
    the dilation of the first two dilates nothing. Maps (N, 3, 32, 32) to logits (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            *conv(3, 32), *conv(32, 64), *conv(64, 64), *transition(padding=1, dilation=2)
        )
        self.block2 = nn.Sequential(
            *conv(32, 64), *conv(64, 64), *transition(padding=0, dilation=2)
        )
        self.block3 = nn.Sequential(SeparableConv2d(32, 64), *conv(64, 64), *transition(padding=1))
        self.block4 = nn.Sequential(*conv(32, 64), nn.Conv2d(64, 10, 3, padding=1, bias=False))
        self.gap = nn.AvgPool2d(6)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.gap(x).flatten(1)
