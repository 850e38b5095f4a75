"""How arrays of torch become a parameter in Flax's layout, and back.

A transform takes one array or several (`apply`), says which shapes it takes for a parameter's (`source_shapes`), and
finds arrays that it would turn into a given parameter (`invert`).
"""

import dataclasses
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Transform(Protocol):
    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]: ...

    def apply(self, *arrays: np.ndarray) -> np.ndarray: ...

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]: ...


@dataclasses.dataclass(frozen=True)
class Axes:
    """Reorders the axes: axis i of the parameter is axis order[i] of torch's array."""

    order: tuple[int, ...]

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (tuple(shape[axis] for axis in np.argsort(self.order)),)

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.order)

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        return (parameter.transpose(np.argsort(self.order)),)


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """Embeddings, norms and biases: alike in both."""

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (shape,)

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        return (parameter,)


@dataclasses.dataclass(frozen=True)
class WeightNorm:
    """Folds a weight-normed kernel: w = g * v / ||v||, with the norm over all axes of v but its first, then `axes`.

    The first axis counts output channels, or input channels in a transposed convolution. The result is float32,
    computed in float64 and rounded once.
    """

    axes: Axes

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        (v,) = self.axes.source_shapes(shape)
        return (v[0], *(1 for _ in v[1:])), v

    def apply(self, g: np.ndarray, v: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # a norm of zero gives NaN, as it does in torch
            kernel = g.astype(np.float64) * v / _norm(v)
        return self.axes.apply(kernel.astype(np.float32))

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """The kernel as v and its norm as g, in float32: one rounding away from the kernel in a half-precision one."""
        (kernel,) = self.axes.invert(parameter)
        norm = _norm(kernel)
        v = np.where(norm == 0, 1, kernel)  # any direction does where g is 0, except none
        return norm.astype(np.float32), v.astype(np.float32)


def _norm(v: np.ndarray) -> np.ndarray:
    v = v.astype(np.float64)
    return np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))


@dataclasses.dataclass(frozen=True)
class SummedBiases:
    """An LSTM's bias, in float32: torch has two, of the input and of the hidden state, and only ever adds them up."""

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return shape, shape

    def apply(self, input_bias: np.ndarray, hidden_bias: np.ndarray) -> np.ndarray:
        return (input_bias.astype(np.float64) + hidden_bias).astype(np.float32)

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        return parameter, np.zeros_like(parameter)


UNCHANGED = Unchanged()
LINEAR = Axes((1, 0))  # [out, in] -> [in, out]
CONV = Axes((2, 1, 0))  # [out, in, k] -> [k, in, out]
TRANSPOSED_CONV = Axes((2, 0, 1))  # [in, out, k] -> [k, in, out]
