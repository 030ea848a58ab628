"""Eight vectors as one value inside numba functions: the part of a matrix state that stays in registers while time goes
by.

A `Rows` value holds ROWS vectors; row r usually belongs to element r of a short run of numbers in a flat array, such as
eight entries of a key. What is promised in `simd` holds here too: what is written is what runs, sums in the order of
the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from .simd import Vector, broadcast, constant_vector, intrinsic, multiply_add, vector_pointer, vector_type

ROWS = 8


def _rows(array: types.Array) -> types.UniTuple:
    return types.UniTuple(Vector(array.dtype), ROWS)


def _build(context: Any, builder: Any, kind: types.UniTuple, row: Callable[[int], Any]) -> Any:
    """The value of numba type `kind` whose row r is row(r)."""
    value = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for r in range(ROWS):
        value = builder.insert_value(value, row(r), r)
    return value


def _entry(context: Any, builder: Any, array: types.Array, value: Any, index: Any, r: int) -> Any:
    """The vector with array[index + r] in every lane."""
    data = context.make_array(array)(context, builder, value).data
    at = builder.add(index, ir.Constant(index.type, r))
    return broadcast(builder, builder.load(builder.gep(data, [at])), vector_type(Vector(array.dtype)))


def _address(context: Any, builder: Any, array: types.Array, value: Any, index: Any, stride: Any, r: int) -> Any:
    at = builder.add(index, builder.mul(stride, ir.Constant(stride.type, r)))
    return vector_pointer(context, builder, array, value, at, vector_type(Vector(array.dtype)))


@intrinsic
def zero_rows(typing_context, array):
    """Rows of zeros that fit `array`."""
    kind = _rows(array)

    def generate(context, builder, signature, arguments):
        zero = constant_vector(vector_type(kind.dtype), 0.0)
        return _build(context, builder, kind, lambda r: zero)

    return kind(array), generate


@intrinsic
def load_rows(typing_context, array, index, stride):
    """Row r is the vector at array[index + r * stride]."""
    kind = _rows(array)

    def generate(context, builder, signature, arguments):
        values, at, apart = arguments

        def row(r: int) -> Any:
            value = builder.load(_address(context, builder, array, values, at, apart, r))
            value.align = array.dtype.bitwidth // 8
            return value

        return _build(context, builder, kind, row)

    return kind(array, types.intp, types.intp), generate


@intrinsic
def store_rows(typing_context, array, index, stride, rows):
    """array[index + r * stride] onwards = row r."""

    def generate(context, builder, signature, arguments):
        values, at, apart, written = arguments
        for r in range(ROWS):
            pointer = _address(context, builder, array, values, at, apart, r)
            builder.store(builder.extract_value(written, r), pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, rows), generate


@intrinsic
def decay_and_write(typing_context, rows, decay, vector, array, index):
    """Row r becomes decay * row r + vector * array[index + r]."""

    def generate(context, builder, signature, arguments):
        old, factor, written, keys, at = arguments

        def row(r: int) -> Any:
            added = builder.fmul(written, _entry(context, builder, array, keys, at, r))
            return multiply_add(builder, factor, builder.extract_value(old, r), added)

        return _build(context, builder, rows, row)

    return rows(rows, decay, vector, array, types.intp), generate


@intrinsic
def read_rows(typing_context, rows, array, index, start):
    """start + sum over r of array[index + r] * row r."""

    def generate(context, builder, signature, arguments):
        state, keys, at, found = arguments
        for r in range(ROWS):
            found = multiply_add(
                builder, _entry(context, builder, array, keys, at, r), builder.extract_value(state, r), found
            )
        return found

    return start(rows, array, types.intp, start), generate


@intrinsic
def add_rows(typing_context, a, b):
    """Row by row, a + b."""

    def generate(context, builder, signature, arguments):
        left, right = arguments
        return _build(
            context,
            builder,
            a,
            lambda r: builder.fadd(builder.extract_value(left, r), builder.extract_value(right, r)),
        )

    return a(a, b), generate


@intrinsic
def dot_rows(typing_context, a, b):
    """The vector sum over r of a's row r times b's row r."""

    def generate(context, builder, signature, arguments):
        left, right = arguments
        found = builder.fmul(builder.extract_value(left, 0), builder.extract_value(right, 0))
        for r in range(1, ROWS):
            found = multiply_add(builder, builder.extract_value(left, r), builder.extract_value(right, r), found)
        return found

    return a.dtype(a, b), generate
