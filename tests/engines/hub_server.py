"""A notebook server as a hub and its users see one; costs no time to start.

``python hub_server.py FOLDER IMAGE --port=… --ServerApp.base_url=…``
"""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder, image = sys.argv[1:3]
options = dict(word.partition("=")[::2] for word in sys.argv[3:])
base = options["--ServerApp.base_url"]
with open(os.environ["JUPYTER_TOKEN_FILE"], encoding="utf-8") as file:  # noqa: PTH123 - no site
    token = file.read()

while image.startswith("test/slow") and not os.path.exists(f"{folder}/go"):  # noqa: PTH110
    time.sleep(0.02)
while image.startswith("test/mute"):
    time.sleep(3600)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"token {token}"
        status = 404
        if self.path == f"{base}api":
            status = 200
        elif self.path == f"{base}api/status":
            status = 200 if known else 403
        body = b'{"started": "now"}' if status == 200 else b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


try:
    ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
