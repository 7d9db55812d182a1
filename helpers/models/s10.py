"""The network of the S10 submission: 6,573,130 parameters, receptive field 64 / 88."""

from torch import Tensor, nn


def conv_bn_relu_dropout(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution (no bias, keeps the size), batch normalization, ReLU, dropout."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Dropout(0.02),
    ]


def conv_pool_bn_relu_dropout(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return the layers of `conv_bn_relu_dropout` with a 2x2 max pooling after the convolution."""
    conv, *rest = conv_bn_relu_dropout(in_channels, out_channels)
    return [conv, nn.MaxPool2d(2), *rest]


class CustomResNet(nn.Module):
    """A stem and three layers, two of them with a residual branch; global maximum pooling.

    No ReLU follows the additions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prep = nn.Sequential(*conv_bn_relu_dropout(3, 64))
        self.layer1 = nn.Sequential(*conv_pool_bn_relu_dropout(64, 128))
        self.residual1 = nn.Sequential(
            *conv_bn_relu_dropout(128, 128),
            *conv_bn_relu_dropout(128, 128),
        )
        self.layer2 = nn.Sequential(*conv_pool_bn_relu_dropout(128, 256))
        self.layer3 = nn.Sequential(*conv_pool_bn_relu_dropout(256, 512))
        self.residual3 = nn.Sequential(
            *conv_bn_relu_dropout(512, 512),
            *conv_bn_relu_dropout(512, 512),
        )
        self.gap = nn.MaxPool2d(4)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.layer1(self.prep(x))
        x = x + self.residual1(x)
        x = self.layer3(self.layer2(x))
        x = x + self.residual3(x)
        return self.fc(self.gap(x).flatten(1))
