"""`GET /docs`: the page of Swagger UI for the OpenAPI document. Knows nothing about classification.

swin-serve serves all files of the page, so that the page works offline.
"""

from functools import partial
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

ASSETS = Path(str(files("fastapi_offline"))) / "static"
SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"

# With this policy, browsers load nothing from other hosts, even if Swagger UI refers to them.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

router = APIRouter()


async def docs(request: Request) -> Response:
    """Return the page."""
    prefix = quote(request.scope.get("root_path", ""), safe="/~:@+")
    page = get_swagger_ui_html(
        openapi_url=f"{prefix}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=f"{prefix}/docs/{SCRIPT}",
        swagger_css_url=f"{prefix}/docs/{STYLE}",
        swagger_favicon_url=f"{prefix}/docs/{ICON}",
        swagger_ui_parameters={"validatorUrl": None},  # by default, the page calls a validator on another host
    )
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["X-Content-Type-Options"] = "nosniff"
    return page


async def asset(_: Request, name: str) -> Response:
    """Return a file that the page loads."""
    return FileResponse(ASSETS / name, headers={"X-Content-Type-Options": "nosniff"})


router.add_route("/docs", docs, include_in_schema=False)
for each in (SCRIPT, STYLE, ICON):
    router.add_route(f"/docs/{each}", partial(asset, name=each), name=each, include_in_schema=False)
