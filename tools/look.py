"""Pictures of pages, as a reader sees them: desktop and phone width, light and dark.

    python tools/look.py book/index book/1-integrators/euler --out pictures [--height 3000]
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import threading
from pathlib import Path

from bookkit import browser, build

WIDTHS = {"desktop": 1280, "phone": 390}


class Handler(http.server.SimpleHTTPRequestHandler):
    """The built pages; `/look/WIDTH/HEIGHT/THEME/PAGE` shows one in a frame of that size."""

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "look":
            _, width, height, theme, *page = parts
            self.answer(
                f"<body style='margin:0'><script>localStorage.setItem('mode', '{theme}');"
                f"localStorage.setItem('theme', '{theme}')</script><iframe src='/{'/'.join(page)}' "
                f"style='border:0;width:{width}px;height:{height}px'></iframe></body>"
            )
        else:
            super().do_GET()

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, default=3000)
    options = parser.parse_args()
    if not browser.find():
        sys.exit("no Chromium found: install chromium")
    options.out.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(Handler, directory=str(build.HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for page in options.pages:
        for name, width in WIDTHS.items():
            for theme in ("light", "dark"):
                path = options.out / f"{page.replace('/', '_')}-{name}-{theme}.png"
                browser.chromium([
                    f"--screenshot={path}", f"--window-size={max(width, 500)},{options.height}",
                    "--virtual-time-budget=15000",
                    f"http://127.0.0.1:{server.server_port}/look/{width}/{options.height}/{theme}/"
                    f"{page}.html",
                ])
                print(path)
    server.shutdown()


if __name__ == "__main__":
    main()
