"""One walk over a model's modules and tensors: faster than `named_modules`, as every step makes it several times."""

from __future__ import annotations

from torch import Tensor, nn


def walk(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules with their names, each once, in the order of `named_modules`."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found.append((prefix, module))
        if module._modules:
            dot = f"{prefix}." if prefix else ""
            waiting += [(dot + name, child) for name, child in reversed(module._modules.items()) if child is not None]
    return found


def named_tensors(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """Parameters and buffers by name, each tensor once, as `named_parameters` and `named_buffers` give them."""
    params: dict[str, nn.Parameter] = {}
    buffers: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in walk(model):
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                params[dot + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                buffers[dot + name] = buffer
    return params, buffers
