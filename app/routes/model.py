"""`GET /model`: what is being served, and where it really runs."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from app.routes.upload import service_of

router = APIRouter(tags=["model"])


@router.get("/model")
async def model(request: Request) -> dict[str, Any]:
    """The manifest, the device as the session reports it, and the time each bucket took at warm-up."""
    service = service_of(request)
    return {
        "manifest": service.bundle.manifest.model_dump(mode="json"),
        "labels": [label.name for label in service.bundle.labels],
        "device": asdict(service.engine.truth),
        "buckets": [
            {"batch": bucket, "milliseconds": round(seconds * 1e3, 3)}
            for bucket, seconds in service.engine.bucket_seconds.items()
        ],
    }
