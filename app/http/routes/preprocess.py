"""`POST /preprocess`: what the network receives of an image, as a picture. Knows no image format."""

from fastapi import APIRouter, Request, Response

from app.errors import UnreadableImage, UnsupportedImage
from app.http.openapi import BINARY, IMAGE_ERRORS, image_or_form
from app.http.parameters import NoParameters, openapi_parameters, query_parameters_of
from app.http.problems import documented
from app.http.uploads import cancel_on_disconnect, deadline_of, hint_for, receive_upload, service_of

router = APIRouter(tags=["model"])

REGION = {
    "description": "Left edge, top edge, width and height of the region that the picture shows, as shares of the "
    "width and the height of the upright image, separated by commas.",
    "required": True,
    "schema": {"type": "string", "examples": ["0.125,0,0.75,1"]},
}


@router.post(
    "/preprocess",
    response_class=Response,
    responses=documented(*IMAGE_ERRORS)
    | {200: {"content": {"image/png": BINARY}, "headers": {"X-Image-Region": REGION}}},
    openapi_extra={"parameters": openapi_parameters(NoParameters), "requestBody": image_or_form("file")},
)
async def preprocess(request: Request) -> Response:
    """Return the pixels that the network would receive of one image, as PNG. The network does not run.

    The image is the body, or the field `file` of a form.
    """
    service = service_of(request)
    query_parameters_of(request, NoParameters)
    deadline = deadline_of(request)
    with await receive_upload(request, ["file"], 1, deadline) as upload, cancel_on_disconnect(request):
        try:
            preview = await service.classifier.decoder.preview(upload.images[0], deadline)
        except (UnsupportedImage, UnreadableImage) as error:
            error.detail += hint_for(request)
            raise
    region = ",".join(f"{share:.6g}" for share in preview.region)
    return Response(preview.png, media_type="image/png", headers={"X-Image-Region": region})
