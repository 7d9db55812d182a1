"""Small networks in the styles that students write, with the outcome that a teacher expects.

Each class is registered with `expect` and a letter for each requirement on the model, in the order
of the notebook's table: P passes, F fails. Its method `feature_maps` is the network up to the
global pooling or flattening. It accepts larger images, so that tests can measure its receptive
field.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class SampleModel(NamedTuple):
    """A network, the notebook whose requirements it is checked against, and their outcomes."""

    notebook: str
    model_class: type[nn.Module]
    passed: list[bool]


SAMPLE_MODELS: dict[str, SampleModel] = {}  # by the name of the class


def expect(notebook, letters):
    """Return a decorator that adds a class to SAMPLE_MODELS."""
    passed = [letter == "P" for letter in letters.replace(" ", "")]

    def register(model_class):
        SAMPLE_MODELS[model_class.__name__] = SampleModel(notebook, model_class, passed)
        return model_class

    return register


def cbr(nin, nout, kernel=3, padding=None, **options):
    """Return a convolution that keeps the size by default, a batch normalization and a ReLU."""
    if padding is None:
        padding = kernel // 2 * options.get("dilation", 1)
    conv = nn.Conv2d(nin, nout, kernel, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(nout), nn.ReLU())


def separable(nin, nout, **options):
    """Return a depthwise separable convolution of 3x3."""
    return nn.Sequential(
        nn.Conv2d(nin, nin, 3, padding=options.pop("padding", 1), groups=nin, **options),
        nn.Conv2d(nin, nout, 1),
    )


def dilated(nin, nout):
    """Return a `cbr` of dilation 2."""
    return cbr(nin, nout, dilation=2)


class ConvNet(nn.Module):
    """A sequence of layers, a global average pooling and a classifier.

    `head` is "linear", "conv" (a 1x1 convolution) or None: the layers give ten channels themselves.
    """

    def __init__(self, layers, width, head="linear"):
        super().__init__()
        self.features, self.head = nn.Sequential(*layers), head
        if head:
            self.out = nn.Linear(width, 10) if head == "linear" else nn.Conv2d(width, 10, 1)

    def feature_maps(self, x):
        return self.features(x)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.feature_maps(x), 1)
        if self.head == "conv":
            return self.out(x).view(-1, 10)
        x = torch.flatten(x, 1)
        return self.out(x) if self.head else x


# ------------------------------------------------------------------------------------------ S7
# blocks, three max poolings, field > 44, separable, dilated, global pooling, FC after it, < 1M


@expect("S7", "PPPPPPPP")
class Textbook(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 16), pool, cbr(16, 24), cbr(24, 24), pool,
            separable(24, 32), cbr(32, 32), pool, dilated(32, 32),
        ), 32, head="conv")  # fmt: skip


@expect("S7", "PPPPPPPP")
class FunctionalPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.conv3 = separable(24, 32)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.fc = nn.Linear(32, 10)

    def feature_maps(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), kernel_size=2, stride=2)
        x = F.max_pool2d(F.relu(self.conv3(x)), (2, 2))
        return F.relu(self.conv4(x))

    def forward(self, x):
        return F.log_softmax(self.fc(self.feature_maps(x).mean([-2, -1])), dim=1)


@expect("S7", "PPPPPFFP")
class FlattenedFeatureMaps(FunctionalPooling):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x):
        x = self.feature_maps(x)
        return self.fc(x.view(x.size(0), -1))


@expect("S7", "FFFFFFFP")
class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def feature_maps(self, x):
        return F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))), 2)

    def forward(self, x):
        x = self.feature_maps(x)
        x = x.view(-1, self.flat(x))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

    def flat(self, x):
        number = 1
        for size in x.size()[1:]:
            number *= size
        return number


@expect("S7", "FFPPPPPP")
class TwoPoolings(ConvNet):
    """Only the global pooling brings its receptive field over 44; the assignment allows that."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((cbr(3, 16), pool, separable(16, 32), pool, cbr(32, 32, dilation=2)), 32)


@expect("S7", "PPPPPPPP")
class PointwiseAfterEachPooling(ConvNet):
    def __init__(self):
        layers, width = [], 3
        for block in (cbr(8, 16), dilated(8, 16), separable(8, 16)):
            layers += [cbr(width, 8), block, nn.MaxPool2d(2, 2), nn.Conv2d(16, 8, 1)]
            width = 8
        super().__init__((*layers, cbr(8, 16), cbr(16, 16)), 16)


@expect("S7", "PPPFPPPP")
class NoSeparableConv(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, cbr(16, 16, groups=4), pool, dilated(16, 16), pool, cbr(16, 16),
            cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S7", "PPPPFPPP")
class DilatedPointwise(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, separable(16, 16), pool, cbr(16, 16, 1, dilation=2),
            cbr(16, 16), pool, cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S7", "PFPPPPPP")
class StrideInsteadOfPooling(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), pool, dilated(16, 16), pool,
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S7", "PPPPPPPP")
class Unpadded(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16, padding=0), pool, cbr(16, 16, padding=0), pool, separable(16, 16),
            dilated(16, 16), pool, cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S7", "PPPPPPPP")
class NormalizedSeparableConv(ConvNet):
    """Normalization, activation and dropout between the depthwise and the pointwise convolution."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        between = nn.Sequential(
            cbr(16, 16, groups=16), nn.Dropout(0.1), nn.Conv2d(16, 32, 1), nn.ReLU6()
        )
        super().__init__((
            cbr(3, 16), pool, between, pool, dilated(32, 16), pool, cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S7", "PPPFPPPP")
class DepthwiseWithoutPointwise(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, cbr(16, 16, groups=16), cbr(16, 16), pool, dilated(16, 16), pool,
            cbr(16, 16),
        ), 16)  # fmt: skip


class ResidualBlock(nn.Module):
    def __init__(self, nin, nout, stride=1, inner=cbr):
        super().__init__()
        self.body = nn.Sequential(inner(nin, nout, stride=stride), cbr(nout, nout))
        same = nin == nout and stride == 1
        self.shortcut = nn.Sequential() if same else nn.Conv2d(nin, nout, 1, stride)

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


@expect("S7", "PPPFFPPP")
class ResidualBlocks(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            ResidualBlock(3, 16), pool, ResidualBlock(16, 24), pool, ResidualBlock(24, 32), pool,
            ResidualBlock(32, 32),
        ), 32)  # fmt: skip


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scales each channel by a gate."""

    def __init__(self, width):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        return x * self.fc(x.mean((2, 3))).view(b, c, 1, 1)


@expect("S7", "PPPPPPPP")
class SqueezeExcitationNet(ConvNet):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), SqueezeExcitation(16), pool, separable(16, 16), SqueezeExcitation(16),
            pool, dilated(16, 16), pool, cbr(16, 16), SqueezeExcitation(16),
        ), 16)  # fmt: skip


@expect("S7", "PPPFFPFP")
class PythonControlFlow(nn.Module):
    """A forward with loops, branches on values and a module that is not registered."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([cbr(3, 8), cbr(8, 16), cbr(16, 16), cbr(16, 16)])
        self.last = [nn.Conv2d(16, 10, 1)]

    def feature_maps(self, x):
        for number in range(int(x.size(1) * 4 / 3)):
            x = self.blocks[number](x)
            if number < 3 and not float(x.abs().sum()) < 0:
                x = torch.max_pool2d(x, 2)
        return self.last[0](x)

    def forward(self, x):
        x = self.feature_maps(x)
        assert x.shape[1] == 10
        return x.mean(-1).mean(-1)


@expect("S7", "PPPFFFPP")
class GlobalMaxPooling(ConvNet):
    """Global max pooling is not global average pooling."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        layers = (cbr(3, 16), pool, cbr(16, 16), pool, cbr(16, 16), pool, cbr(16, 16), cbr(16, 16))
        super().__init__(layers, 16)

    def forward(self, x):
        return self.out(F.adaptive_max_pool2d(self.feature_maps(x), 1).flatten(1))


@expect("S7", "FFFFFPPP")
class UnpaddedConvolutions(ConvNet):
    """Nothing separates the last convolutions, whose maps shrink from 8 to 6, 4 and 2."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 16), pool, cbr(16, 16), cbr(16, 16), pool,
            *(cbr(16, 16, padding=0) for _ in range(3)),
        ), 16)  # fmt: skip


# ------------------------------------------------------------------------------------------ S9
# blocks, no pooling, three 3x3 of stride 2, field > 44, separable, dilated, global pooling,
# < 200,000; dilated in place of a stride, two separable, FC after the pooling


@expect("S9", "PPPPPPPP FFF")
class StridedLast(ConvNet):
    """The last convolution of each block has the stride."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), cbr(16, 16, stride=2),
            dilated(16, 16), cbr(16, 16, stride=2), cbr(16, 16), cbr(16, 10),
        ), 10, head=None)  # fmt: skip


@expect("S9", "PPFPPPPP PPP")
class DilatedInsteadOfStrided(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, dilation=4, padding=0), separable(16, 16),
            cbr(16, 16, dilation=4, padding=0), separable(16, 16), cbr(16, 16, stride=2),
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPFPPPPP FFP")
class StridedPointwise(ConvNet):
    def __init__(self):
        step = [cbr(16, 16, 1, stride=2, padding=0) for _ in range(3)]
        super().__init__((
            cbr(3, 16), cbr(16, 16), step[0], separable(16, 16), step[1], dilated(16, 16), step[2],
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPFPPPPP FPP")
class Strided2x2(ConvNet):
    def __init__(self):
        step = [cbr(16, 16, 2, stride=2, padding=0) for _ in range(3)]
        super().__init__((
            cbr(3, 16), step[0], separable(16, 16), step[1], separable(16, 16), dilated(16, 16),
            step[2], cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PFFPPPPP FFP")
class AveragePooling(ConvNet):
    def __init__(self):
        pool = nn.AvgPool2d(2)
        super().__init__((
            cbr(3, 16), pool, separable(16, 16), pool, dilated(16, 16), pool, cbr(16, 16),
            cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPPPPPPP FFP")
class DownToOnePixel(ConvNet):
    """Its feature maps have 1x1 pixels before the global pooling."""

    def __init__(self):
        super().__init__((
            separable(3, 16), cbr(16, 16, stride=2), dilated(16, 16), cbr(16, 16, stride=2),
            cbr(16, 16, stride=2), cbr(16, 16, stride=2), cbr(16, 16, 2, padding=0),
        ), 16)  # fmt: skip


@expect("S9", "FPFPPPPP FFF")
class AlmostGlobalPooling(ConvNet):
    """An average pooling of 5x5 on 6x6 feature maps gives one value: it counts as global."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), cbr(16, 16, stride=2),
            dilated(16, 16), cbr(16, 16), cbr(16, 16, padding=0), cbr(16, 16), cbr(16, 10),
            cbr(10, 10, 1), nn.AvgPool2d(5),
        ), 10)  # fmt: skip

    def feature_maps(self, x):
        return self.features[:-1](x)

    def forward(self, x):
        return self.features(x).view(-1, 10)


@expect("S9", "PPPPPPPF FPP")
class TooManyParameters(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 64), cbr(64, 64, stride=2), separable(64, 64), separable(64, 96, stride=2),
            dilated(96, 128), cbr(128, 128, stride=2), cbr(128, 128),
        ), 128)  # fmt: skip


@expect("S9", "FPFPPPPP FFP")
class TwoStrides(ConvNet):
    """It has three blocks, whether or not 1x1 convolutions end blocks."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, 5, stride=2), separable(16, 16), cbr(16, 16, 5, stride=2),
            dilated(16, 16), dilated(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPFPPPPP FFP")
class PointwiseEndsBlock(ConvNet):
    """Two strides and a 1x1 convolution separate four blocks."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 24), nn.Conv2d(24, 16, 1), cbr(16, 16), cbr(16, 16, stride=2),
            separable(16, 16), cbr(16, 16, stride=2), dilated(16, 16), dilated(16, 16),
        ), 16)  # fmt: skip


class NamedBlocks(nn.Module):
    """Three convolutions in each of four modules."""

    def __init__(self, names, strides, convolutions=3):
        super().__init__()
        self.names = names
        for number, (name, stride) in enumerate(zip(names, strides, strict=True)):
            first = [cbr(16 if number else 3, 16)] if convolutions > 1 else []
            more = [cbr(16, 16) for _ in range(convolutions - 2)]
            nin = 16 if number or first else 3
            self.add_module(name, nn.Sequential(*first, *more, cbr(nin, 16, stride=stride)))
        self.fc = nn.Linear(16, 10)

    def feature_maps(self, x):
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x):
        return self.fc(self.feature_maps(x).mean((2, 3)))


@expect("S9", "PPFPFFPP FFP")
class BlocksByName(NamedBlocks):
    def __init__(self):
        super().__init__(("c1", "c2", "c3", "c4"), (1, 2, 1, 2))


@expect("S9", "PPFPFFPP FFP")
class BlocksByLongName(NamedBlocks):
    def __init__(self):
        super().__init__(("block_1", "block_2", "block_3", "block_4"), (2, 1, 1, 2))


@expect("S9", "FPFPFFPP FFP")
class ThreeBlocksByName(NamedBlocks):
    def __init__(self):
        super().__init__(("c1", "c2", "c3"), (2, 1, 2))


@expect("S9", "FPFPFFPP FFP")
class ConvolutionsByName(NamedBlocks):
    """A single convolution is not a block."""

    def __init__(self):
        super().__init__(("c1", "c2", "c3", "c4"), (2, 1, 1, 1), convolutions=1)


@expect("S9", "PPPPFFPP FFP")
class ConvolutionAtEachSize(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 16, stride=2), cbr(16, 16, stride=2), cbr(16, 16, stride=2), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPPFFFPP FFP")
class StridedStages(ConvNet):
    """A stem and three stages of a single strided convolution."""

    def __init__(self):
        super().__init__((cbr(3, 16), *(cbr(16, 16, stride=2) for _ in range(3))), 16)


@expect("S9", "FPPPFFPP FFP")
class ThreeBlocksThatEndInStrides(ConvNet):
    """The last strided convolution ends a block, as the others do."""

    def __init__(self):
        blocks = [(cbr(16 if i else 3, 16), cbr(16, 16), cbr(16, 16, stride=2)) for i in range(3)]
        super().__init__(sum(blocks, ()), 16)


@expect("S9", "FPFPFFPP FFP")
class TransitionsOfTwoLayers(ConvNet):
    """A strided convolution and a 1x1 convolution are one transition."""

    def __init__(self, order=1):
        steps = [(cbr(16, 16, stride=2), nn.Conv2d(16, 16, 1))[::order] for _ in range(2)]
        super().__init__((
            cbr(3, 16), cbr(16, 16), *steps[0], cbr(16, 16), cbr(16, 16), *steps[1], cbr(16, 16),
            cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "FPFPFFPP FFP")
class TransitionsOfTwoLayersReversed(TransitionsOfTwoLayers):
    def __init__(self):
        super().__init__(order=-1)


@expect("S9", "FPFFFPPP FFP")
class PaddingOfItsOwn(ConvNet):
    """Its maps keep their size, so that no dilated kernel shrinks them."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, dilation=2, padding_mode="reflect"),
            nn.ZeroPad2d(2), cbr(16, 16, dilation=2, padding=0),
        ), 16)  # fmt: skip


@expect("S9", "PPFPFPPP FFP")
class DilatedWithoutPadding(ConvNet):
    """Its dilated kernel loses two pixels for want of padding. It replaces no stride."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, dilation=2, padding=1), cbr(16, 16, stride=2),
            cbr(16, 16, stride=2), cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "FPFFFPPP PFP")
class DilatedAlone(ConvNet):
    """Nothing has a stride: unpadded dilated kernels stand in its place."""

    def __init__(self):
        layers = [cbr(16, 16, dilation=2, padding=0) for _ in range(2)]
        super().__init__((
            cbr(3, 16), layers[0], cbr(16, 16, 1), cbr(16, 16), layers[1], cbr(16, 16),
        ), 16)  # fmt: skip


@expect("S9", "PPPFFFPP FFP")
class SeparableClassifier(ConvNet):
    """The layer after its global pooling is a separable 1x1 convolution."""

    def __init__(self):
        super().__init__((cbr(3, 16), *(cbr(16, 16, stride=2) for _ in range(3))), 16)
        self.out = nn.Sequential(nn.Conv2d(16, 16, 1, groups=16), nn.Conv2d(16, 10, 1))
        self.head = "conv"


@expect("S9", "PPPFFFPP FFF")
class LargeConvolutionOfOnePixel(ConvNet):
    """A 3x3 convolution of the pooled pixel is neither FC nor a block."""

    def __init__(self):
        super().__init__((cbr(3, 16), *(cbr(16, 16, stride=2) for _ in range(3))), 16)
        self.out, self.head = nn.Conv2d(16, 10, 3, padding=1), "conv"


@expect("S9", "PPPPFFPP FFF")
class FunctionalModel(nn.Module):
    """Parameters and functions instead of modules."""

    def __init__(self):
        super().__init__()
        shapes = [(16, 3), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16), (10, 16)]
        self.weights = nn.ParameterList(torch.randn(*shape, 3, 3) / 9 for shape in shapes)

    def feature_maps(self, x):
        for i, weight in enumerate(self.weights):
            x = F.conv2d(x, weight, stride=2 if i in (1, 3, 5) else 1, padding=1)
            x = F.relu(x) if i < 7 else x
        return x

    def forward(self, x):
        x = self.feature_maps(x)
        return F.avg_pool2d(x, x.shape[2:])[..., 0, 0]


# ----------------------------------------------------------------------------------------- S10
# as S9 up to < 200,000 parameters, but only strided or dilated convolutions shrink; then FC after
# the pooling


@expect("S10", "PPPPFFPPP")
class StridedResNet(ConvNet):
    """Strides in 3x3 convolutions; the 1x1 convolutions of shortcuts are not transitions."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), ResidualBlock(16, 16), ResidualBlock(16, 24, 2), ResidualBlock(24, 32, 2),
            ResidualBlock(32, 32, 2),
        ), 32)  # fmt: skip


@expect("S10", "PFFPFFFPP")
class PooledResNet(ConvNet):
    """Convolutions, poolings and residual blocks, then a global max pooling."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 24), pool, ResidualBlock(24, 24), cbr(24, 32), pool, cbr(32, 32),
            pool, ResidualBlock(32, 32),
        ), 32)  # fmt: skip

    def forward(self, x):
        return self.out(torch.amax(self.feature_maps(x), dim=(2, 3)))


class DenseBlock(nn.Module):
    def __init__(self, width, growth):
        super().__init__()
        self.a, self.b = cbr(width, growth), cbr(width + growth, growth)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], 1)
        return torch.cat((x, self.b(x)), dim=1)


@expect("S10", "PPPPPPPPP")
class DenseNet(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 16), DenseBlock(16, 8), cbr(32, 16, stride=2),
            DenseBlock(16, 8), separable(32, 16), cbr(16, 16, stride=2),
            DenseBlock(16, 8), dilated(32, 16), cbr(16, 16, stride=2), cbr(16, 16),
        ), 16, head="conv")  # fmt: skip


@expect("S10", "PFFPFFPPP")
class DenseNetWithoutTransition(ConvNet):
    """The channels before the global pooling have different receptive fields."""

    def __init__(self):
        pool = nn.AvgPool2d(2)
        super().__init__((
            cbr(3, 16), DenseBlock(16, 8), pool, DenseBlock(32, 8), cbr(48, 16, 1), pool,
            DenseBlock(16, 8), pool, DenseBlock(32, 8),
        ), 48)  # fmt: skip


@expect("S10", "PPPPPPPPF")
class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(cbr(3, 8, 5), cbr(8, 8, 5, stride=2))
        self.right = nn.Sequential(cbr(3, 8), cbr(8, 8, stride=2))
        self.rest = nn.Sequential(
            separable(16, 16), cbr(16, 16, stride=2), dilated(16, 16), cbr(16, 16, stride=2),
            cbr(16, 10),
        )  # fmt: skip

    def feature_maps(self, x):
        return self.rest(torch.cat((self.left(x), self.right(x)), 1))

    def forward(self, x):
        return self.feature_maps(x).flatten(2).mean(-1)


# ------------------------------------------------------------------------------ ResNet18_GradCAM
# no max pooling, a 1x1 transition, a dilated one that shrinks, a strided one, six separable,
# < 100,000 parameters


def mobilenet_block(nin, nout, stride=1):
    return nn.Sequential(cbr(nin, nin, groups=nin, stride=stride), cbr(nin, nout, 1))


@expect("ResNet18_GradCAM", "PPPPPP")
class AllTransitions(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 32), mobilenet_block(32, 32), mobilenet_block(32, 48), nn.Conv2d(48, 24, 1),
            mobilenet_block(24, 32), mobilenet_block(32, 48), cbr(48, 32, dilation=4, padding=0),
            mobilenet_block(32, 48), mobilenet_block(48, 48),
            cbr(48, 48, stride=2), mobilenet_block(48, 64),
        ), 64)  # fmt: skip


@expect("ResNet18_GradCAM", "FPPFPP")
class MaxPoolTransition(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 32), mobilenet_block(32, 32), mobilenet_block(32, 48), nn.Conv2d(48, 24, 1),
            mobilenet_block(24, 32), mobilenet_block(32, 48), cbr(48, 32, dilation=4, padding=0),
            mobilenet_block(32, 48), mobilenet_block(48, 48),
            nn.MaxPool2d(2), mobilenet_block(48, 64),
        ), 64)  # fmt: skip


@expect("ResNet18_GradCAM", "PFFPFF")
class TypicalResNet(ConvNet):
    """The 1x1 convolutions of its shortcuts are not transitions."""

    def __init__(self):
        super().__init__((
            cbr(3, 32), ResidualBlock(32, 32), ResidualBlock(32, 48, 2), ResidualBlock(48, 64, 2),
        ), 64)  # fmt: skip


@expect("ResNet18_GradCAM", "PPFPFP")
class DilatedButPadded(ConvNet):
    def __init__(self):
        super().__init__((
            cbr(3, 32), *(mobilenet_block(32, 32) for _ in range(5)), nn.Conv2d(32, 24, 1),
            dilated(24, 32), cbr(32, 32, stride=2),
        ), 32)  # fmt: skip
