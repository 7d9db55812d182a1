"""The network of the second S7 submission: 671,690 parameters, receptive field 36 / 48."""

from torch import Tensor, nn


def conv_relu_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, **options: int
) -> list[nn.Module]:
    """Return a convolution with bias, ReLU and batch normalization.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        kernel_size: Height and width of the kernel.
        **options: Further arguments of `nn.Conv2d`, such as `padding` (0 by default).
    """
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, **options),
        nn.ReLU(),
        nn.BatchNorm2d(out_channels),
    ]


def conv_relu_bn_dropout(
    in_channels: int, out_channels: int, kernel_size: int = 3, **options: int
) -> list[nn.Module]:
    """Return the layers of `conv_relu_bn`, with its `options`, and a dropout of 15 %."""
    return [*conv_relu_bn(in_channels, out_channels, kernel_size, **options), nn.Dropout(0.15)]


class S7Dropout(nn.Module):
    """Two max poolings; a dilated convolution without padding halves the maps a third time.

    As in the submission, a ReLU follows the last 1x1 convolution: no logit is negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            *conv_relu_bn_dropout(3, 32, padding=1),
            *conv_relu_bn_dropout(32, 64, padding=1),
            nn.MaxPool2d(2),
        )
        self.block2 = nn.Sequential(
            *conv_relu_bn_dropout(64, 64, padding=1, groups=64),
            *conv_relu_bn(64, 128, kernel_size=1),
            nn.MaxPool2d(2),
        )
        self.block3 = nn.Sequential(
            *conv_relu_bn_dropout(128, 128, padding=1, groups=128),
            *conv_relu_bn_dropout(128, 256, kernel_size=1),
        )
        self.block4 = nn.Sequential(
            *conv_relu_bn_dropout(256, 256, dilation=2),
            nn.Conv2d(256, 64, 1),
            nn.ReLU(),
        )
        self.output = nn.Sequential(nn.Conv2d(64, 10, 1), nn.ReLU())
        self.gap = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        x = self.block4(x)
        return self.gap(self.output(x)).flatten(1)
