"""`GET /model`: the model in service and the device of each engine."""

from typing import Any

from fastapi import APIRouter, Request

from app.http.uploads import service_of

router = APIRouter(tags=["model"])


@router.head("/model", include_in_schema=False)
@router.get("/model")
async def model(request: Request) -> dict[str, Any]:
    """Return the manifest, the labels, and a report of each engine.

    The report has the device, as the engine's session reports it, and the time of each batch size.
    """
    service = service_of(request)
    return {
        "manifest": service.bundle.manifest.model_dump(mode="json"),
        "labels": [label.name for label in service.bundle.labels],
        **await service.backend.report(),
    }
