"""Log one event as on a terminal.

python -m tests.service.server.log_on_console
"""

from __future__ import annotations

import structlog

from service.observability import logs

if __name__ == "__main__":
    logs.configure("info", "console")
    structlog.get_logger().info("serving", url="http://a", decode="curl -d '[1]'")
