"""Transforms from torch's arrays to a parameter in Flax's layout, and back: transposes, weight norm, summed biases.

Torch's Linear has its weight as [out, in], Flax's as [in, out]; convolutions differ likewise (see the constants at the
end). All transforms are of numpy arrays.
"""

import dataclasses
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Transform(Protocol):
    """A transform of one array or several to one parameter."""

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of the arrays that make a parameter of this shape."""
        ...

    def apply(self, *arrays: np.ndarray) -> np.ndarray:
        """Makes the parameter of arrays of the shapes that `source_shapes` gives for its shape."""
        ...

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """Makes arrays, of `source_shapes(parameter.shape)`, that `apply` would turn into the parameter."""
        ...


@dataclasses.dataclass(frozen=True)
class Axes:
    """Reorders the axes: axis i of the parameter is axis order[i] of torch's array."""

    order: tuple[int, ...]

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The parameter's shape with its axes in torch's order."""
        return (tuple(shape[axis] for axis in np.argsort(self.order)),)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of torch's array with its axes in Flax's order: [out, in] as [in, out]."""
        return array.transpose(self.order)

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """A view of the parameter with its axes in torch's order: [in, out] as [out, in]."""
        return (parameter.transpose(np.argsort(self.order)),)


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """Identity: embeddings, norms and biases have the same layout in torch and Flax."""

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shape itself."""
        return (shape,)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The array itself, of any shape."""
        return array

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """The parameter itself, of any shape."""
        return (parameter,)


@dataclasses.dataclass(frozen=True)
class WeightNorm:
    """Folds a weight-normed kernel: w = g * v / ||v||, with the norm over all axes of v but its first, then `axes`.

    The first axis counts output channels, or input channels in a transposed convolution. The result is float32,
    computed in float64 and rounded once.
    """

    axes: Axes

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of g, [out, 1, 1], and v, [out, in, k], for a kernel of this shape."""
        (v,) = self.axes.source_shapes(shape)
        return (v[0], *(1 for _ in v[1:])), v

    def apply(self, g: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The float32 kernel [k, in, out] of g [out, 1, 1] and v [out, in, k]."""
        # float64, rounded once: nearer to the exact quotient than torch's own float32 product at each forward pass.
        with np.errstate(divide="ignore", invalid="ignore"):  # a norm of zero gives NaN, as it does in torch
            kernel = g.astype(np.float64) * v / _norm(v)
        return self.axes.apply(kernel.astype(np.float32))

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """The norm [out, 1, 1] of the kernel as g and the kernel [out, in, k] as v, both float32.

        `apply` gives the kernel back, up to float32 rounding.
        """
        (kernel,) = self.axes.invert(parameter)
        norm = _norm(kernel)
        v = np.where(norm == 0, 1, kernel)  # g is 0 there, so v may be anything but 0, which would give 0 / 0
        return norm.astype(np.float32), v.astype(np.float32)


def _norm(v: np.ndarray) -> np.ndarray:
    v = v.astype(np.float64)
    return np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))


@dataclasses.dataclass(frozen=True)
class SummedBiases:
    """Sums the two biases of torch's LSTM, of the input and the hidden state, which its forward pass only adds up."""

    def source_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The bias's shape, twice."""
        return shape, shape

    def apply(self, input_bias: np.ndarray, hidden_bias: np.ndarray) -> np.ndarray:
        """The sum of two biases of shape [4 * hidden], float32, rounded once."""
        return (input_bias.astype(np.float64) + hidden_bias).astype(np.float32)

    def invert(self, parameter: np.ndarray) -> tuple[np.ndarray, ...]:
        """The bias [4 * hidden] as that of the input, and zeros of its shape as that of the hidden state."""
        return parameter, np.zeros_like(parameter)


UNCHANGED = Unchanged()
LINEAR = Axes((1, 0))  # [out, in] -> [in, out]
CONV = Axes((2, 1, 0))  # [out, in, k] -> [k, in, out]
TRANSPOSED_CONV = Axes((2, 0, 1))  # [in, out, k] -> [k, in, out]
