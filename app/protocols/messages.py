"""Requests and responses of the Open Inference Protocol, in the form that REST and gRPC share. Knows no transport."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.protocols.tensors import BYTES, Tensor


@dataclass(frozen=True)
class RequestedOutput:
    """An output that the client wants.

    `classes` is the number of classes that the classification extension returns instead of all
    values; 0 turns it off. `is_binary` is None where the default of the request decides.
    """

    name: str
    classes: int = 0
    is_binary: bool | None = None


@dataclass(frozen=True)
class InferRequest:
    """A request for inference on one model."""

    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput] = ()  # empty: all outputs in the metadata of the model
    id: str = ""
    timeout: float | None = None  # seconds, if the client sets one
    is_binary: bool = False  # the default of outputs that do not say whether they are binary


@dataclass(frozen=True)
class OutputTensor:
    """An output of a response, and whether the client wants its binary form."""

    tensor: Tensor
    is_binary: bool


@dataclass(frozen=True)
class InferResponse:
    """The result of a request for inference."""

    model_name: str
    model_version: str
    id: str
    outputs: Sequence[OutputTensor] = field(default_factory=tuple)

    @property
    def values(self) -> int:
        """The number of values that are written one by one: numbers as JSON, and texts."""
        return sum(
            math.prod(output.tensor.shape)
            for output in self.outputs
            if not output.is_binary or output.tensor.datatype == BYTES
        )
