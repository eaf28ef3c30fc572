"""A copy of a model that shares its tensors, so that one call can modify it while other threads use the original."""

import copy
import functools
from types import MethodType
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

# Attributes of every nn.Module: dictionaries and sets of tensors and hooks, copied shallowly for a twin.
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# `id` of an original -> its twin; also used as the memo of `copy.deepcopy`.
Memo = dict[int, Any]


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Copies the modules, configs and hook dictionaries of a model; the tensors are shared.

    Hooks or an attention backend set on the twin don't affect the model. All other attributes of a module, such as a
    lock or the owner of a hook, are shared because they may not be copyable.
    """
    return twin_module(model, {})


def twin_module(module: nn.Module, memo: Memo) -> nn.Module:
    """Builds a module of the same class and tensors, with twins of its submodules."""
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper would run the graph of the original
    if id(module) in memo:
        return memo[id(module)]
    copied = memo[id(module)] = object.__new__(type(module))
    for name, value in vars(module).items():
        if name == "_modules":
            value = {child: None if part is None else twin_module(part, memo) for child, part in value.items()}
        elif name in OF_EVERY_MODULE:
            value = copy.copy(value)
        else:
            value = twin_of(value, memo)
        copied.__dict__[name] = value
    copied.__dict__["_compiled_call_impl"] = None
    # A forward set on the instance wraps the original's, whose attention is not observed: drop it. Keep Accelerate's:
    # it moves weights and inputs between devices, and takes the module as an argument.
    if "_hf_hook" in vars(module) and isinstance(vars(module).get("forward"), functools.partial):
        copied.__dict__["_old_forward"] = MethodType(type(module).forward, copied)
    else:
        copied.__dict__.pop("forward", None)
    return copied


def twin_of(value: Any, memo: Memo) -> Any:
    """Returns the twin's value of an attribute: a new object only if it refers to modules or configs."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, nn.Module):
        return twin_module(value, memo)
    if isinstance(value, PretrainedConfig):
        return copy.deepcopy(value, memo)
    if isinstance(value, MethodType) and leads_on(value.__self__):
        return MethodType(value.__func__, twin_of(value.__self__, memo))
    if isinstance(value, functools.partial) and any(map(leads_on, value.args)):
        bound = functools.partial(value.func, *(twin_of(item, memo) for item in value.args), **value.keywords)
        return functools.update_wrapper(bound, value)
    if type(value) in (list, tuple) and any(map(leads_on, value)):
        return type(value)(twin_of(item, memo) if leads_on(item) else item for item in value)
    if type(value) is dict and any(map(leads_on, value.values())):
        return {name: twin_of(item, memo) if leads_on(item) else item for name, item in value.items()}
    return twin_of_holder(value, memo)


def twin_of_holder(value: Any, memo: Memo) -> Any:
    """Copies an object whose attributes include modules or configs, with their twins; returns others unchanged."""
    attributes = {} if isinstance(value, type) else getattr(value, "__dict__", {})
    held = {name: item for name, item in attributes.items() if leads_on(item)}
    if held:
        copied = memo[id(value)] = copy.copy(value)  # such as MAE's decoder config, shared by several layers
        vars(copied).update({name: twin_of(item, memo) for name, item in held.items()})
        return copied
    return value


def leads_on(value: Any) -> bool:
    """Whether a value is a module or config, which a twin needs its own copy of."""
    return isinstance(value, (nn.Module, PretrainedConfig))
