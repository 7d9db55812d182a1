"""The layers as they run, held against what really reaches an output: pixel by pixel."""

import bisect
import functools

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.anatomy.receptive_field import receptive_field
from tests import students
from tests.students import STUDENTS
from tracing.layers import NotUnderstoodError, layers

SIZE = 48


def field_by_contamination(model: nn.Module, size: int) -> tuple[int, int] | None:
    """Height and width of what one output sees, at the most: the input pixels whose NaN reaches it.

    NaN goes through every sum, product and maximum, whatever the weights, so that no path can
    cancel another. Outputs around the middle are asked, many in a row, as not all may see equally
    much. None where the border of the image cuts off what the middle sees.
    """
    model.eval()
    sides = []
    for axis in (2, 3):
        images = torch.rand(size, 3, size, size)
        for i in range(size):
            images[i].select(axis - 1, i).fill_(torch.nan)
        with torch.no_grad():
            reached = model(images).isnan().any(dim=1)  # (size, H, W)
        across = reached.any(dim=2 if axis == 2 else 1)
        middle = across.shape[1] // 2
        widths = []
        for position in range(max(0, middle - 16), min(middle + 16, across.shape[1])):
            [pixels] = across[:, position].nonzero(as_tuple=True)
            if len(pixels) and (pixels[0] == 0 or pixels[-1] == size - 1):
                if middle - 4 <= position < middle + 4:
                    return None
            elif len(pixels):
                widths.append(int(pixels[-1] - pixels[0]) + 1)
        sides.append(max(widths))
    return tuple(sides)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Sum(nn.Module):
    """Branches that are added up, or put side by side and mixed."""

    def __init__(self, *branches, concatenate=False):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.mix = nn.Conv2d(4 * len(branches), 4, 1) if concatenate else None

    def forward(self, x):
        maps = [branch(x) for branch in self.branches]
        smallest = [min(m.shape[i] for m in maps) for i in (2, 3)]
        maps = [m[:, :, : smallest[0], : smallest[1]] for m in maps]
        return self.mix(torch.cat(maps, 1)) if self.mix else functools.reduce(torch.add, maps)


def conv(kernel=3, **options):
    return nn.Conv2d(4, 4, kernel, **options)


def space_to_depth(x):
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def depth_to_space(x):
    n, c, h, w = x.shape
    x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, 2 * h, 2 * w).repeat(1, 4, 1, 1)


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)


BLOCKS = {
    "3x3": lambda: conv(padding=1),
    "5x5 unpadded": lambda: conv(5),
    "even kernel": lambda: conv(2),
    "7x1": lambda: conv((7, 1), padding=(3, 0)),
    "1x5": lambda: conv((1, 5)),
    "strided": lambda: conv(stride=2, padding=1),
    "strided 1x1": lambda: conv(1, stride=2),
    "strided in one direction": lambda: conv(stride=(1, 2)),
    "dilated": lambda: conv(dilation=3, padding=3),
    "same": lambda: conv(5, padding="same"),
    "same, even": lambda: conv(4, padding="same"),
    "depthwise": lambda: conv(padding=1, groups=4),
    "grouped": lambda: conv(padding=1, groups=2),
    "reflected": lambda: conv(padding=2, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 2, stride=2),
    "transposed, overlapping": lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
    "max pooling": lambda: nn.MaxPool2d(2),
    "overlapping pooling": lambda: nn.MaxPool2d(3, 2, 1),
    "pooling that rounds up": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "average pooling": lambda: nn.AvgPool2d(3, 2),
    "max pooling, a function": lambda: Apply(lambda x: F.max_pool2d(x, 2)),
    "average pooling, a function": lambda: Apply(lambda x: F.avg_pool2d(x, kernel_size=2)),
    "power pooling": lambda: nn.LPPool2d(2, 2),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "three halves": lambda: nn.Upsample(scale_factor=1.5),
    "pixel unshuffle": lambda: nn.Sequential(
        Apply(lambda x: x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]),
        nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1),
    ),
    "pixel shuffle": lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2)),
    "space to depth": lambda: nn.Sequential(Apply(space_to_depth), nn.Conv2d(16, 4, 1)),
    "depth to space": lambda: Apply(depth_to_space),
    "channel shuffle": lambda: nn.Sequential(Apply(shuffle), conv(1)),
    "every second pixel": lambda: Apply(lambda x: x[:, :, ::2, 1::2]),
    "border cut off": lambda: Apply(lambda x: x[:, :, 2:-2, 1:]),
    "padded": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "patches": lambda: nn.Sequential(
        Apply(lambda x: torch.cat([x[:, :2, 1::2, 1::2], x[:, 2:, :-1:2, :-1:2]], 1)), conv(1)
    ),
    "halves": lambda: Apply(lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2)),
    "normalised": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)),
    "residual": lambda: Sum(nn.Identity(), conv(padding=1)),
    "strided residual": lambda: Sum(conv(1, stride=2), conv(stride=2, padding=1)),
    "uneven branches": lambda: Sum(conv(5, padding=2), conv(dilation=2), nn.MaxPool2d(3, 1, 1)),
    "side by side": lambda: Sum(conv(1), conv(7, padding=3), concatenate=True),
}  # fmt: skip


ENLARGING = {
    "transposed", "transposed, overlapping", "nearest", "bilinear", "three halves", "pixel shuffle",
    "depth to space",
}  # fmt: skip


THINNING = {"every second pixel", "patches", "strided 1x1", "strided in one direction"}


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=4))
@example(["transposed", "transposed", "average pooling", "every second pixel"])
@example(["three halves", "three halves", "overlapping pooling"])
def test_field_of_any_network(names):
    assume(sum(name in ENLARGING for name in names) <= 2)  # maps grow fast
    torch.manual_seed(0)
    blocks = [BLOCKS[name]() for name in names]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *blocks)
    found = layers(model, image_size=SIZE)
    _, field = receptive_field(found)
    truth = field_by_contamination(model, SIZE)
    assume(truth)
    enlarged = next((i for i, name in enumerate(names) if name in ENLARGING), len(names))
    if THINNING & set(names[enlarged:]):  # may leave just those places that see least
        assert np.greater_equal(field, truth).all()
    else:
        assert field == truth


@pytest.mark.parametrize("name", BLOCKS)
def test_field_after_a_block_between_two_convolutions(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BLOCKS[name](), conv(3, padding=1))
    _, field = receptive_field(layers(model, image_size=48))
    assert field == field_by_contamination(model, 48)


def field_of_the_centre(maps, size: int) -> tuple[int, int]:
    """Height and width of what the unit in the middle sees: the pixels whose NaN reaches it."""

    def reached(axis: int, pixels: slice) -> bool:
        images = torch.rand(1, 3, size, size)
        images.transpose(2, axis)[:, :, pixels] = torch.nan
        with torch.no_grad():
            out = maps(images)
        return bool(out[0, :, out.shape[2] // 2, out.shape[3] // 2].isnan().any())

    sides = []
    for axis in (2, 3):
        places = range(size)
        first = bisect.bisect_left(places, True, key=lambda i: reached(axis, slice(i + 1)))
        after = bisect.bisect_left(places, True, key=lambda i: not reached(axis, slice(i, None)))
        assert 0 < first < after < size, "the image is too small"
        sides.append(after - first)
    return tuple(sides)


@pytest.mark.parametrize("name", STUDENTS)
def test_field_of_a_students_network(name, monkeypatch):
    torch.manual_seed(0)
    model = STUDENTS[name][1]().eval()
    before, _ = receptive_field(layers(model))
    monkeypatch.setattr(students.Squeeze, "forward", lambda self, x: x)  # which lets all through
    assert before == field_of_the_centre(model.maps, 192)


class Forward(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.forward = lambda x: forward(self, x)


def test_rectangles():
    found = layers(nn.Sequential(nn.Conv2d(3, 4, (7, 1), (2, 1), (3, 0)), nn.MaxPool2d((1, 3))))
    assert [(x.kernel, x.nout, x.jump, x.field) for x in found] == [
        ((7, 1), (16, 32), (2, 1), (7, 1)),
        ((1, 3), (16, 10), (2, 3), (7, 3)),
    ]


def test_strides_count_where_they_leave_a_single_place():
    """As far as published: 435 pixels for ResNet18 as torchvision has it."""
    found = layers(torchvision.models.resnet18(num_classes=10))
    assert [x.jump for x in found if x.name == "conv20"] == [(32, 32)]
    assert receptive_field(found)[0] == (435, 435)
    halvings = [nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(5)]
    narrow = nn.Sequential(*halvings, nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1))
    assert receptive_field(layers(narrow)) == ((127, 127), (127, 127))
    halvings[-1] = nn.MaxPool2d(2)  # which is global: the maps have two places a side
    assert layers(nn.Sequential(*halvings))[-1].jump == (16, 16)


def test_a_gate_is_no_global_pooling_and_does_not_widen_the_field():
    gated = Forward(
        lambda net, x: net.after(net.maps(x) * net.gate(net.maps(x))).mean((2, 3)),
        maps=nn.Conv2d(3, 8, 3), after=nn.Conv2d(8, 10, 3),
        gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()),
    )  # fmt: skip
    found = layers(gated)
    assert [x.name for x in found if x.gate] == ["gap", "conv3"]
    assert [x.gated for x in found if not x.gate] == [False, False, True, True]
    assert receptive_field(found) == ((5, 5), (32, 32))


def test_values_written_into_a_part_of_a_tensor_bring_their_view():
    def interleave(net, x):
        maps = net.wide(x)
        out = maps.new_zeros(len(x), 4, 64, 64)
        out[:, :, ::2, ::2] = maps
        out[:, :, 1::2, 1::2] += maps
        return net.last(out)

    def halves(net, x):
        maps = net.wide(x)
        maps[:, :2] += net.wider(x)[:, :2]
        return net.last(maps)

    modules = {"wide": nn.Conv2d(3, 4, 5, padding=2), "last": nn.Conv2d(4, 4, 1)}
    found = layers(Forward(interleave, **modules))
    assert found[-1].field == (5, 5)
    assert found[-1].jump == (0.5, 0.5)
    assert found[-1].source == "conv1"
    modules["wider"] = nn.Conv2d(3, 4, 9, padding=4)
    assert layers(Forward(halves, **modules))[-1].field == (9, 9)


def test_what_is_not_understood_is_an_error_that_names_it_and_its_line():
    def warped(net, x):
        grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape)
        return net.conv(F.grid_sample(x, grid))  # this line

    network = Forward(warped, conv=nn.Conv2d(3, 4, 3))
    with pytest.raises(NotUnderstoodError, match=r"grid_sampler_2d .*test_layers.py.*this line"):
        layers(network)


def test_a_softmax_over_places_is_not_passed_over():
    network = Forward(lambda net, x: net.conv(x).flatten(2).softmax(-1), conv=nn.Conv2d(3, 4, 3))
    with pytest.raises(NotUnderstoodError, match="softmax"):
        layers(network)


def test_the_network_is_left_as_it_was():
    network = STUDENTS["LoopsAndBranches"][1]()
    network.blocks[0].eval()
    before = {name: v.clone() for name, v in network.state_dict().items()}
    modes, state = [m.training for m in network.modules()], torch.get_rng_state()
    layers(network)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_is_followed_on_the_cpu_in_float32():
    """What the values see is noted there: a network that trains on a GPU is not run on it."""
    seen = []

    class Noted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x):
            seen.append((self, x.dtype, x.device.type, self.conv.weight.dtype))
            return self.conv(x).mean((2, 3))

    model = Noted().double().train()
    assert layers(model)[0].field == (3, 3)
    [(followed, *kinds)] = seen
    assert followed is not model
    assert kinds == [torch.float32, "cpu", torch.float32]
    assert model.training
    assert model.conv.weight.dtype == torch.float64
    assert model.conv.weight.requires_grad


def test_a_parameter_that_a_module_is_given_is_followed():
    class Token(nn.Module):
        """A class token, normalised before it is added to what the image gives."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 10)
            self.token = nn.Parameter(torch.zeros(1, 8))

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)) + self.norm(self.token.expand(len(x), -1)))

    assert [layer.kind for layer in layers(Token())] == ["conv", "gap", "fc"]


@pytest.mark.parametrize(("name", "kind"), [("mean", "gap"), ("amax", "gmp")])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_global_pooling_taken_side_by_side_is_one(name, kind, keepdim):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)

        def forward(self, x):
            for side in (3, 2):
                x = getattr(self.conv(x) if side == 3 else x, name)(side, keepdim=keepdim)
            return self.fc(x.flatten(1))

    found = layers(Pooled())
    assert [layer.kind for layer in found] == ["conv", kind, "fc"]
    assert (found[1].kernel, found[1].nin, found[1].nout) == ((8, 8), (8, 8), (1, 1))
