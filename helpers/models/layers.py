"""Layers that several models use."""

from torch import Tensor, nn


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 convolution of each channel separately, then a 1x1 convolution that mixes them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.pointwise(self.depthwise(x))
