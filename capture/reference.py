"""A second network to compare with: other weights in the network under observation, or a network of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convscope.capture.network.modules import plain_name
from convscope.capture.network.trace import Layer, Trace
from convscope.capture.observation import Subject
from convscope.capture.outputs.choice import Outputs


class _Caller(nn.Module):
    """A network wrapped for ``functional_call``, whatever its way of being called."""

    def __init__(self, module: nn.Module, forward: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self._call = module, forward

    def forward(self, inputs: Any) -> Any:
        return self._call(inputs)


def with_tensors(
    subject: Subject, module: nn.Module, forward: Callable[[Any], Any], tensors: dict[str, Tensor]
) -> Subject:
    """``module`` run as ``subject`` is, with other parameters and buffers; its own are neither moved nor written to.

    Args:
        subject: Gives the device and the precision.
        module: The network whose layers are to be observed.
        forward: Function that calls it.
        tensors: Replacements by name. Floating-point ones take the device and type of the subject's parameters.
    """
    own = next((p for p in subject.module.parameters() if p.is_floating_point()), torch.empty(0))
    placed = {
        f"inner.{name}": t.detach().to(subject.device, own.dtype if t.is_floating_point() else None)
        for name, t in tensors.items()
    }
    caller = _Caller(module, forward)
    return Subject(
        module,
        lambda inputs: torch.func.functional_call(caller, placed, (inputs,)),
        subject.device,
        subject.precision,
        outputs=Outputs(path=None),  # only its layers are compared, not its result
    )


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights in a file of Lightning's or of ``torch.save(model.state_dict())``, read without running code from it.

    Raises:
        ValueError: if there is no such file, it cannot be read safely, or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"reference={str(path)!r}: there is no such file; give the path of a checkpoint") from error
    except Exception as error:
        raise ValueError(
            f"reference={str(path)!r} cannot be read with weights_only=True ({type(error).__name__}); if you trust "
            "it, load it yourself and give the model: reference=MyModule.load_from_checkpoint(path)"
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    found = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not found:
        raise ValueError(f"reference={str(path)!r} holds no weights: neither a 'state_dict' nor tensors by name")
    return found


def fit_weights(
    module: nn.Module, weights: dict[str, Tensor], trace: Trace, layers: Collection[Layer]
) -> dict[str, Tensor]:
    """Weights from elsewhere under the names that ``module`` has for them.

    Names may differ by a prefix (``net.conv1`` and ``conv1``). Weights that are used only after the last of ``layers``,
    such as a classifier's with another number of classes, may be missing or have another shape.

    Raises:
        ValueError: if some other parameter or buffer of the module is missing, or has another shape.
    """
    wanted = {plain_name(name): name for name in module.state_dict() if not _is_of_no_account(name, module)}
    given = {plain_name(name): tensor for name, tensor in weights.items()}
    names = match_names(wanted, given)
    shapes = {name: tensor.shape for name, tensor in own_tensors(module).items()}
    fitting = {
        wanted[name]: given[there]
        for name, there in names.items()
        if shapes.get(wanted[name], given[there].shape) == given[there].shape
    }
    needed = [name for name in wanted if wanted[name] not in fitting and not _only_after(name, trace, layers)]
    if needed:
        raise ValueError(
            f"the reference does not fit {type(module).__name__}: {len(needed)} of its {len(wanted)} parameters and "
            f"buffers are missing or of another shape, the first {', '.join(needed[:3])} (given: "
            f"{', '.join(list(given)[:3])}, …); give a checkpoint of this model, or the other model itself"
        )
    return {name: tensor for name, tensor in fitting.items() if name in shapes}


def match_names(wanted: Iterable[str], given: Collection[str]) -> dict[str, str]:
    """Pair dotted names that are alike but for one prefix: the pair of prefixes with the most matches wins."""
    wanted = list(wanted)
    best: dict[str, str] = {}
    for here in _prefixes(wanted):
        for there in _prefixes(given):
            names = [name for name in wanted if name.startswith(here)]
            found = {name: there + name[len(here) :] for name in names if there + name[len(here) :] in given}
            if len(found) > len(best):
                best = found
            if len(best) == len(wanted):
                return best
    return best


def _prefixes(names: Iterable[str], deepest: int = 2) -> list[str]:
    """Possible prefixes of names: ``""``, then ``"net."``, ``"net.body."`` and so on."""
    parts = [name.split(".")[:-1] for name in names]
    found = {".".join(part[:depth]) + "." for part in parts for depth in range(1, min(deepest, len(part)) + 1)}
    return ["", *sorted(found, key=lambda prefix: (prefix.count("."), prefix))]


def _is_of_no_account(name: str, module: nn.Module) -> bool:
    """Return whether a tensor has no part in an evaluation pass: a BatchNorm's counter, a loss's class weights."""
    owner, _, own = name.rpartition(".")
    of_a_loss = isinstance(module.get_submodule(owner), nn.modules.loss._Loss)
    return of_a_loss or own in ("num_batches_tracked", "_extra_state")


def _only_after(name: str, trace: Trace, layers: Collection[Layer]) -> bool:
    """Return whether a parameter belongs to a module that does not run before the last observed layer is done."""
    owner = name.rpartition(".")[0]
    if any(layer.name.startswith(f"{owner}.") for layer in layers):
        return False
    last = max(layer.order for layer in layers)
    runs = [step.order for step in trace.modules() if step.identity.head.owner == owner]
    return bool(runs) and min(runs) > last
