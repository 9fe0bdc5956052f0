"""Liveness, readiness and metrics. Knows no engine: the service holds the state."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http.schemas import Health
from app.http.uploads import service_of
from app.observability.aggregation import CONTENT_TYPE_LATEST

router = APIRouter(tags=["health"])
head = partial(router.head, include_in_schema=False)


@head("/health/live")
@router.get(
    "/health/live", response_model=Health, responses={503: {"model": Health, "description": "Restart the process."}}
)
async def live(request: Request) -> Response:
    """Return `alive`. If the status is `broken`, or no response comes, restart the process."""
    if service_of(request).is_broken:
        return JSONResponse({"status": "broken"}, 503)
    return JSONResponse({"status": "alive"})


@head("/health/ready")
@router.get(
    "/health/ready", response_model=Health, responses={503: {"model": Health, "description": "Send no requests."}}
)
async def ready(request: Request) -> Response:
    """Return `ready` if an engine with a verified device works and the service is not shutting down."""
    service = service_of(request)
    if service.is_ready:
        return JSONResponse({"status": "ready"})
    status = "draining" if service.is_draining else "broken" if service.is_broken else "recovering"
    return JSONResponse({"status": status}, 503)


@head("/metrics")
@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return the metrics in the text format of Prometheus."""
    return Response(await service_of(request).backend.exposition(), media_type=CONTENT_TYPE_LATEST)
