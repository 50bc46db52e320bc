"""The API documentation page."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse


def documentation_page(app: FastAPI, root_path: str) -> HTMLResponse:
    """Return the page `/docs`, with a content security policy that allows only its own scripts.

    Its viewer comes from the content delivery network that FastAPI names, and of that network
    only the page's own files are admitted; the one script in the page itself is by its hash.
    """
    page = get_swagger_ui_html(openapi_url=f"{root_path}{app.openapi_url}", title=app.title)
    text = bytes(page.body).decode()
    scripts = " ".join(sorted(set(re.findall(r'<script src="(https://[^"?;,]+)', text))))
    styles = " ".join(sorted(set(re.findall(r'href="(https://[^"?;,]+\.css)', text))))
    images = " ".join(sorted(set(re.findall(r'href="(https://[^"?;,]+\.png)', text))))
    inline = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    )
    policy = (
        f"default-src 'none'; script-src {scripts} {inline}; style-src {styles} 'unsafe-inline'; "
        f"img-src 'self' data: {images}; connect-src 'self'; frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})
