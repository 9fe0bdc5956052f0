"""The inference API of TorchServe: `/predictions/{name}` and `/ping`. Knows no image format.

Its clients are scripts with `curl -T FILE` or with a form. Documentation:
https://pytorch.org/serve/inference_api.html.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http.json_requests import infer_images
from app.http.json_responses import json_response
from app.http.openapi import NAME, VERSION, image_or_form
from app.http.parameters import timeout_parameter
from app.http.problems import TORCHSERVE_PREFIX, torchserve_errors
from app.http.uploads import cancel_on_disconnect, deadline_of, receive_upload, service_of
from app.protocols.label_scores import label_scores

router = APIRouter(tags=["TorchServe"])

# Names of the field of a form, as TorchServe's handlers read them.
FIELDS = ("data", "body")


async def predict(request: Request) -> Response:
    """Return the five best classes of one image: an object of labels and scores. Equal labels are numbered."""
    parameters = request.path_params
    model = service_of(request).models.find(parameters["name"], parameters.get("version"))
    deadline = deadline_of(request)
    with await receive_upload(request, FIELDS, 1, deadline) as upload, cancel_on_disconnect(request):
        (result,) = await infer_images(request, model, upload.images, upload.seconds, deadline)
    return json_response(label_scores(model, result))


for _path, _parameters in (("{name}", [NAME]), ("{name}/{version}", [NAME, VERSION])):
    for _method in ("POST", "PUT"):
        router.api_route(
            f"{TORCHSERVE_PREFIX}{_path}",
            methods=[_method],
            response_model=dict[str, float],
            responses=torchserve_errors(),
            openapi_extra={"parameters": [*_parameters, timeout_parameter()], "requestBody": image_or_form(FIELDS[0])},
        )(predict)


@router.head("/ping", include_in_schema=False)
@router.get("/ping", responses={500: {"description": "Unhealthy."}})
async def ping(request: Request) -> Response:
    """Return whether the service is ready for inference."""
    if service_of(request).is_ready:
        return JSONResponse({"status": "Healthy"})
    return JSONResponse({"status": "Unhealthy"}, 500)
