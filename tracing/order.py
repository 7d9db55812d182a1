"""The order in which the modules of a network are executed."""

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tracing.layers import at_rest


def executed(model: nn.Module) -> list[nn.Module]:
    """The modules in the order in which an image meets them, each once."""
    order = {}
    hook = register_module_forward_pre_hook(lambda module, _: order.setdefault(module))
    try:
        with at_rest(model):
            model(torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device))
    finally:
        hook.remove()
    return list(order)
