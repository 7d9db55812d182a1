"""The network of the S9 submission: 181,984 parameters, receptive field 55 / 95."""

from torch import Tensor, nn


def conv_relu_dropout_bn(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution (no bias, keeps the size), ReLU, dropout, batch normalization."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.BatchNorm2d(out_channels),
    ]


def transition(padding: int, dilation: int = 1) -> list[nn.Module]:
    """Return a 1x1 convolution of stride 2 from 64 to 32 channels, ReLU, batch normalization."""
    return [
        nn.Conv2d(64, 32, 1, stride=2, padding=padding, dilation=dilation),
        nn.ReLU(),
        nn.BatchNorm2d(32),
    ]


class SeparableConv2d(nn.Module):
    """The submission's separable convolution: its depthwise kernel is 1x1 and mixes no pixels."""

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
    """Four blocks without pooling between them; global average pooling.

    1x1 convolutions of stride 2 reduce the maps from 32 to 17, 9 and 6 pixels. They skip three of
    four values of their input. The dilation of the first two has no effect on a 1x1 kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            *conv_relu_dropout_bn(3, 32),
            *conv_relu_dropout_bn(32, 64),
            *conv_relu_dropout_bn(64, 64),
            *transition(padding=1, dilation=2),
        )
        self.block2 = nn.Sequential(
            *conv_relu_dropout_bn(32, 64),
            *conv_relu_dropout_bn(64, 64),
            *transition(padding=0, dilation=2),
        )
        self.block3 = nn.Sequential(
            SeparableConv2d(32, 64),
            *conv_relu_dropout_bn(64, 64),
            *transition(padding=1),
        )
        self.block4 = nn.Sequential(
            *conv_relu_dropout_bn(32, 64),
            nn.Conv2d(64, 10, 3, padding=1, bias=False),
        )
        self.gap = nn.AvgPool2d(6)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        x = self.block4(x)
        return self.gap(x).flatten(1)
