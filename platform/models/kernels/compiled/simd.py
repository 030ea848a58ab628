"""Vectors of 64 bytes for numba functions: 16 float32 or 8 float64 that are loaded, combined and stored together.

Why it exists: numba compiles `exp` in a loop to one library call per number, and its loops over several arrays are
seldom vectorised because the arrays might overlap. With a vector as a value of the language both questions disappear:
what is written is what runs, in this order, on every machine (LLVM splits the vectors where the registers are shorter).

Promises: no operation reorders a sum, except `total`, which adds the lanes pairwise, always in the same way; `exp` is
within 2 units in the last place, 0 below the normal range, infinite above it, and keeps NaN. Indices are not checked.
Importing this file imports numba; only the numba backends do.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, inf, log
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

VECTOR_BYTES = 64


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's decorator, typed loosely: a type checker would take the typing context for an argument of the call."""
    return _intrinsic(function)


class Vector(types.Type):
    """The numba type of a vector with elements of the numba type `element` (float32 or float64)."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        self.lanes = VECTOR_BYTES * 8 // element.bitwidth
        super().__init__(name=f"Vector({element} x {self.lanes})")


def _element(element: types.Float) -> ir.Type:
    return ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()


def vector_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_element(vector.element), vector.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is passed and kept as one LLVM vector value."""

    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, vector_type(fe_type))


def constant_vector(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)


def vector_pointer(context: Any, builder: Any, array: types.Array, value: Any, index: Any, kind: ir.VectorType) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, fused where the processor does that at full speed."""
    kind = a.type
    name = f"llvm.fmuladd.v{kind.count}f{32 if kind.element == ir.FloatType() else 64}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def broadcast(builder: Any, number: Any, kind: ir.VectorType) -> Any:
    """The vector with one number in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(builder.insert_element(undefined, number, ir.IntType(32)(0)), undefined, mask)


@intrinsic
def load(typing_context, array, index):
    """The vector at array[index : index + lanes] of a flat array."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        values, at = arguments
        pointer = vector_pointer(context, builder, array, values, at, vector_type(vector))
        value = builder.load(pointer)
        value.align = array.dtype.bitwidth // 8
        return value

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, vector):
    """array[index : index + lanes] = vector, for a flat array."""

    def generate(context, builder, signature, arguments):
        values, at, written = arguments
        pointer = vector_pointer(context, builder, array, values, at, vector_type(vector))
        builder.store(written, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(typing_context, array, index):
    """The vector with array[index] in every lane, for a flat array."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return broadcast(builder, builder.load(builder.gep(data, [arguments[1]])), vector_type(vector))

    return vector(array, types.intp), generate


@intrinsic
def zero(typing_context, array):
    """The vector of zeros that fits `array`."""
    vector = Vector(array.dtype)
    return vector(array), lambda context, builder, signature, arguments: constant_vector(vector_type(vector), 0.0)


@intrinsic
def mul(typing_context, a, b):
    """a * b"""
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(typing_context, a, b):
    """a + b"""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c"""
    return a(a, b, c), lambda context, builder, signature, arguments: multiply_add(builder, *arguments)


@intrinsic
def total(typing_context, a):
    """The sum of the lanes, halves onto halves."""

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        undefined = ir.Constant(value.type, ir.Undefined)
        width = value.type.count
        while width > 1:
            width //= 2
            lanes = [lane + width if lane < width else lane for lane in range(value.type.count)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
            value = builder.fadd(value, builder.shuffle_vector(value, undefined, mask))
        return builder.extract_element(value, ir.IntType(32)(0))

    return a.element(a), generate


# exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2, |r| <= ln(2) / 2. ln 2 is subtracted in two parts,
# the first with so few bits that n times it is exact. Coefficients of exp(r), highest power first: Cephes' expf for
# float32, the Taylor series for float64 (its remainder, (ln(2)/2)^14 / 14!, is below 5e-18).
_SINGLE = [
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
    1.0,
    1.0,
]
_DOUBLE = [1.0 / factorial(power) for power in range(13, -1, -1)]
# bits: (coefficients, both parts of ln 2, 1.5 * 2^mantissa bits, mantissa bits, normal range of the argument)
_EXP = {
    32: (_SINGLE, 0.693359375, -2.12194440e-4, 1.5 * 2.0**23, 23, -87.33, 88.37),
    64: (_DOUBLE, 6.93145751953125e-1, 1.42860682030941723212e-6, 1.5 * 2.0**52, 52, -708.39, 709.43),
}


@intrinsic
def exp(typing_context, a):
    """exp of every lane."""
    coefficients, high, low, magic, mantissa, smallest, largest = _EXP[a.element.bitwidth]
    kind = vector_type(a)
    integers = ir.VectorType(ir.IntType(a.element.bitwidth), a.lanes)

    def constant(value: float) -> ir.Constant:
        return constant_vector(kind, value)

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        # Adding 1.5 * 2^mantissa rounds to an integer and leaves that integer in the low bits of the sum.
        shifted = multiply_add(builder, x, constant(1.0 / log(2.0)), constant(magic))
        n = builder.fsub(shifted, constant(magic))
        r = multiply_add(builder, n, constant(-low), multiply_add(builder, n, constant(-high), x))
        p = constant(coefficients[0])
        for coefficient in coefficients[1:]:
            p = multiply_add(builder, p, r, constant(coefficient))
        exponent = builder.shl(
            builder.bitcast(shifted, integers),
            ir.Constant(integers, [ir.IntType(a.element.bitwidth)(mantissa)] * a.lanes),
        )
        scaled = builder.bitcast(builder.add(builder.bitcast(p, integers), exponent), kind)
        # Ordered comparisons: NaN is neither, so it passes with the polynomial's NaN.
        scaled = builder.select(builder.fcmp_ordered("<", x, constant(smallest)), constant(0.0), scaled)
        return builder.select(builder.fcmp_ordered(">", x, constant(largest)), constant(inf), scaled)

    return a(a), generate
