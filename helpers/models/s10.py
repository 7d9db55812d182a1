"""The network of the S10 hand-in: 6,573,130 parameters, receptive field 64 / 88."""

from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, pool: bool = False) -> list[nn.Module]:
    """3x3 convolution (no bias, size kept), 2x2 max pooling if asked for, BN, ReLU, dropout."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if pool else []
    return [convolution, *pooling, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.Dropout(0.02)]


class CustomResNet(nn.Module):
    """A stem and three layers, two of them with a residual branch; no ReLU after the additions.

    Maps (N, 3, 32, 32) to logits (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.prep = nn.Sequential(*conv(3, 64))
        self.layer1 = nn.Sequential(*conv(64, 128, pool=True))
        self.residual1 = nn.Sequential(*conv(128, 128), *conv(128, 128))
        self.layer2 = nn.Sequential(*conv(128, 256, pool=True))
        self.layer3 = nn.Sequential(*conv(256, 512, pool=True))
        self.residual3 = nn.Sequential(*conv(512, 512), *conv(512, 512))
        self.gap = nn.MaxPool2d(4)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.layer1(self.prep(x))
        x = x + self.residual1(x)
        x = self.layer3(self.layer2(x))
        x = x + self.residual3(x)
        return self.fc(self.gap(x).flatten(1))
