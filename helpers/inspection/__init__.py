"""Inspect any PyTorch model: layers, receptive field, size and cost, activations.

`trace_layers` runs a model once and lists its layers with their receptive fields. The tables and
figures of the notebooks build on that list.

The functions `receptive_field` and `receptive_field_table` share their names with the modules of
this package that define them: `inspection.receptive_field` is the function.
"""

from helpers.inspection.activations import (
    effective_receptive_field,
    get_activations,
    theoretical_receptive_field,
)
from helpers.inspection.fingerprint import execution_order, model_fingerprint
from helpers.inspection.receptive_field_table import (
    format_size,
    layer_path,
    receptive_field,
    receptive_field_of,
    receptive_field_table,
    trace_table,
)
from helpers.inspection.summary import (
    block_cost_percentages,
    count_mult_adds,
    count_parameters,
    layer_cost_percentages,
    torchinfo_text,
    torchsummary_text,
)
from helpers.inspection.tracer import Layer, NotUnderstoodError, Trace, trace, trace_layers

__all__ = [
    "Layer",
    "NotUnderstoodError",
    "Trace",
    "block_cost_percentages",
    "count_mult_adds",
    "count_parameters",
    "effective_receptive_field",
    "execution_order",
    "format_size",
    "get_activations",
    "layer_cost_percentages",
    "layer_path",
    "model_fingerprint",
    "receptive_field",
    "receptive_field_of",
    "receptive_field_table",
    "theoretical_receptive_field",
    "torchinfo_text",
    "torchsummary_text",
    "trace",
    "trace_layers",
    "trace_table",
]
