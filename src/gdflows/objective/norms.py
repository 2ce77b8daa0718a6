"""Normalisations written in plain operations.

The third derivatives of torch's fused kernels for LayerNorm, BatchNorm (of a batch's own
statistics) and InstanceNorm are wrong: their second backward pass takes the saved mean and
deviation for constants. Of its kernel for weight norm the second derivative is wrong already.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def _standard(x, axes, eps):
    c = x - x.mean(axes, keepdim=True)
    return c * (c.square().mean(axes, keepdim=True) + eps).rsqrt()


def _affine(x, weight, bias, shape):
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """As ``torch.nn.functional.layer_norm``."""
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_standard(input, axes, eps), weight, bias, tuple(normalized_shape))


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """As ``torch.nn.functional.rms_norm``."""
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    out = input * (input.square().mean(axes, keepdim=True) + eps).rsqrt()
    return out if weight is None else out * weight


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1,
    eps=1e-5, cudnn_enabled=True,
):  # fmt: skip
    """As ``torch.nn.functional.batch_norm``, but for the running statistics, left as they are."""
    shape = (1, -1) + (1,) * (input.ndim - 2)
    if training:
        out = _standard(input, (0, *range(2, input.ndim)), eps)
    else:
        out = (input - running_mean.reshape(shape)) * (running_var.reshape(shape) + eps).rsqrt()
    return _affine(out, weight, bias, shape)


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
    momentum=0.1, eps=1e-5, cudnn_enabled=True,
):  # fmt: skip
    """As ``torch.nn.functional.instance_norm``."""
    shape = (1, -1) + (1,) * (input.ndim - 2)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_standard(input, tuple(range(2, input.ndim)), eps), weight, bias, shape)


def weight_norm(v, g, dim=0):
    """As ``torch._weight_norm``: g v/‖v‖, with a norm for each slice along ``dim``."""
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim) if dim != -1 else None
    size = v.square().sum() if axes is None else v.square().sum(axes, keepdim=True)
    return v * (g * size.rsqrt())


PLAIN = {
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
    F.batch_norm: batch_norm,
    torch.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    torch.instance_norm: instance_norm,
    torch._weight_norm: weight_norm,
}


class PlainNorms(TorchFunctionMode):
    """Inside, normalisations are evaluated by plain operations."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return PLAIN.get(func, func)(*args, **(kwargs or {}))
