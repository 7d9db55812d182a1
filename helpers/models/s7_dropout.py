"""The network of the second S7 hand-in: 671,690 parameters, receptive field 36 / 48."""

from torch import Tensor, nn


def conv(
    in_channels: int, out_channels: int, kernel: int = 3, dropout: bool = True, **options: int
) -> list[nn.Module]:
    """Convolution with bias (`options` are its own), ReLU, BN and, if not False, dropout."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, **options)
    layers = [convolution, nn.ReLU(), nn.BatchNorm2d(out_channels)]
    return [*layers, nn.Dropout(0.15)] if dropout else layers


class S7Dropout(nn.Module):
    """Two max poolings; an unpadded dilated convolution takes the place of the third.

    As published, the last 1x1 convolution is followed by a ReLU: no logit is negative.
    Maps (N, 3, 32, 32) to logits (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            *conv(3, 32, padding=1), *conv(32, 64, padding=1), nn.MaxPool2d(2)
        )
        self.block2 = nn.Sequential(
            *conv(64, 64, padding=1, groups=64),
            *conv(64, 128, 1, dropout=False),
            nn.MaxPool2d(2),
        )
        self.block3 = nn.Sequential(*conv(128, 128, padding=1, groups=128), *conv(128, 256, 1))
        self.block4 = nn.Sequential(*conv(256, 256, dilation=2), nn.Conv2d(256, 64, 1), nn.ReLU())
        self.output = nn.Sequential(nn.Conv2d(64, 10, 1), nn.ReLU())
        self.gap = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.gap(self.output(x)).flatten(1)
