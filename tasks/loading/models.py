"""Effects. Loads a model directory into a module that can be run, and names the layers that can be pruned."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from tasks.contract import BadInput, Finding
from tasks.files.archives import PROGRAM
from tasks.files.configs import ModelConfig, read_config
from tasks.files.modules import MEAN, pooling_of
from tasks.loading.building import body_of, build, build_program, constants_of, fill_buffers_
from tasks.loading.families import CAUSAL_LM, MASKED_LM, TEXT_ENCODER
from tasks.loading.foresight import check_causal
from tasks.loading.naming import Naming, name_tensors
from tasks.loading.weights import Checkpoint, check_finite, open_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model directory, checked; `module` runs if it came from `load`, and has only shapes if from `outline`."""

    module: nn.Module
    family: str
    """One of `tasks.loading.families`: what it reads and what it answers."""
    config: Any
    """Attributes as in config.json: transformers' config object, or a plain namespace for other architectures."""
    built_from: ModelConfig = field(repr=False)
    path: Path
    checkpoint: Checkpoint = field(repr=False)
    naming: Naming = field(repr=False)
    pooling: tuple[str, ...] = MEAN
    """Of a text encoder; see `tasks.files.modules`."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a layer lies that is only a part of a parameter: one expert, and of that a run of outputs."""

    expert: int
    """Along the parameter's first dimension."""
    start: int
    stop: int
    tensor: str
    """The stored tensor that holds it."""
    index: int | None
    """Along the first dimension of that tensor; None if the tensor is nothing but this layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A weight that can be pruned, as `outputs` rows of inputs."""

    name: str
    """Of the module that holds it."""
    weight: str
    """Of the parameter, as in `module.state_dict()`."""
    shape: tuple[int, ...]
    """As stored."""
    parameters: int
    outputs: int
    inputs: int
    """Of the whole layer: in_features, or in_channels x kernel height x kernel width, in that order."""
    groups: int = 1
    """Row r sees only the inputs of its group, r // (outputs / groups): inputs / groups of them, side by side."""
    transposed: bool = False
    """Stored as [inputs, outputs], as in GPT-2."""
    place: Place | None = None
    """Of a layer that is not a whole parameter; its `name` is then no module's, and `shape` that of its part."""


_LOADED: dict[tuple[Any, ...], Model] = {}
_LOADING = Lock()


def load(path: Path, device: str = "cpu") -> Model:
    """The model on a device, in eval mode, weights in the dtype of the file.

    The last one is kept, so that the units of a shard share one load: whoever changes its weights restores them. On
    a CPU the weights lie on the file's own pages, shared with other processes until written to; the file never is.
    Errors: BadInput, also for a language model that sees the tokens that it is to predict.
    """
    with _LOADING:
        key = (device, *_signature(path))
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = _checked(_load(path, device))
        return _LOADED[key]


def load_afresh(path: Path, device: str = "cpu") -> Model:
    """The model read anew and kept by nobody else: for one that was just written, or whose weights will change."""
    return _load(path, device)


def outline(path: Path) -> Model:
    """The model on the meta device: every check but those on the weights' values, and no data read."""
    checkpoint = open_checkpoint(path)
    config = read_config(path, len(checkpoint.names))
    program = next((file.path for file in checkpoint.files if file.path.name == PROGRAM), None)
    dtype = _main_dtype(checkpoint)
    module, family, settings = build_program(program, config) if program else build(config, dtype)
    if family == MASKED_LM and not program and (body := body_of(config, module, checkpoint.names)):
        config = body
        module, family, settings = build(config, dtype)
    shapes = {name: checkpoint.entry(name).shape for name in checkpoint.names}
    naming = name_tensors(module, shapes, _weights_name(checkpoint))
    _check_floating(module, checkpoint, naming)
    pooling, told = pooling_of(path) if family == TEXT_ENCODER else (MEAN, ())
    return Model(
        module=module.eval(),
        family=family,
        config=settings,
        built_from=config,
        path=path,
        checkpoint=checkpoint,
        naming=naming,
        pooling=pooling,
        findings=(*checkpoint.findings, *config.findings, *naming.findings, *told),
    )


def prunable_layers(module: nn.Module) -> tuple[Layer, ...]:
    """Every linear and convolutional weight once, in module order; not those shared with an embedding, nor the head.

    The head is the output embedding of a language model; a classifier's last layer is a layer like any other.
    """
    return tuple(found for found in _survey(module) if isinstance(found, Layer))


def skipped_layers(module: nn.Module) -> tuple[Finding, ...]:
    """The other weights that are more than a vector, embeddings and the head aside: why each is left alone."""
    return tuple(found for found in _survey(module) if isinstance(found, Finding))


def rows_of(layer: Layer, weight: torch.Tensor) -> torch.Tensor:
    """A view of the weight as [outputs, inputs / groups]: what is written to it is written to the weight."""
    return weight.t() if layer.transposed else weight.view(layer.outputs, -1)


def weight_in(module: nn.Module, layer: Layer) -> torch.Tensor:
    """The layer's weight in a module, as a view: the parameter, or the part of it that is the layer."""
    parameter = module.get_parameter(layer.weight)
    if layer.place is None:
        return parameter
    expert, ours = parameter[layer.place.expert], slice(layer.place.start, layer.place.stop)
    return expert[:, ours] if layer.transposed else expert[ours]


def weight_stored(layer: Layer, tensor: torch.Tensor) -> torch.Tensor:
    """The layer's weight in the stored tensor that holds it, as a view."""
    return tensor if layer.place is None or layer.place.index is None else tensor[layer.place.index]


def _checked(model: Model) -> Model:
    if model.family != CAUSAL_LM:
        return model
    return replace(model, findings=(*model.findings, *check_causal(model.module, model.config)))


def _load(path: Path, device: str) -> Model:
    model = outline(path)
    module, checkpoint, naming = model.module, model.checkpoint, model.naming
    fill_buffers_(module, checkpoint.bytes)
    constants = constants_of(module)
    for name in checkpoint.names:
        if name not in constants:
            check_finite(checkpoint.mapped(name), name, checkpoint.file(name).path.name)
    check_copies(model)
    for first, stored in naming.stored.items():
        assign_(module, naming.shared[first], checkpoint.mapped(stored[0]).to(device))
    for assembly in naming.assemblies:
        for name, tensor in assembly.assemble(module, checkpoint.mapped).items():
            names = next(names for names in naming.shared.values() if name in names)
            assign_(module, names, tensor.to(device))
    module.to(device)
    return model


def assign_(module: nn.Module, names: Sequence[str], tensor: torch.Tensor) -> None:
    """Puts a tensor in the place of a parameter or buffer, under all of its names."""
    weight = nn.Parameter(tensor, requires_grad=False)
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = weight
        else:
            owner._buffers[leaf] = tensor


def check_copies(model: Model) -> None:
    """BadInput if one weight of the model is stored under several names, and not alike."""
    checkpoint = model.checkpoint
    for name, *copies in model.naming.stored.values():
        for copy in copies:
            one, other = checkpoint.mapped(name), checkpoint.mapped(copy)
            if one.dtype != other.dtype or not torch.equal(one, other):
                raise BadInput(
                    "the weights do not fit the model",
                    why=f"config.json says that it and {name} are one weight, and the file holds two different ones",
                    do="Set tie_word_embeddings to false in config.json, or export the model again.",
                    file=checkpoint.file(copy).path.name,
                    tensor=copy,
                )


def _check_floating(module: nn.Module, checkpoint: Checkpoint, naming: Naming) -> None:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for first, stored in naming.stored.items():
        for name in stored:
            if first in parameters and not checkpoint.dtype(name).is_floating_point:
                raise BadInput(
                    "a tensor cannot be used",
                    why=f"it is a weight and stored as {checkpoint.entry(name).dtype}, so it is already quantized",
                    do="Use the original model in bfloat16, float16 or float32.",
                    file=checkpoint.file(name).path.name,
                    tensor=name,
                )


def _main_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The floating dtype of most stored elements."""
    elements: Counter[torch.dtype] = Counter()
    for name in checkpoint.names:
        dtype = checkpoint.dtype(name)
        if dtype.is_floating_point:
            elements[dtype] += checkpoint.entry(name).elements
    return max(elements, key=lambda dtype: (elements[dtype], str(dtype)), default=torch.float32)


def _weights_name(checkpoint: Checkpoint) -> str:
    return checkpoint.index.name if checkpoint.index else checkpoint.files[0].path.name


def _signature(path: Path) -> tuple[Any, ...]:
    """What changes when a file of the directory does."""
    found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(path))
    return (
        str(path.resolve()),
        *((name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in found),
    )


def _survey(module: Any) -> list[Layer | Finding]:
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if head is not None and getattr(head, "weight", None) is not None:
        embeddings.add(id(head.weight))
    found: list[Layer | Finding] = []
    seen = set(embeddings)
    for path, part in module.named_modules():
        for leaf, weight in part.named_parameters(recurse=False):
            if id(weight) in seen or weight.dim() < 2:
                continue
            seen.add(id(weight))
            name = f"{path}.{leaf}" if path else leaf
            layer = _layer(path, name, part, weight) if leaf == "weight" else None
            is_vector = max(weight.shape) == weight.numel()
            if layer or not is_vector:
                found.append(layer or _skipped(name, part, weight))
    return found


def _layer(path: str, name: str, part: nn.Module, weight: torch.Tensor) -> Layer | None:
    shape = tuple(weight.shape)
    match part:
        case nn.modules.linear.NonDynamicallyQuantizableLinear():
            return None
        case nn.Linear():
            outputs, inputs, groups, transposed = shape[0], shape[1], 1, False
        case nn.Conv1d() | nn.Conv2d():
            outputs, groups, transposed = shape[0], part.groups, False
            inputs = groups * (weight.numel() // max(shape[0], 1))
        case _ if _is_transposed_linear(part):
            outputs, inputs, groups, transposed = shape[1], shape[0], 1, True
        case _:
            return None
    return Layer(
        name=path,
        weight=name,
        shape=shape,
        parameters=weight.numel(),
        outputs=outputs,
        inputs=inputs,
        groups=groups,
        transposed=transposed,
    )


def _is_transposed_linear(part: nn.Module) -> bool:
    kind = type(part)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def _skipped(name: str, part: nn.Module, weight: torch.Tensor) -> Finding:
    message = f"{type(part).__name__} holds it with shape {list(weight.shape)}, which is not pruned"
    return Finding(kind="skipped_layer", subject=name, message=message)
