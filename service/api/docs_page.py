"""The API documentation page."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse


def documentation_page(app: FastAPI) -> HTMLResponse:
    """Return the page `/docs`, with a content security policy that allows only its own scripts.

    The viewer is loaded from the content delivery network that FastAPI uses; the inline script
    is allowed by its hash.
    """
    page = get_swagger_ui_html(openapi_url=str(app.openapi_url), title=app.title)
    text = bytes(page.body).decode()
    hosts = " ".join(sorted(set(re.findall(r'(?:src|href)="(https://[^/"]+)', text))))
    inline = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    )
    policy = (
        f"default-src 'none'; script-src {hosts} {inline}; style-src {hosts} 'unsafe-inline'; "
        f"img-src 'self' data: {hosts}; connect-src 'self'; frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})
