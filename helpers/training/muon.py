"""Muon: SGD with steps in which all directions of a kernel count alike (K. Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon, where the coefficients are from. PyTorch's own takes
matrices alone, no kernels of convolutions.
"""

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
CLASSES = 10
TURN = 0.25  # so that a learning rate which suits SGD suits Muon too


class Muon(torch.optim.SGD):
    """SGD with momentum, whose steps are orthogonal for the kernels, (out, in, ...), of group 0.

    The averaged gradient of a kernel, a matrix of `out` rows, gives way to the nearest one with
    orthonormal rows or columns. The step in its direction is as long as the kernel times `TURN` and
    the learning rate; then the kernel gets back its length, which means nothing where normalisation
    follows. Depthwise kernels, with one input channel, and weights of ten rows, which give the ten
    classes, are left to SGD. Weight decay is for what SGD steps.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step, after which the kernels have no gradients."""
        group = self.param_groups[0]
        for kernel in group["params"]:
            if kernel.grad is None or kernel.shape[1] == 1 or len(kernel) == CLASSES:
                continue
            average = self.state[kernel].setdefault("momentum_buffer", torch.zeros_like(kernel))
            average.lerp_(kernel.grad, 1 - group["momentum"])
            ahead = kernel.grad.lerp(average, group["momentum"])  # as Nesterov does
            way = unit(orthogonal(ahead.flatten(1))).view_as(kernel)
            length = kernel.norm().clamp(min=1e-3)  # a kernel of zeros must learn too
            turned = unit(kernel / length - TURN * group["lr"] * way)
            kernel.copy_(length * turned)
            kernel.grad = None  # so that SGD leaves it alone
        super().step()


def unit(tensor: Tensor) -> Tensor:
    """The tensor divided by its length, the root of the sum of its squares."""
    return tensor / tensor.norm().clamp(min=1e-7)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the nearest matrix of orthonormal rows, or columns: Newton and Schulz's iteration."""
    wide = unit(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
