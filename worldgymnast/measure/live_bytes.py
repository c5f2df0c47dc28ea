"""Bytes of tensors that are alive, counted on real tensors or on fake ones, which have shapes and no contents.

Fake tensors lie on the CPU whatever device is planned. Where CUDA computes in other dtypes, `AsOnCuda` follows it.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from worldgymnast.precision import as_on
from worldgymnast.rl.offload import tensors_in

_M = TypeVar("_M")

_OF_VIEWS = (
    "_unsafe_view.default", "alias.default", "detach.default", "expand.default", "permute.default", "select.int",
    "slice.Tensor", "split.Tensor", "t.default", "transpose.int", "unbind.int", "unsqueeze.default", "view.default",
    "view_as_complex.default", "view_as_real.default",
)  # fmt: skip
_OF_NEW = (
    "_softmax.default", "_to_copy.default", "add.Tensor", "addmm.default", "bmm.default", "cat.default",
    "clone.default", "convolution.default", "convolution_backward.default", "cos.default", "div.Tensor", "exp.default",
    "gelu.default", "gelu_backward.default", "mean.dim", "mm.default", "mul.Scalar", "mul.Tensor",
    "native_layer_norm.default", "native_layer_norm_backward.default", "neg.default", "pow.Tensor_Scalar",
    "relu.default", "rsqrt.default", "silu.default", "silu_backward.default", "sin.default", "sub.Tensor",
    "sum.dim_IntList", "threshold_backward.default", "where.self",
)  # fmt: skip


def _operations(names: Sequence[str]) -> frozenset[Any]:
    return frozenset(getattr(getattr(torch.ops.aten, name), kind) for name, kind in (each.split(".") for each in names))


_VIEWS = _operations(_OF_VIEWS)
"""Operations that return views."""
_NEW = _operations(_OF_NEW)
"""Most others of a network. They return new tensors, whose shapes follow from the shapes of the arguments."""
_RESULTS: dict[Any, tuple[tuple[Any, ...], ...]] = {}
"""Shapes, strides and dtypes that operations of `_NEW` returned, by operation and `_key` of the arguments."""
_MOST_RESULTS = 20_000


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are alive, and their peak.

    Attributes:
        live: now.
        peak: the most so far.

    >>> with LiveBytes() as memory:
    ...     a = torch.zeros(1000)
    ...     b = a + 1
    ...     del a
    ...     c = b[:10]
    >>> memory.peak, memory.live
    (8000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages of its results that are not those of its arguments."""
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):  # half of all calls
            return torch.device("meta") if args[0].fake_mode.in_kernel_invocation else args[0].fake_device
        self._add(args, is_counted=False)
        result = _run(func, args, kwargs or {})
        self._add(result, is_counted=True)
        return result

    def _add(self, tensors: Any, *, is_counted: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                self._know(storage, storage.nbytes() if is_counted else 0)

    def _know(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation; a usual one on fake tensors without torch's records of it, which take longer than it does."""
    if func in _NEW:
        return _run_new(func, args, kwargs)
    if func not in _VIEWS:
        return func(*args, **kwargs)
    tensors = [each for each in args if isinstance(each, Tensor)]
    fake = [each for each in tensors if isinstance(each, FakeTensor) and each.constant is None]
    if not fake or len(fake) < len(tensors):
        return func(*args, **kwargs)
    mode, device = fake[0].fake_mode, fake[0].fake_device
    with in_kernel_invocation_manager(mode):
        result = func(*args, **kwargs)
    if isinstance(result, Tensor):
        return FakeTensor(mode, result, device)
    return [FakeTensor(mode, each, device) for each in result]


def _run_new(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation of `_NEW`; on fake tensors of the same shapes as in an earlier call, only make its results."""
    fake: list[FakeTensor] = []
    key = (func, _key(args, fake), _key(list(kwargs.items()), fake))
    if not fake or any(each.constant is not None for each in fake) or kwargs.get("device") is not None:
        return func(*args, **kwargs)
    if (known := _RESULTS.get(key)) is None:
        result = func(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        if all(isinstance(each, FakeTensor) and each.constant is None for each in results):
            if len(_RESULTS) >= _MOST_RESULTS:
                _RESULTS.clear()
            _RESULTS[key] = tuple((tuple(each.shape), each.stride(), each.dtype) for each in results)
        return result
    mode, device = fake[0].fake_mode, fake[0].fake_device
    with in_kernel_invocation_manager(mode):
        made = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in known]
    results = [FakeTensor(mode, each, device) for each in made]
    return tuple(results) if len(results) > 1 else results[0]


def _key(value: Any, fake: list[FakeTensor]) -> Any:
    """What decides the shape of a result: a tensor's shape, strides and dtype, and other values; collects the fakes."""
    if isinstance(value, Tensor):
        if isinstance(value, FakeTensor):
            fake.append(value)
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(_key(each, fake) for each in value)
    return type(value), value


_FLOAT32 = (
    "acos", "asin", "cdist", "cosh", "cosine_similarity", "cumprod", "cumsum", "dist", "exp", "expm1", "group_norm",
    "huber_loss", "kl_div", "l1_loss", "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "logsumexp",
    "mse_loss", "nll_loss", "norm", "pow", "prod", "reciprocal", "renorm", "rsqrt", "sinh", "smooth_l1_loss", "softmax",
    "softplus", "sum", "tan",
)  # fmt: skip
"""Operations that CUDA's autocast computes in float32 and the CPU's does not (torch, autocast_mode.h)."""
_IN_FLOAT32 = {getattr(place, name) for name in _FLOAT32 for place in (torch, F, torch.Tensor) if hasattr(place, name)}


class AsOnCuda(TorchFunctionMode):
    """Computes under the CPU's autocast in the dtypes of CUDA's.

    >>> with AsOnCuda(), torch.autocast("cpu", torch.bfloat16):
    ...     F.layer_norm(torch.ones(2, 4, dtype=torch.bfloat16), (4,)).dtype
    torch.float32
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, on float32 where CUDA's autocast would."""
        kwargs = kwargs or {}
        if func in _IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


class _Readable(TorchFunctionMode):
    """Makes numbers that are read from fake tensors, for a log or a verdict, 0, and conditions, as in checks, true."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.tolist) and isinstance(args[0], FakeTensor):
            return np.zeros(args[0].shape).tolist()
        if func is torch.Tensor.numpy and isinstance(args[0], FakeTensor):
            return torch.zeros(args[0].shape, dtype=args[0].dtype).numpy()
        if func is torch.Tensor.__bool__ and isinstance(args[0], FakeTensor):
            return True
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(kind: str = "cpu") -> Iterator[LiveBytes]:
    """Count the bytes of operations, with the dtypes of another kind of device.

    Args:
        kind: type of the device, "cpu" or "cuda".
    """
    with as_on(kind), _Readable():
        if kind == "cuda":
            with AsOnCuda(), LiveBytes() as memory:
                yield memory
        else:
            with LiveBytes() as memory:
                yield memory


def fake_copy(component: _M) -> _M:
    """Copy of a component whose tensors have shapes but no contents; so have the results of its operations."""
    memo: dict[int, Any] = {}
    with fake_tensors():
        for tensor in tensors_in(component):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(component, memo)


def fake_tensors() -> FakeTensorMode:
    """Context in which new tensors are fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of the numbers of a tensor.

    >>> tensor_bytes(torch.zeros(2, 3))
    24
    """
    return tensor.numel() * tensor.element_size()
