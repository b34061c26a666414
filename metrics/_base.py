"""Base of all metrics: vectors that stay vectors, and states that survive an empty shard."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_max, dim_zero_min, dim_zero_sum
from torchmetrics.utilities.distributed import gather_all_tensors

from convscope._arguments import whole_number
from convscope._devices import WITHOUT_DOUBLE, free_to_look
from convscope.metrics._plot import draw_array, parts_to_draw
from convscope.metrics.functional._precision import as_double, without_graph
from convscope.metrics.functional._remembered import Remembered
from convscope.metrics.functional._validation import check_index, check_index_values, checked_mean

NO_INDEX = -1
"""Stands for a sample's place in the held-out set where a caller gave none."""


def canonical_order(index: Tensor) -> Tensor:
    """Positions that put samples in the order of their index, each once; as they came where none has an index.

    Raises:
        ValueError: if some have an index and some not.
    """
    return _known_order(index)


def _canonical_order(index: Tensor) -> Tensor:
    least, greatest = torch.stack(torch.aminmax(index)).tolist() if len(index) else (NO_INDEX, NO_INDEX)
    if greatest < 0:
        return torch.arange(len(index), device=index.device)
    if least < 0:
        raise ValueError("Some chunks came with an index and some without. Pass `index` in every update or in none.")
    # Stable: of a sample that came twice the first copy is kept, on every rank the same one.
    index, order = index.sort(stable=True)
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    return order[first]


_known_order = Remembered(_canonical_order, most=2)

_WAYS = {dim_zero_sum: ("SUM", 1), dim_zero_max: ("MAX", 1), dim_zero_min: ("MAX", -1)}
"""Operation over ranks, and the sign to take it with, that does what each of torchmetrics' reductions does."""


def _checked_copy(index: Tensor) -> Tensor:
    check_index_values(index)
    return index.to(torch.int64)


_known_copy = Remembered(_checked_copy, most=2)
"""One copy for all metrics of all layers, which are given the same index for a chunk."""

_before_sync: list[Callable[[], None]] = []


@contextmanager
def before_sync(call: Callable[[], None]) -> Iterator[None]:
    """Within the block, ``call()`` comes before every exchange of states between processes; it may raise."""
    _before_sync.append(call)
    try:
        yield
    finally:
        _before_sync.pop()


def announce_sync() -> None:
    """Make the innermost :func:`before_sync` call, if there is one."""
    if _before_sync:
        _before_sync[-1]()


class _Sealed:
    """A result that torchmetrics passes through untouched."""

    def __init__(self, value: Any) -> None:
        self.value = value


class ObservationMetric(Metric):
    """A metric whose result keeps its shape.

    torchmetrics squeezes every one-element tensor of a result to a scalar. The importance of a layer with a
    single filter is a vector of one, so the result travels sealed.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    plot_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of a result that :meth:`plot` draws; by default its single numbers, else its first field."""
    plot_axes: ClassVar[tuple[str, str]] = ("filter", "filter")
    """Names of the rows and columns of a vector or matrix."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sum_shapes: dict[str, tuple[int, ...]] = {}
        self._was_given = False  # data that counts, since the last reset

    def plot(self, val: Any = None, ax: Any = None) -> tuple[Any, Any]:
        """Draw a result, as the ``plot`` of torchmetrics' own metrics does; needs matplotlib.

        Single numbers are points, a vector ``(C,)`` is bars, a matrix a heat-map. Of several results, one per check,
        numbers are lines over time and vectors a heat-map, filters against checks.

        Args:
            val: A result of ``compute`` or ``forward``, or a list of them; None for ``compute()``.
            ax: matplotlib's axes to draw on; None for a new figure.

        Returns:
            Figure and axes; as in torchmetrics the figure is None where single numbers are drawn on given axes.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed.
            ValueError: if several matrices are given: draw them one by one.
        """
        several = isinstance(val, list) or type(val) is tuple
        results = list(val) if several else [self.compute() if val is None else val]
        parts: list[Any] = [parts_to_draw(result, self.plot_fields) for result in results]
        if isinstance(parts[0], dict) or parts[0].dim() == 0:
            drawn: tuple[Any, Any] = self._plot(parts if several else parts[0], ax)
            return drawn
        name = self.plot_fields[0].replace("_", " ") if self.plot_fields else type(self).__name__
        if not several:
            return draw_array(parts[0], name, ax, self.plot_axes)
        if parts[0].dim() > 1:
            raise ValueError(
                f"{type(self).__name__}.plot draws one matrix at a time, got {len(parts)}; give one result"
            )
        return draw_array(torch.stack(parts, dim=1), name, ax, (self.plot_axes[0], "check"))

    def _wrap_compute(self, compute: Callable) -> Callable:
        # torchmetrics' own wrapper must stay around it: it synchronises ranks and caches the result.
        sealed = super()._wrap_compute(lambda: _Sealed(compute()))

        @functools.wraps(compute)
        def unsealed() -> Any:
            return sealed().value

        return unsealed

    def _add_tensor(self, name: str, default: Tensor, way: str = "sum") -> None:
        """A state that begins as ``default``.

        Registered as a list, of which torchmetrics' deep copy costs nothing: that of a tensor is eight operations.
        """
        self.add_state(name, default=[], dist_reduce_fx=way)
        self._defaults[name] = default
        setattr(self, name, default.clone())

    def _add_sums(self, **shapes: tuple[int, ...]) -> None:
        """States that are float64 sums over samples, zero at first, and add up over chunks and ranks."""
        zero = self._zero()
        for name, shape in shapes.items():
            self._add_later_sum(name, shape, zero)
            setattr(self, name, torch.zeros(shape, dtype=torch.float64))

    def _add_later_sum(self, name: str, shape: tuple[int, ...], zero: Tensor | None = None) -> None:
        """A state as of :meth:`_add_sums` that takes no memory yet: one zero, seen as a whole matrix.

        It cannot be written into: what is added first replaces it.
        """
        self.add_state(name, default=[], dist_reduce_fx="sum")  # see `_add_tensor`
        self._sum_shapes[name] = shape
        # The default of a sum is such a zero too: as a copy it would take as much memory as the state.
        self._defaults[name] = (self._zero() if zero is None else zero).expand(shape)
        setattr(self, name, self._defaults[name])

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.device)

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        # Where a device has no float64 the states stay behind: sums there would lose what they are kept for.
        if fn(torch.zeros(())).device.type in WITHOUT_DOUBLE:
            return self
        applied = super()._apply(self._keeping_types(fn), *args, **kwargs)
        zero = self._zero()
        self._defaults |= {name: zero.expand(shape) for name, shape in self._sum_shapes.items()}
        return applied

    def _keeping_types(self, fn: Callable) -> Callable:
        """``fn``, or the part of it that moves a state to a device where it would also change the type of its numbers.

        A module that goes to bfloat16 with all that it holds, as with Lightning's ``precision="bf16-true"``, would take
        the digits from sums. ``set_dtype`` is how torchmetrics is told to do that; whole numbers stay whole.
        """

        def kept(state: Tensor) -> Tensor:
            moved: Tensor = fn(state)
            wanted = moved.dtype == state.dtype or (self._dtype_convert and state.is_floating_point())
            return moved if wanted else state.to(moved.device)

        return kept

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        """Exchange the states: sums in one exchange and extremes in another, whatever their number.

        torchmetrics exchanges each state by itself three times, and gathers all ranks' copies of a matrix before it
        adds them. It still does with a function of the user's own.
        """
        announce_sync()
        if dist_sync_fn is not gather_all_tensors:
            super()._sync_dist(dist_sync_fn, process_group)
            return
        group = process_group or self.process_group
        ways = {name: _WAYS[way] for name, way in self._reductions.items() if way in _WAYS}
        for op in ("SUM", "MAX"):
            self._reduce_together(op, {name: sign for name, (does, sign) in ways.items() if does == op}, group)
        self._gather_lists(group)

    def _gather_lists(self, group: Any) -> None:
        """Exchange states that are lists; there are none."""

    def _reduce_together(self, op: str, signs: dict[str, int], group: Any) -> None:
        """Reduce the named states, each times its sign, as one vector of float64, in which counts are exact too."""
        if not signs:
            return
        states: list[Tensor] = [getattr(self, name) for name in signs]
        packed = torch.cat(
            [sign * as_double(state).flatten() for sign, state in zip(signs.values(), states, strict=True)]
        )
        torch.distributed.all_reduce(packed, getattr(torch.distributed.ReduceOp, op), group)
        parts = packed.split([state.numel() for state in states])
        for (name, sign), state, part in zip(signs.items(), states, parts, strict=True):
            setattr(self, name, (sign * part).reshape(state.shape).to(state.dtype))

    def _require_some(self, count: Tensor, message: str) -> None:
        """There was data, here or on another rank; the count is looked at only where this metric was given none.

        Raises:
            ValueError: if there was none.
        """
        if not self._was_given and count == 0:
            raise ValueError(message)

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._was_given = False

    def _to_state(self, tensor: Tensor) -> Tensor:
        """``tensor`` where this metric keeps its states."""
        return without_graph(tensor).to(self.device)


class StreamingMean(ObservationMetric):
    """A mean over samples of one number per filter, kept as a sum and a count."""

    quantity: ClassVar[str]
    """Name in errors."""
    total: Tensor
    count: Tensor

    def __init__(self, num_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self._add_sums(total=(self.num_channels,))
        self._add_tensor("count", torch.zeros((), dtype=torch.int64))

    def _add(self, total: Tensor, count: int) -> None:
        self.total += self._to_state(total)
        self.count += count

    def compute(self) -> Tensor:
        """The mean for each filter ``(C,)`` over everything seen, over all ranks.

        Raises:
            ValueError: if there was no update, or a value was NaN or Inf.
        """
        return checked_mean(self.quantity, self.total, self.count)


class GatheringMetric(ObservationMetric):
    """A metric that keeps what it was given, as lists, in a fixed number format.

    Before they are gathered the lists are joined to flat tensors: all ranks must have the same number of dimensions
    and the same format, which a rank that saw nothing could not know.
    """

    index: list[Tensor]
    _state_dtypes: dict[str, torch.dtype]

    def _add_lists(self, **dtypes: torch.dtype) -> None:
        self._state_dtypes = dtypes
        for name in dtypes:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _append(self, name: str, values: Tensor) -> None:
        # A copy, since callers reuse buffers between chunks.
        kept = self._to_state(values).to(self._state_dtypes[name], copy=True)
        getattr(self, name).append(kept)

    def _append_index(self, index: Tensor | None, samples: int) -> None:
        """Keep the samples' numbers, if they come with some, where they are: a device would be waited for to take them.

        Raises:
            ValueError: if they are not whole numbers from 0, one a sample.
        """
        if index is None:
            self.index.append(torch.full((samples,), NO_INDEX))
            return
        check_index(index, samples)
        numbers = without_graph(index)
        self.index.append(_known_copy(numbers) if free_to_look(numbers) else numbers.to(torch.int64, copy=True))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name in self._state_dtypes:
            state = getattr(self, name)
            if isinstance(state, Tensor):  # it was saved between sync and unsync
                setattr(self, name, [state])

    def _joined(self, name: str) -> Tensor:
        """All that a list holds, as one flat tensor."""
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state
        if len({part.shape[1:] for part in parts}) > 1:
            parts = [part.flatten() for part in parts]
        # An empty head gives the right type where nothing was ever appended, and `cat` of no tensor is an error.
        joined = torch.cat(parts or [self._empty(name)]).flatten()
        return joined.to(self._state_dtypes[name])  # which set_dtype may have changed

    def _empty(self, name: str) -> Tensor:
        return torch.empty(0, dtype=self._state_dtypes[name], device=self.device)

    def _gather_lists(self, group: Any) -> None:
        """All lists in two exchanges, of their lengths and of their bytes; the wider numbers first, to be aligned."""
        names = sorted(self._state_dtypes, key=lambda name: -self._state_dtypes[name].itemsize)
        own = [self._joined(name).to(self.device).view(torch.uint8) for name in names]
        lengths = torch.tensor([len(each) for each in own], device=self.device)
        every = [torch.zeros_like(lengths) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(every, lengths, group)
        longest = max(int(each.sum()) for each in every)
        packed = torch.cat([*own, own[0].new_zeros(longest - int(lengths.sum()))])
        gathered = [torch.empty_like(packed) for _ in every]
        torch.distributed.all_gather(gathered, packed, group)
        parts = [whole[: int(each.sum())].split(each.tolist()) for whole, each in zip(gathered, every, strict=True)]
        for name, ranks in zip(names, zip(*parts, strict=True), strict=True):
            setattr(self, name, torch.cat([part.view(self._state_dtypes[name]) for part in ranks]))

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        for name in self._state_dtypes:
            setattr(self, name, [self._joined(name).to(self.device)])
        super()._sync_dist(dist_sync_fn, process_group)
