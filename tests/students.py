"""Small networks in the styles that students write, each with a teacher's verdict.

A verdict has a letter for each of the notebook's demands on a network, in the order of the table:
P passes, F fails. `maps` is the part before the global pooling or flattening: it can be run on
larger images, so that its receptive field can be measured.
"""

import torch
from torch import nn
from torch.nn import functional as F

STUDENTS = {}  # name: (notebook, class, verdict)


def verdict(notebook, letters):
    def note(cls):
        STUDENTS[cls.__name__] = notebook, cls, letters.replace(" ", "")
        return cls

    return note


def cbr(nin, nout, kernel=3, padding=None, **options):
    padding = kernel // 2 * options.get("dilation", 1) if padding is None else padding
    conv = nn.Conv2d(nin, nout, kernel, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(nout), nn.ReLU())


def separable(nin, nout, **options):
    return nn.Sequential(
        nn.Conv2d(nin, nin, 3, padding=options.pop("padding", 1), groups=nin, **options),
        nn.Conv2d(nin, nout, 1),
    )


def dilated(nin, nout):
    return cbr(nin, nout, dilation=2)


class Student(nn.Module):
    """Maps, their mean, and a linear layer or 1x1 convolution."""

    def __init__(self, maps, width, head="linear"):
        super().__init__()
        self.features, self.head = nn.Sequential(*maps), head
        if head:
            self.out = nn.Linear(width, 10) if head == "linear" else nn.Conv2d(width, 10, 1)

    def maps(self, x):
        return self.features(x)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.maps(x), 1)
        if self.head == "conv":
            return self.out(x).view(-1, 10)
        x = torch.flatten(x, 1)
        return self.out(x) if self.head else x


# ------------------------------------------------------------------------------------------ S7
# blocks, three max poolings, field > 44, separable, dilated, global pooling, FC after it, < 1M


@verdict("S7", "PPPPPPPP")
class Textbook(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 16), pool, cbr(16, 24), cbr(24, 24), pool,
            separable(24, 32), cbr(32, 32), pool, dilated(32, 32),
        ), 32, head="conv")  # fmt: skip


@verdict("S7", "PPPPPPPP")
class PoolingsAreFunctions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.conv3 = separable(24, 32)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.fc = nn.Linear(32, 10)

    def maps(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), kernel_size=2, stride=2)
        x = F.max_pool2d(F.relu(self.conv3(x)), (2, 2))
        return F.relu(self.conv4(x))

    def forward(self, x):
        return F.log_softmax(self.fc(self.maps(x).mean([-2, -1])), dim=1)


@verdict("S7", "PPPPPFFP")
class FlattensWholeMaps(PoolingsAreFunctions):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x):
        x = self.maps(x)
        return self.fc(x.view(x.size(0), -1))


@verdict("S7", "FFFFFFFP")
class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def maps(self, x):
        return F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))), 2)

    def forward(self, x):
        x = self.maps(x)
        x = x.view(-1, self.flat(x))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

    def flat(self, x):
        number = 1
        for size in x.size()[1:]:
            number *= size
        return number


@verdict("S7", "FFPPPPPP")
class TwoPoolings(Student):
    """The global pooling alone brings its field over 44, which the assignment allows."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((cbr(3, 16), pool, separable(16, 32), pool, cbr(32, 32, dilation=2)), 32)


@verdict("S7", "PPPPPPPP")
class SqueezesAfterEachPooling(Student):
    def __init__(self):
        maps, width = [], 3
        for block in (cbr(8, 16), dilated(8, 16), separable(8, 16)):
            maps += [cbr(width, 8), block, nn.MaxPool2d(2, 2), nn.Conv2d(16, 8, 1)]
            width = 8
        super().__init__((*maps, cbr(8, 16), cbr(16, 16)), 16)


@verdict("S7", "PPPFPPPP")
class NoSeparable(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, cbr(16, 16, groups=4), pool, dilated(16, 16), pool, cbr(16, 16),
            cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S7", "PPPPFPPP")
class DilatesOnlyOneByOne(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, separable(16, 16), pool, cbr(16, 16, 1, dilation=2),
            cbr(16, 16), pool, cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S7", "PFPPPPPP")
class AStrideForAPooling(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), pool, dilated(16, 16), pool,
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S7", "PPPPPPPP")
class Unpadded(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16, padding=0), pool, cbr(16, 16, padding=0), pool, separable(16, 16),
            dilated(16, 16), pool, cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S7", "PPPPPPPP")
class NormalisedInBetween(Student):
    """Normalisation and activation between the depthwise and the pointwise convolution."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        between = nn.Sequential(
            cbr(16, 16, groups=16), nn.Dropout(0.1), nn.Conv2d(16, 32, 1), nn.ReLU6()
        )
        super().__init__((
            cbr(3, 16), pool, between, pool, dilated(32, 16), pool, cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S7", "PPPFPPPP")
class DepthwiseAlone(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), pool, cbr(16, 16, groups=16), cbr(16, 16), pool, dilated(16, 16), pool,
            cbr(16, 16),
        ), 16)  # fmt: skip


class Shortcut(nn.Module):
    def __init__(self, nin, nout, stride=1, inner=cbr):
        super().__init__()
        self.body = nn.Sequential(inner(nin, nout, stride=stride), cbr(nout, nout))
        same = nin == nout and stride == 1
        self.shortcut = nn.Sequential() if same else nn.Conv2d(nin, nout, 1, stride)

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


@verdict("S7", "PPPFFPPP")
class ResidualBlocks(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            Shortcut(3, 16), pool, Shortcut(16, 24), pool, Shortcut(24, 32), pool,
            Shortcut(32, 32),
        ), 32)  # fmt: skip


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        return x * self.fc(x.mean((2, 3))).view(b, c, 1, 1)


@verdict("S7", "PPPPPPPP")
class Gated(Student):
    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), Squeeze(16), pool, separable(16, 16), Squeeze(16), pool, dilated(16, 16),
            pool, cbr(16, 16), Squeeze(16),
        ), 16)  # fmt: skip


@verdict("S7", "PPPFFPFP")
class LoopsAndBranches(nn.Module):
    """A forward that loops, branches on values and calls a module that is not registered."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([cbr(3, 8), cbr(8, 16), cbr(16, 16), cbr(16, 16)])
        self.last = [nn.Conv2d(16, 10, 1)]

    def maps(self, x):
        for number in range(int(x.size(1) * 4 / 3)):
            x = self.blocks[number](x)
            if number < 3 and not float(x.abs().sum()) < 0:
                x = torch.max_pool2d(x, 2)
        return self.last[0](x)

    def forward(self, x):
        x = self.maps(x)
        assert x.shape[1] == 10
        return x.mean(-1).mean(-1)


@verdict("S7", "PPPFFFPP")
class LargestOfEachMap(Student):
    """A global maximum is no global average."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        maps = (cbr(3, 16), pool, cbr(16, 16), pool, cbr(16, 16), pool, cbr(16, 16), cbr(16, 16))
        super().__init__(maps, 16)

    def forward(self, x):
        return self.out(F.adaptive_max_pool2d(self.maps(x), 1).flatten(1))


# ------------------------------------------------------------------------------------------ S9
# blocks, no pooling, 3x3 of stride 2 or dilated, field > 44, separable, dilated, global pooling,
# < 200,000; shrinks by a dilated kernel, two separable, FC after the pooling


@verdict("S9", "PPPPPPPP FFF")
class StridedLast(Student):
    """The last convolution of a block is the strided one."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), cbr(16, 16, stride=2),
            dilated(16, 16), cbr(16, 16, stride=2), cbr(16, 16), cbr(16, 10),
        ), 10, head="")  # fmt: skip


@verdict("S9", "PPPPPPPP PPP")
class DilatedInPlaceOfAStride(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, dilation=4, padding=0), separable(16, 16),
            cbr(16, 16, dilation=4, padding=0), separable(16, 16), cbr(16, 16, stride=2),
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PPFPPPPP FFP")
class StridedOneByOne(Student):
    def __init__(self):
        step = [cbr(16, 16, 1, stride=2, padding=0) for _ in range(3)]
        super().__init__((
            cbr(3, 16), cbr(16, 16), step[0], separable(16, 16), step[1], dilated(16, 16), step[2],
            cbr(16, 16), cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PPFPPPPP FPP")
class StridedTwoByTwo(Student):
    def __init__(self):
        step = [cbr(16, 16, 2, stride=2, padding=0) for _ in range(3)]
        super().__init__((
            cbr(3, 16), step[0], separable(16, 16), step[1], separable(16, 16), dilated(16, 16),
            step[2], cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PFFPPPPP FFP")
class AveragePoolings(Student):
    def __init__(self):
        pool = nn.AvgPool2d(2)
        super().__init__((
            cbr(3, 16), pool, separable(16, 16), pool, dilated(16, 16), pool, cbr(16, 16),
            cbr(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PPPPPPPP FFP")
class DownToOnePixel(Student):
    """Its global pooling is one of maps of 1x1."""

    def __init__(self):
        super().__init__((
            separable(3, 16), cbr(16, 16, stride=2), dilated(16, 16), cbr(16, 16, stride=2),
            cbr(16, 16, stride=2), cbr(16, 16, stride=2), cbr(16, 16, 2, padding=0),
        ), 16)  # fmt: skip


@verdict("S9", "FFPPPPFP FFF")
class PoolsAllButTheBorder(Student):
    """An average pooling of 5x5 on maps of 6x6 leaves one value, but is not global."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, stride=2), separable(16, 16), cbr(16, 16, stride=2),
            dilated(16, 16), cbr(16, 16), cbr(16, 16, padding=0), cbr(16, 16), cbr(16, 10),
            cbr(10, 10, 1), nn.AvgPool2d(5),
        ), 10)  # fmt: skip

    def forward(self, x):
        return self.maps(x).view(-1, 10)


@verdict("S9", "PPPPPPPF FPP")
class TooLarge(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 64), cbr(64, 64, stride=2), separable(64, 64), separable(64, 96, stride=2),
            dilated(96, 128), cbr(128, 128, stride=2), cbr(128, 128),
        ), 128)  # fmt: skip


@verdict("S9", "FPPPPPPP FFP")
class TwoStrides(Student):
    """Three blocks, in any reading."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 16, 5, stride=2), separable(16, 16), cbr(16, 16, 5, stride=2),
            dilated(16, 16), dilated(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PPPPPPPP FFP")
class SqueezesEndBlocks(Student):
    """Two strides and a 1x1 convolution part four blocks."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), cbr(16, 24), nn.Conv2d(24, 16, 1), cbr(16, 16), cbr(16, 16, stride=2),
            separable(16, 16), cbr(16, 16, stride=2), dilated(16, 16), dilated(16, 16),
        ), 16)  # fmt: skip


@verdict("S9", "PPPPFFPP FFF")
class PlainFunctions(nn.Module):
    """Weights of its own, and functions instead of modules."""

    def __init__(self):
        super().__init__()
        shapes = [(16, 3), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16), (10, 16)]
        self.weights = nn.ParameterList(torch.randn(*shape, 3, 3) / 9 for shape in shapes)

    def maps(self, x):
        for i, weight in enumerate(self.weights):
            x = F.conv2d(x, weight, stride=2 if i in (1, 3, 5) else 1, padding=1)
            x = F.relu(x) if i < 7 else x
        return x

    def forward(self, x):
        x = self.maps(x)
        return F.avg_pool2d(x, x.shape[2:])[..., 0, 0]


# ----------------------------------------------------------------------------------------- S10
# as S9 up to < 200,000 parameters; then FC after the pooling


@verdict("S10", "PPPPFFPPP")
class StridedResidual(Student):
    """Strides in 3x3 convolutions; those of the 1x1 shortcuts are no transitions of their own."""

    def __init__(self):
        super().__init__((
            cbr(3, 16), Shortcut(16, 16), Shortcut(16, 24, 2), Shortcut(24, 32, 2),
            Shortcut(32, 32, 2),
        ), 32)  # fmt: skip


@verdict("S10", "PFFPFFFPP")
class PooledResidual(Student):
    """Convolution, pooling, residual; at the end the largest value of each map."""

    def __init__(self):
        pool = nn.MaxPool2d(2)
        super().__init__((
            cbr(3, 16), cbr(16, 24), pool, Shortcut(24, 24), cbr(24, 32), pool, cbr(32, 32), pool,
            Shortcut(32, 32),
        ), 32)  # fmt: skip

    def forward(self, x):
        return self.out(torch.amax(self.maps(x), dim=(2, 3)))


class Dense(nn.Module):
    def __init__(self, width, growth):
        super().__init__()
        self.a, self.b = cbr(width, growth), cbr(width + growth, growth)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], 1)
        return torch.cat((x, self.b(x)), dim=1)


@verdict("S10", "PPPPPPPPP")
class Concatenates(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 16), Dense(16, 8), cbr(32, 16, stride=2), Dense(16, 8), separable(32, 16),
            cbr(16, 16, stride=2), Dense(16, 8), dilated(32, 16), cbr(16, 16, stride=2),
            cbr(16, 16),
        ), 16, head="conv")  # fmt: skip


@verdict("S10", "PFFPFFPPP")
class ConcatenatesToTheEnd(Student):
    """The channels that are pooled see differently far."""

    def __init__(self):
        pool = nn.AvgPool2d(2)
        super().__init__((
            cbr(3, 16), Dense(16, 8), pool, Dense(32, 8), cbr(48, 16, 1), pool, Dense(16, 8),
            pool, Dense(32, 8),
        ), 48)  # fmt: skip


@verdict("S10", "PPPPPPPPF")
class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(cbr(3, 8, 5), cbr(8, 8, 5, stride=2))
        self.right = nn.Sequential(cbr(3, 8), cbr(8, 8, stride=2))
        self.rest = nn.Sequential(
            separable(16, 16), cbr(16, 16, stride=2), dilated(16, 16), cbr(16, 16, stride=2),
            cbr(16, 10),
        )  # fmt: skip

    def maps(self, x):
        return self.rest(torch.cat((self.left(x), self.right(x)), 1))

    def forward(self, x):
        return self.maps(x).flatten(2).mean(-1)


# ------------------------------------------------------------------------------ ResNet18_GradCAM
# no max pooling, a 1x1 transition, a dilated one that shrinks, a strided one, six separable,
# < 100,000 parameters


def mobile(nin, nout, stride=1):
    return nn.Sequential(cbr(nin, nin, groups=nin, stride=stride), cbr(nin, nout, 1))


@verdict("ResNet18_GradCAM", "PPPPPP")
class AllTransitions(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 32), mobile(32, 32), mobile(32, 48), nn.Conv2d(48, 24, 1), mobile(24, 32),
            mobile(32, 48), cbr(48, 32, dilation=4, padding=0), mobile(32, 48), mobile(48, 48),
            cbr(48, 48, stride=2), mobile(48, 64),
        ), 64)  # fmt: skip


@verdict("ResNet18_GradCAM", "FPPFPP")
class PoolsInTheEnd(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 32), mobile(32, 32), mobile(32, 48), nn.Conv2d(48, 24, 1), mobile(24, 32),
            mobile(32, 48), cbr(48, 32, dilation=4, padding=0), mobile(32, 48), mobile(48, 48),
            nn.MaxPool2d(2), mobile(48, 64),
        ), 64)  # fmt: skip


@verdict("ResNet18_GradCAM", "PFFPFF")
class TypicalResNet(Student):
    """Its 1x1 shortcuts are no transition."""

    def __init__(self):
        super().__init__((
            cbr(3, 32), Shortcut(32, 32), Shortcut(32, 48, 2), Shortcut(48, 64, 2),
        ), 64)  # fmt: skip


@verdict("ResNet18_GradCAM", "PPFPFP")
class DilatedButPadded(Student):
    def __init__(self):
        super().__init__((
            cbr(3, 32), *(mobile(32, 32) for _ in range(5)), nn.Conv2d(32, 24, 1), dilated(24, 32),
            cbr(32, 32, stride=2),
        ), 32)  # fmt: skip
