"""Inference on one model as the Open Inference Protocol defines it. Knows no transport and no encoding.

A model has two names. `NAME` takes `pixels`, UINT8 of (n, height, width, 3); `NAME.encoded` takes `image`, BYTES of
(n) or (n, 1), each element an encoded image. Clients of the protocol expect exactly one input in the metadata of a
model. Requests to either name may have either input.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.classification.classifier import Inference
from app.classification.ranking import best
from app.errors import InvalidBody, ServiceError, UnknownModel
from app.models.registry import Model, ModelRegistry
from app.protocols.messages import InferRequest, InferResponse, OutputTensor, RequestedOutput
from app.protocols.tensors import BYTES, Tensor
from app.validation_messages import shorten

PIXELS, IMAGE, LOGITS, EMBEDDING = "pixels", "image", "logits", "embedding"
OUTPUTS = (LOGITS, EMBEDDING)

# Suffix of the name under which a model shows the input `image` in its metadata.
ENCODED_SUFFIX = ".encoded"


class NamedModel(NamedTuple):
    """A model under one of its two names."""

    name: str  # as in the request
    model: Model
    takes_encoded: bool  # whether the metadata shows `image`


def find_model(models: ModelRegistry, name: str, version: str | None = None) -> NamedModel:
    """Return a model by one of its names, and by its version if the client gives one.

    Raises:
        UnknownModel: no model has this name or version.
    """
    base = name.removesuffix(ENCODED_SUFFIX)
    if base != name and not models.has(name) and models.has(base):
        try:
            return NamedModel(name, models.find(base, version), takes_encoded=True)
        except UnknownModel:
            raise UnknownModel(name, version) from None
    return NamedModel(name, models.find(name, version), takes_encoded=False)


def raw_input(named: NamedModel, body: bytes) -> Tensor:
    """Return the only input of a request whose body has no JSON document: one encoded image, or pixels.

    Raises:
        InvalidBody: the body is not pixels of whole images.
    """
    if named.takes_encoded:
        return Tensor(IMAGE, BYTES, (1,), [body])
    shape = pixel_shape(named.model)
    size = int(np.prod(shape))
    if not body or len(body) % size:
        raise InvalidBody(f"the body has {len(body)} bytes, but the pixels of an image have {size}")
    return Tensor(PIXELS, "UINT8", (len(body) // size, *shape), np.frombuffer(body, np.uint8).reshape(-1, *shape))


def pixel_shape(model: Model) -> tuple[int, int, int]:
    """Return the (height, width, channels) of the pixels of one image."""
    manifest = model.contents.manifest
    return manifest.input_height, manifest.input_width, 3


async def infer(
    named: NamedModel,
    request: InferRequest,
    *,
    max_images: int,
    deadline: float = NEVER,
    read_seconds: float,
    on_image: Callable[[Mapping[str, float]], None],
) -> InferResponse:
    """Run a request. `on_image` is called with the seconds of the stages of each image.

    `read_seconds` is the time in which the request arrived; each image gets an equal share.

    If an image fails, the request fails with the error of the first such image.

    Raises:
        InvalidBody: an input or an output does not fit the model.
        ServiceError: any error of `Classifier.infer`.
    """
    images = _images(named, request.inputs, max_images)
    wanted = _wanted(named, request.outputs)
    embedding = any(output.name == EMBEDDING for output in wanted)
    results = await run_all(named.model, images, embedding=embedding, deadline=deadline)
    for result in results:
        on_image({**result.seconds, "read": read_seconds / len(results)})
    classes = len(named.model.contents.labels)
    texts = sum(min(output.classes, classes) for output in wanted) * len(results)
    outputs = await named.model.classifier.write(
        lambda: [_output(named.model, output, results) for output in wanted], texts, deadline
    )
    return InferResponse(
        named.name,
        named.model.version,
        request.id,
        [
            OutputTensor(tensor, request.is_binary if output.is_binary is None else output.is_binary)
            for output, tensor in zip(wanted, outputs, strict=True)
        ],
    )


async def run_all(
    model: Model, images: Sequence[bytes | NDArray[np.uint8]], *, embedding: bool, deadline: float
) -> Sequence[Inference]:
    """Run all images, encoded or as pixels, and return their outputs in order.

    Raises:
        ServiceError: the error of the first image that failed.
    """
    if len(images) == 1:  # without a task, which takes a tenth of the time of a small image
        return [await model.classifier.infer(images[0], embedding=embedding, deadline=deadline)]

    async def run(image: bytes | NDArray[np.uint8]) -> Inference | ServiceError:
        try:
            return await model.classifier.infer(image, embedding=embedding, deadline=deadline)
        except ServiceError as error:
            return error

    async with asyncio.TaskGroup() as group:  # a defect in one task cancels the others
        tasks = [group.create_task(run(image)) for image in images]
    results = list[Inference]()
    for index, task in enumerate(tasks):
        result = task.result()
        if isinstance(result, ServiceError):
            result.detail = f"image {index} of the request: {result.detail}"
            raise result
        results.append(result)
    return results


def classes_as_text(logits: NDArray[np.float32], k: int, labels: Sequence[Any]) -> list[bytes]:
    """Return the k best classes of one image as Triton's classification extension writes them.

    An entry is the value with six decimals, the index and the label, with colons between them. Ties
    are sorted by index.
    """
    values = logits.tolist()
    return [f"{values[index]:f}:{index}:{labels[index].name}".encode() for index in best(logits, k)]


def _images(named: NamedModel, inputs: Sequence[Tensor], max_images: int) -> Sequence[bytes | NDArray[np.uint8]]:
    if len(inputs) != 1:
        raise InvalidBody(f"expected 1 input but got {len(inputs)} inputs for model '{named.name}'")
    (tensor,) = inputs
    if tensor.name == IMAGE:
        datatype, is_shape = BYTES, bool(tensor.shape) and tensor.shape[1:] in {(), (1,)}
        expected = "[n] or [n,1]"
    elif tensor.name == PIXELS:
        shape = pixel_shape(named.model)
        datatype, is_shape = "UINT8", tensor.shape[1:] == shape
        expected = f"[n,{','.join(map(str, shape))}]"
    else:
        raise InvalidBody(
            f"unexpected inference input '{shorten(tensor.name)}' for model '{named.name}'; the inputs are "
            f"'{PIXELS}' and '{IMAGE}'"
        )
    if tensor.datatype != datatype:
        raise InvalidBody(
            f"inference input '{tensor.name}' data-type is '{shorten(tensor.datatype)}', but model '{named.name}' "
            f"expects '{datatype}'"
        )
    if not is_shape:
        raise InvalidBody(
            f"unexpected shape for input '{tensor.name}' for model '{named.name}'. Expected {expected}, "
            f"got {_shape(tensor.shape)}"
        )
    if not 1 <= tensor.shape[0] <= max_images:
        raise InvalidBody(
            f"inference request batch-size must be from 1 to {max_images} for '{named.name}', got {tensor.shape[0]}"
        )
    images: Sequence[bytes | NDArray[np.uint8]] = tensor.data  # type: ignore[assignment]  # (as the datatype says)
    return images


def _shape(shape: Sequence[int]) -> str:
    return shorten(f"[{','.join(map(str, shape))}]")


def _wanted(named: NamedModel, outputs: Sequence[RequestedOutput]) -> Sequence[RequestedOutput]:
    names = [output.name for output in outputs]
    for output in outputs:
        if output.name not in OUTPUTS:
            raise InvalidBody(
                f"unexpected inference output '{shorten(output.name)}' for model '{named.name}'; the outputs are "
                f"'{LOGITS}' and '{EMBEDDING}'"
            )
        if names.count(output.name) > 1:
            raise InvalidBody(f"output '{output.name}' is requested more than once")
        if output.classes and output.name != LOGITS:
            raise InvalidBody(f"output '{output.name}' has no classes; request the classification of '{LOGITS}'")
    return outputs or [RequestedOutput(LOGITS)]


def _output(model: Model, output: RequestedOutput, results: Sequence[Inference]) -> Tensor:
    if output.name == EMBEDDING:
        embeddings = np.stack([result.embedding for result in results if result.embedding is not None])
        return Tensor(EMBEDDING, "FP32", embeddings.shape, embeddings)
    if output.classes:
        labels = model.contents.labels
        k = min(output.classes, len(labels))
        texts = [text for result in results for text in classes_as_text(result.logits, k, labels)]
        return Tensor(LOGITS, BYTES, (len(results), k), texts)
    logits = np.stack([result.logits for result in results])
    return Tensor(LOGITS, "FP32", logits.shape, logits)
