"""A GPU that is only pretended: its tensors lie in this machine's memory and are computed by its processor, but they
say that they are on `cuda:0`, and no operation takes them together with tensors of the CPU.

What PyTorch refuses on a real GPU is refused here: an operation on both kinds of tensors, save what it allows there
(a tensor of one number beside those of the GPU, the CPU's indices into the GPU's, copies), NumPy's view of a tensor,
and a CPU generator's random numbers made on the GPU. So code can be shown to bring together what it puts together, and
to compute the very numbers that it computes on the CPU, by the same kernels, on a machine without a GPU. What a GPU's
own kernels compute is not shown, nor what memory or time they need.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda:0")
_CPU = torch.device("cpu")
_aten = torch.ops.aten

# Conjugation and sign as bits of a tensor are resolved above the place where operations are seen here: done at once.
_LAZY = {_aten._conj.default: _aten.conj_physical.default, _aten._neg_view.default: _aten.neg.default}
# Where a GPU's operation takes the CPU's tensors of any shape: copies, and indices into the GPU's.
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default,
            _aten._unsafe_index.Tensor}  # fmt: skip


class MixedDevices(RuntimeError):
    """What PyTorch says of tensors on different devices."""


def _named(device: object) -> bool:
    """Whether that names the pretended GPU."""
    if isinstance(device, str):
        return device.partition(":")[0] == "cuda"
    return isinstance(device, torch.device) and device.type == "cuda"


class OnGpu(Tensor):
    """A tensor on the pretended GPU: `held` is what it holds, a tensor of the CPU. made: how many there have been."""

    held: Tensor
    made: ClassVar[int] = 0

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, layout=held.layout, device=_CPU
        )
        made.held = held
        OnGpu.made += 1
        return made

    def __repr__(self, **_: object) -> str:
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    there = [t for t in tensors if isinstance(t, OnGpu)]
    here = [t for t in tensors if not isinstance(t, OnGpu) and t.ndim > 0]
    if torch._C._current_graph_task_id() >= 0:  # autograd makes its zeros where it believes the tensors to be
        here = [t for t in here if t.any()]
    if not there or not here or func in _COPIES:
        return
    if func in _INDEXED and isinstance(args[0], OnGpu) and all(isinstance(t, OnGpu) or not t.ndim for t in args[2:3]):
        return
    shapes = ", ".join(f"{'cuda:0' if isinstance(t, OnGpu) else 'cpu'} {tuple(t.shape)}" for t in tensors)
    raise MixedDevices(f"{func}: expected all tensors to be on the same device, but found {shapes}")


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """What the CPU computes of what the tensors hold, on the device of the tensors."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [item for item in flat if isinstance(item, Tensor)]
    _refuse_mixed(func, args, tensors)
    wrappers = {id(item.held): item for item in tensors if isinstance(item, OnGpu)}
    held_args, held_kwargs = tree_unflatten([i.held if isinstance(i, OnGpu) else i for i in flat], spec)
    found = _LAZY.get(func, func)(*held_args, **held_kwargs)
    if torch.Tag.inplace_view in func.tags:  # another shape of the tensor itself: of what is held, and of the outside
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    if func is _aten.copy_.default and not isinstance(args[0], OnGpu):
        return args[0]
    return tree_map(lambda r: _wrapped(r, wrappers), found)


def _wrapped(found: Any, wrappers: dict[int, OnGpu]) -> Any:
    """A result on the GPU: the tensor that was given, where the operation wrote into one."""
    if not isinstance(found, Tensor):
        return found
    return wrappers[id(found)] if id(found) in wrappers else OnGpu(found)


_FORBIDDEN = {Tensor.numpy, Tensor.__array__}
_ASKED = {Tensor.device: lambda on_gpu: GPU if on_gpu else _CPU, Tensor.is_cuda: bool, Tensor.is_cpu: lambda on: not on}


def _moved(tensor: Tensor, to_gpu: bool | None, copy: bool) -> Tensor:
    """The tensor on a device (None: on its own)."""
    if to_gpu is None or isinstance(tensor, OnGpu) == to_gpu:
        return tensor.clone() if copy else tensor
    return _Up.apply(tensor) if to_gpu else _Down.apply(tensor)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return OnGpu(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].held.clone() if isinstance(grads[0], OnGpu) else grads[0]


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: OnGpu) -> Tensor:
        return tensor.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return OnGpu(grads[0].clone()) if not isinstance(grads[0], OnGpu) else grads[0]


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    to_gpu, dtype = None, kwargs.get("dtype")
    for given in (*args, kwargs.get("device"), kwargs.get("other")):
        if isinstance(given, Tensor):
            to_gpu, dtype = isinstance(given, OnGpu), given.dtype
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, (str, torch.device)):
            to_gpu = _named(given)
    moved = _moved(tensor, to_gpu, bool(kwargs.get("copy")))
    return moved if dtype is None or moved.dtype == dtype else moved.type_as(_like(moved, dtype))


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    empty = torch.empty(0, dtype=dtype)
    return OnGpu(empty) if isinstance(tensor, OnGpu) else empty


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    """One call of PyTorch's Python functions, of which these ones know about devices."""
    first = args[0] if args else None
    asked = getattr(func, "__self__", None)
    if isinstance(asked, types.GetSetDescriptorType) and asked in _ASKED:
        return _ASKED[asked](isinstance(first, OnGpu))
    if func is Tensor.get_device:
        return 0 if isinstance(first, OnGpu) else -1
    if func in _FORBIDDEN and isinstance(first, OnGpu):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host first")
    with torch._C.DisableTorchFunctionSubclass():
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func is Tensor.cpu or func is Tensor.cuda:
            return _moved(first, func is Tensor.cuda, False)
        if func is torch.nn.functional.one_hot:  # makes what it compares with where it believes the tensor to be
            return OnGpu(func(_held(first), *args[1:], **kwargs)) if isinstance(first, OnGpu) else func(*args, **kwargs)
        if func is Tensor.tolist:
            return _held(first).tolist()
        if func is Tensor.pin_memory:
            return first
        named = kwargs.get("device")
        if named is None or func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        # A factory: on the device that it names, wherever what it is given lies.
        made = func(*tree_map(_held, args), **tree_map(_held, {**kwargs, "device": _CPU}))
        if _named(named) and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return OnGpu(made.detach()).requires_grad_(made.requires_grad) if _named(named) else made


def _held(item: Any) -> Any:
    return item.held if isinstance(item, OnGpu) else item


class _Calls(TorchFunctionMode):
    """Sees the calls that no tensor of the GPU takes part in: factories and copies to it."""

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


@contextlib.contextmanager
def pretended_gpu(monkeypatch: Any, name: str = "Pretended") -> Iterator[None]:
    """One GPU of this name, within the block and its thread."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "device_count", lambda: 1)
        patched.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        patched.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patched.setattr(torch.cuda, "synchronize", lambda *_: None)
        patched.setattr(torch.cuda, "max_memory_allocated", lambda *_: 0)
        patched.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
        patched.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        patched.setattr(torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state))
        patched.setattr(torch.cuda, "mem_get_info", lambda *_: (2**33, 2**33))
        patched.setattr(torch.cuda, "default_generators", [torch.default_generator])
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the object that it is
        try:
            with _Calls():
                yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)
