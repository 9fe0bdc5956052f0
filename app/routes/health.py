"""Liveness, readiness and metrics."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.routes.upload import service_of
from app.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> Health:
    """The process lives. Restart it only when this does not answer."""
    return Health(status="alive")


@router.get(
    "/health/ready", response_model=Health, responses={503: {"model": Health, "description": "Send no requests."}}
)
async def ready(request: Request) -> Response:
    """The device is proved, the golden samples pass, and the service is not shutting down."""
    service = service_of(request)
    if service.is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "draining" if service.is_draining else "broken"}, 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    body, media_type = service_of(request).metrics.render()
    return Response(body, media_type=media_type)
