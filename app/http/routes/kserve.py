"""The V1 protocol of KServe and TensorFlow Serving: `/v1/models`. Knows no image format.

Documentation: https://kserve.github.io/website, data plane, V1 protocol.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, FailFast, Field

from app.errors import InvalidBody, UnknownModel
from app.http.json_requests import decoded, infer_images
from app.http.json_responses import json_response
from app.http.open_inference_schemas import ModelReady
from app.http.openapi import MODEL_ERRORS, NAME
from app.http.parameters import timeout_parameter
from app.http.problems import ERRORS_ANYWHERE, documented_as_json
from app.http.uploads import cancel_on_disconnect, deadline_of, receive_body, service_of
from app.models.registry import Model
from app.protocols.json_body import decode_base64, parse
from app.protocols.label_scores import label_scores

router = APIRouter(tags=["KServe V1"], responses=documented_as_json(*ERRORS_ANYWHERE))

ERRORS = documented_as_json(*MODEL_ERRORS)


class Base64(BaseModel):
    """Bytes in base64, as TensorFlow Serving writes them."""

    model_config = ConfigDict(extra="ignore", strict=True)

    b64: str


class Instance(BaseModel):
    """An image in base64, in one of three forms."""

    model_config = ConfigDict(extra="ignore", strict=True)

    data: str | None = Field(None, description="The image in base64, as for TorchServe.")
    b64: str | None = Field(None, description="The image in base64, as for TensorFlow Serving.")
    image_bytes: Base64 | None = Field(None, description="The same in an object, as for TensorFlow's models.")

    def image(self, index: int) -> bytes:
        """Return the encoded image."""
        nested = self.image_bytes.b64 if self.image_bytes else None
        given = [each for each in (self.data, self.b64, nested) if each is not None]
        if len(given) != 1:
            raise InvalidBody(f"instance {index} must have exactly one of 'data', 'b64' and 'image_bytes'")
        return decode_base64(given[0], f"instance {index}")


class PredictRequest(BaseModel):
    """Images to classify."""

    model_config = ConfigDict(extra="ignore", strict=True)

    instances: Annotated[list[Instance], FailFast(), Field(min_length=1)]


class PredictResult(BaseModel):
    """The five best classes of each image, in order: an object of labels and scores."""

    predictions: list[dict[str, float]]


class ModelList(BaseModel):
    """The names of all models."""

    models: list[str]


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models", response_model=ModelList)
async def models(request: Request) -> Response:
    """Return the names of all models."""
    return json_response({"models": [model.name for model in service_of(request).models]})


@router.head("/v1/models/{name}", include_in_schema=False)
@router.get(
    "/v1/models/{name}",
    response_model=ModelReady,
    responses={**documented_as_json(UnknownModel), 503: {"model": ModelReady, "description": "Send no requests."}},
    openapi_extra={"parameters": [NAME]},
)
async def model(request: Request) -> Response:
    """Return whether a model is ready for inference."""
    name, service = _model_of(request).name, service_of(request)
    if service.is_ready:
        return json_response({"name": name, "ready": True})
    return JSONResponse({"name": name, "ready": False, "error": "The service is not ready."}, 503)


@router.post(
    "/v1/models/{name}:predict",
    response_model=PredictResult,
    responses=ERRORS,
    openapi_extra={
        "parameters": [NAME, timeout_parameter()],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": PredictRequest.model_json_schema()}},
        },
    },
)
async def predict(request: Request) -> Response:
    """Return the five best classes of each image. If an image fails, the request fails."""
    model, deadline = _model_of(request), deadline_of(request)
    max_images = service_of(request).settings.max_client_batch_size
    with await receive_body(request, deadline) as upload, cancel_on_disconnect(request):
        (body,) = upload.images
        images = await decoded(model, body, partial(_images, max_images=max_images), deadline)
        results = await infer_images(request, model, images, upload.seconds, deadline)
    return json_response({"predictions": [label_scores(model, result) for result in results]})


def _images(body: bytes, max_images: int) -> Sequence[bytes]:
    instances = parse(PredictRequest, body).instances
    if len(instances) > max_images:
        raise InvalidBody(f"The request has {len(instances)} instances; send at most {max_images} in one request.")
    return [instance.image(index) for index, instance in enumerate(instances)]


def _model_of(request: Request) -> Model:
    return service_of(request).models.find(request.path_params["name"])
