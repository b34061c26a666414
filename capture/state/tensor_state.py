"""State of a tensor: bits, geometry, gradient, flags and hooks, saved and restored without autograd noticing.

Bits are kept as the bytes of storages, once for all tensors that share one, so that views and tied weights are kept.
They are compared and written through a separate tensor with its own version counter: unchanged bits are not written,
and tensors that training has saved for a backward stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convscope._devices import free_to_look

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PARTS: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def dense_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The dense tensors that hold a tensor's bits: its shard if sharded, its indices and values if sparse."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from dense_parts(getattr(tensor, name))
    elif tensor.layout in _PARTS:
        for name in _PARTS[tensor.layout]:
            yield from dense_parts(getattr(tensor, name)())
    elif tensor.layout == torch.strided and tensor.device.type != "meta":
        yield tensor


class Bits:
    """A copy of a storage's bytes, or of the part of it that one tensor views.

    Args:
        tensor: A dense tensor; a small view of a large storage keeps its own part only.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.storage = tensor.untyped_storage()
        self._nbytes = self.storage.nbytes()
        self._live = _window(tensor, self.storage)
        try:
            self._saved = self._live.clone()
        except torch.OutOfMemoryError:  # on the device: main memory is slower, but larger
            self._saved = self._live.cpu()

    @staticmethod
    def key(tensor: torch.Tensor) -> tuple[Any, ...]:
        """Key that is equal for tensors that need only one copy."""
        storage = tensor.untyped_storage()
        return (storage._cdata, *(_place(tensor) if _is_small_part(tensor, storage) else ()))

    def differs(self) -> torch.Tensor | bool:
        """Return whether any bit is another one; as a scalar on the tensor's device where looking would wait for it."""
        if self.storage.nbytes() != self._nbytes:
            self.storage.resize_(self._nbytes)
        live = self._live.to(self._saved.device)
        if free_to_look(live):
            return not torch.equal(live, self._saved)  # stops at the first difference
        return (live != self._saved).any()

    def write_back(self) -> None:
        """Write the bytes back."""
        self._live.copy_(self._saved)


def _window(tensor: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
    width = tensor.element_size()
    if _is_small_part(tensor, storage):
        window = torch.empty(0, dtype=_BITS[width], device=storage.device)
        return window.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[arg-type]
    width = next(w for w in (8, width, 1) if w in _BITS and storage.nbytes() % w == 0)  # wide words compare fastest
    window = torch.empty(0, dtype=_BITS[width], device=storage.device)
    return window.set_(storage, 0, (storage.nbytes() // width,), (1,))  # type: ignore[arg-type]


def _is_small_part(tensor: torch.Tensor, storage: torch.UntypedStorage) -> bool:
    width = tensor.element_size()
    return width in _BITS and not tensor.is_quantized and tensor.numel() * width < storage.nbytes()


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.size()), tuple(tensor.stride()), tensor.storage_offset(), tensor.element_size()


class TensorState:
    """All of a tensor except its bits."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self._kind = type(tensor)
        self._leaf, self._requires_grad = tensor.is_leaf, tensor.requires_grad
        self.grad = tensor.grad if self._leaf else None
        self.hooks = [(name, getattr(tensor, name)) for name in _HOOKS if self._leaf]
        self._version = None if tensor.is_inference() else tensor._version
        self._inner = [(name, getattr(tensor, name)) for name in _inner_names(tensor)]
        self._alias = None if self._inner else tensor.data
        self._geometry = _geometry(tensor)

    def restore(self) -> None:
        """Restore type, geometry, flags, gradient and hooks; bits and version follow."""
        tensor = self.tensor
        if type(tensor) is not self._kind:  # an uninitialised parameter becomes a plain one
            tensor.__class__ = self._kind
        if self._leaf and not tensor.is_leaf:
            tensor.detach_()
        for name, inner in self._inner:
            if getattr(tensor, name) is not inner:
                setattr(tensor, name, inner)
        if self._alias is not None and _geometry(tensor) != self._geometry:
            tensor.data = self._alias
        if self._leaf:
            self._restore_autograd(tensor)

    def _restore_autograd(self, tensor: torch.Tensor) -> None:
        if tensor.requires_grad != self._requires_grad:
            tensor.requires_grad_(self._requires_grad)
        if tensor.grad is not self.grad:
            tensor.grad = self.grad
        for name, hooks in self.hooks:
            if getattr(tensor, name) is not hooks:
                setattr(tensor, name, hooks)

    def restore_version(self) -> None:
        """Restore the version counter: the bits are those of that version."""
        if self._version is not None and self.tensor._version != self._version:
            tensors: Any = (self.tensor,)
            torch._C._autograd._unsafe_set_version_counter(tensors, (self._version,))  # type: ignore[attr-defined]


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _inner_names(tensor: torch.Tensor) -> list[str]:
    return list(tensor.__tensor_flatten__()[0]) if is_traceable_wrapper_subclass(tensor) else []


def _geometry(tensor: torch.Tensor) -> Any:
    parts = [(part.untyped_storage()._cdata, *_place(part), part.dtype) for part in dense_parts(tensor)]
    return tuple(tensor.size()), tensor.dtype, tensor.device, parts


def needs_stand_in(value: Any) -> bool:
    """Return whether a tensor cannot be restored: one of inference mode, or of training's own graph."""
    return isinstance(value, torch.Tensor) and (value.is_inference() or value.grad_fn is not None)


def stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """A plain tensor of the same values that a pass may read, write and take gradients through."""
    copy = tensor.detach().clone()
    if not isinstance(tensor, torch.nn.Parameter):
        return copy
    return torch.nn.Parameter(copy, tensor.requires_grad)
