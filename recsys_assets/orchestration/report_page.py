"""The report beside the UI: `serve` answers REPORT_PATH with the report of the home that it serves."""

from html import escape

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from recsys_assets.home.layout import Home

REPORT_PATH = "/report"


def report_route(home: Home) -> Route:
    """The route of the report of a home."""

    def shown(_: Request) -> Response:
        if home.report.is_file():
            return FileResponse(home.report, media_type="text/html", headers={"Cache-Control": "no-cache"})
        told = f"<p>There is no report in {escape(str(home.path))} yet. A run of <code>refresh</code> makes one.</p>"
        return HTMLResponse(told, status_code=404)

    return Route(REPORT_PATH, shown)
