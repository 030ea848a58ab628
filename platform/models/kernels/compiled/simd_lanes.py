"""More vector operations, for loops whose lanes are sequences: quotients, roots, choices, silu and softplus.

Where the lanes are the sequences of a batch, a whole network is operations between vectors and numbers and no sum ever
crosses lanes. `add_products` is the matrix product in that layout: eight outputs stay in registers while the inputs
go by, and the weights are read in torch's own order. What `simd` promises holds here too; softplus and silu are within
4 units in the last place of float64 and float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ....core.compiled_loops import compiled
from .simd import (
    Vector,
    add,
    broadcast,
    constant_vector,
    exp,
    fma,
    intrinsic,
    mul,
    multiply_add,
    vector_type,
)
from .simd_rows import ROWS

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "d2989ee4d9b282ae"


@intrinsic
def number(typing_context, array, value):
    """The vector that fits `array` with `value` in every lane."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        scalar = context.cast(builder, arguments[1], value, array.dtype)
        return broadcast(builder, scalar, vector_type(vector))

    return vector(array, value), generate


@intrinsic
def div(typing_context, a, b):
    """a / b"""
    return a(a, b), lambda context, builder, signature, arguments: builder.fdiv(*arguments)


@intrinsic
def root(typing_context, a):
    """The square root."""

    def generate(context, builder, signature, arguments):
        kind = vector_type(a)
        name = f"llvm.sqrt.v{kind.count}f{a.element.bitwidth}"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, arguments)

    return a(a), generate


@intrinsic
def where_greater(typing_context, a, b, then, otherwise):
    """`then` in the lanes where a > b, else `otherwise`; a NaN is not greater."""

    def generate(context, builder, signature, arguments):
        left, right, yes, no = arguments
        return builder.select(builder.fcmp_ordered(">", left, right), yes, no)

    return then(a, b, then, otherwise), generate


@intrinsic
def add_products(typing_context, rows, array, index, stride, vector):
    """Row r becomes row r + array[index + r * stride] * vector."""

    def generate(context, builder, signature, arguments):
        old, values, at, apart, factor = arguments
        data = context.make_array(array)(context, builder, values).data
        result: Any = ir.Constant(context.get_value_type(rows), ir.Undefined)
        for r in range(ROWS):
            place = builder.add(at, builder.mul(apart, ir.Constant(apart.type, r)))
            weight = broadcast(builder, builder.load(builder.gep(data, [place])), vector_type(vector))
            result = builder.insert_value(
                result, multiply_add(builder, weight, factor, builder.extract_value(old, r)), r
            )
        return result

    return rows(rows, array, types.intp, types.intp, vector), generate


@intrinsic
def _atanh_series(typing_context, square):
    """1 + square / 3 + square^2 / 5 + ..., to the last place for square <= 1/9."""
    terms = 9 if square.element.bitwidth == 32 else 18
    kind = vector_type(square)

    def generate(context, builder, signature, arguments):
        found = constant_vector(kind, 1.0 / (2 * terms - 1))
        for term in range(terms - 2, -1, -1):
            found = multiply_add(builder, found, arguments[0], constant_vector(kind, 1.0 / (2 * term + 1)))
        return found

    return square(square), generate


@compiled
def silu(x, like):
    """x / (1 + exp(-x)); `like`: an array with the elements of the vector."""
    return div(x, add(number(like, 1.0), exp(mul(x, number(like, -1.0)))))


@compiled
def softplus(x, like):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), with log1p(t) = 2 atanh(t / (2 + t))."""
    nought = number(like, 0.0)
    minus = mul(x, number(like, -1.0))
    small = exp(where_greater(x, nought, minus, x))
    s = div(small, add(number(like, 2.0), small))
    return fma(mul(number(like, 2.0), s), _atanh_series(mul(s, s)), where_greater(x, nought, x, nought))
