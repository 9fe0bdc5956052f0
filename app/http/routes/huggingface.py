"""The task API of Hugging Face: `POST /`, `POST /models/{name}` and `/models/{name}/features`. Knows no image format.

`InferenceClient.image_classification` of huggingface_hub is the client. A body is the bytes of an image, or JSON with
the image in base64. A text is never read as a URL or a path.
"""

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from app.classification.ranking import Function, top_k
from app.http.json_requests import decoded, infer_images, is_json
from app.http.json_responses import json_response
from app.http.openapi import BINARY, MODEL_ERRORS, NAME
from app.http.parameters import timeout_parameter
from app.http.problems import documented
from app.http.schemas import Prediction
from app.http.uploads import cancel_on_disconnect, deadline_of, receive_upload, service_of
from app.models.registry import Model
from app.protocols.json_body import decode_base64, parse

router = APIRouter(tags=["Hugging Face"])

ERRORS = documented(*MODEL_ERRORS)


class ClassificationParameters(BaseModel):
    """How to classify an image. An unknown parameter is refused, because it could change the result."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="Number of classes. Default: `top_k`.")
    function_to_apply: Function | None = Field(
        None, description="The function from logits to scores. Default: that of the bundle."
    )


class FeatureParameters(BaseModel):
    """How to extract features."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pool: Literal[True] = Field(default=True, description="Only pooled features are available.")


class ClassificationRequest(BaseModel):
    """An image in base64, and parameters."""

    model_config = ConfigDict(extra="ignore", strict=True)

    inputs: str = Field(description="The image in base64, with padding.", examples=["iVBORw0KGgo="])
    parameters: ClassificationParameters = ClassificationParameters()


class FeatureRequest(BaseModel):
    """An image in base64, and parameters.

    `InferenceClient.feature_extraction` writes its parameters beside `inputs`. Those that would
    change the features are refused; those for text have no effect.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    inputs: str = Field(description="The image in base64, with padding.", examples=["iVBORw0KGgo="])
    parameters: FeatureParameters = FeatureParameters()
    normalize: Literal[False] | None = Field(None, description="The features are not normalized.")
    dimensions: None = Field(None, description="The features have all channels.")
    encoding_format: Literal["float"] | None = Field(None, description="The features are numbers.")


def _openapi(kind: type[BaseModel], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": [*parameters, timeout_parameter()],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "application/json": {"schema": kind.model_json_schema()},
            },
        },
    }


@router.post("/", response_model=list[Prediction], responses=ERRORS, openapi_extra=_openapi(ClassificationRequest, []))
@router.post(
    "/models/{name}",
    response_model=list[Prediction],
    responses=ERRORS,
    openapi_extra=_openapi(ClassificationRequest, [NAME]),
)
async def classify(request: Request) -> Response:
    """Return the best classes of one image, as the task `image-classification` of Hugging Face."""
    service, model, deadline = service_of(request), _model_of(request), deadline_of(request)
    with await receive_upload(request, ["file"], 1, deadline) as upload, cancel_on_disconnect(request):
        image, parameters = upload.images[0], ClassificationParameters()
        if is_json(request):
            image, parameters = await decoded(model, image, _classification, deadline)
        (result,) = await infer_images(request, model, [image], upload.seconds, deadline)
        k = min(parameters.top_k or service.settings.top_k, len(model.contents.labels))
        function = parameters.function_to_apply or model.contents.manifest.activation
        content = await model.classifier.write(partial(_scores, model, result.logits, k, function), k, deadline)
    return Response(content, media_type="application/json")


@router.post(
    "/models/{name}/features",
    response_model=list[list[float]],
    responses=ERRORS,
    openapi_extra=_openapi(FeatureRequest, [NAME]),
)
async def features(request: Request) -> Response:
    """Return the pooled features of one image, (1, channels), as the task `image-feature-extraction`."""
    model, deadline = _model_of(request), deadline_of(request)
    with await receive_upload(request, ["file"], 1, deadline) as upload, cancel_on_disconnect(request):
        image = upload.images[0]
        if is_json(request):
            image = await decoded(model, image, _feature_image, deadline)
        (result,) = await infer_images(request, model, [image], upload.seconds, deadline, embedding=True)
    assert result.embedding is not None  # noqa: S101 (for the type checker: it was requested)
    return json_response([result.embedding.tolist()])


def _model_of(request: Request) -> Model:
    models, name = service_of(request).models, request.path_params.get("name")
    return models.default if name is None else models.find(name)


def _classification(document: bytes) -> tuple[bytes, ClassificationParameters]:
    message = parse(ClassificationRequest, document)
    return decode_base64(message.inputs, "inputs"), message.parameters


def _feature_image(document: bytes) -> bytes:
    return decode_base64(parse(FeatureRequest, document).inputs, "inputs")


def _scores(model: Model, logits: NDArray[np.float32], k: int, function: Function) -> bytes:
    """Return the k best classes as JSON."""
    labels = model.contents.labels
    return to_json(
        [{"label": labels[index].name, "score": score, "index": index} for index, score in top_k(logits, k, function)]
    )
