from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.same_origin import HostNames
from recsys_assets.orchestration.webserver import guarded

UI = "http://127.0.0.1:3000"
SOCKET = "ws://127.0.0.1:3000/graphql"
DELETE = "mutation($id: String!) { deletePipelineRun(runId: $id) { __typename } }"
FOREIGN = {
    "another page": {"origin": "http://evil.example"},
    "another page of this machine": {"origin": "http://127.0.0.1:8000"},
    "a page without an origin": {"origin": "null"},
    "another page, its name pointed here": {"host": "evil.example:3000", "origin": "http://evil.example:3000"},
    "a page of a browser that sends no Origin": {"sec-fetch-site": "cross-site"},
    "another port, told by the browser alone": {"sec-fetch-site": "same-site"},
}
OWN = {
    "the UI": {"origin": UI, "sec-fetch-site": "same-origin"},
    "the UI behind a forwarded port": {"host": "localhost:8080", "origin": "http://localhost:8080"},
    "a program": {},
}


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Iterator[dg.DagsterInstance]:
    """That of a new home."""
    home = Home(tmp_path_factory.mktemp("served") / "home")
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as opened:
        yield opened


@pytest.fixture
def run(instance) -> str:
    """A run of the history, which must outlive what a foreign page asks for."""

    @dg.job
    def nothing() -> None: ...

    return instance.create_run_for_job(nothing).run_id


@pytest.fixture(scope="module")
def ui(instance) -> Iterator[TestClient]:
    """The app that `serve` serves, as a browser reaches it."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        home = Home(Path(instance.root_directory).parent)
        yield TestClient(guarded(context, HostNames("127.0.0.1"), home), base_url=UI)


@pytest.mark.parametrize("who", FOREIGN)
def test_a_foreign_page_deletes_nothing(ui, instance, run, who):
    """A page that somebody has open deletes runs, wipes assets or launches runs."""
    body = {"query": DELETE, "variables": {"id": run}}
    inline = DELETE.replace("($id: String!)", "").replace("$id", f'"{run}"')
    asked = [
        ui.post("/graphql", json=body, headers=FOREIGN[who]),
        ui.post("/graphql", params={"query": inline}, headers={**FOREIGN[who], "content-type": "text/plain"}),
        ui.get("/graphql", params={"query": inline}, headers=FOREIGN[who]),
    ]
    assert [answer.status_code for answer in asked] == [403] * 3
    assert instance.has_run(run)


@pytest.mark.parametrize("who", FOREIGN)
def test_a_foreign_page_reports_nothing_and_reads_nothing(ui, instance, run, who):
    """A page reports materializations that never were, or reads logs and runs under a name that it pointed here."""
    reported = ui.post("/report_asset_materialization/ratings", json={}, headers=FOREIGN[who])
    assert reported.status_code == 403
    assert instance.get_latest_materialization_event(dg.AssetKey("ratings")) is None
    for path in ("/", f"/download_debug/{run}", "/graphql"):
        assert ui.get(path, headers={"accept": "text/html", **FOREIGN[who]}).status_code == 403


@pytest.mark.parametrize("who", FOREIGN)
def test_a_foreign_page_opens_no_web_socket(ui, who):
    """A page reads the logs of runs as they are written."""
    with pytest.raises(WebSocketDisconnect), ui.websocket_connect(SOCKET, headers=FOREIGN[who]):
        pass


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_post_carries_operations(ui, instance, run, method):
    """A picture or a link whose address holds a mutation deletes a run, without any header that betrays it."""
    inline = DELETE.replace("($id: String!)", "").replace("$id", f'"{run}"')
    assert ui.request(method, "/graphql", params={"query": inline}).status_code == 403
    followed = {"accept": "text/html", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    page = ui.get("/graphql", params={"query": inline}, headers={**followed, "sec-fetch-dest": "document"})
    assert page.status_code == 200 and "GraphiQL" in page.text
    assert instance.has_run(run)


@pytest.mark.parametrize("who", OWN)
def test_the_ui_and_programs_work_as_before(ui, instance, run, who):
    """The check locks out the UI itself, `backfill` or a script."""
    body = {"query": DELETE, "variables": {"id": run}}
    assert ui.get("/", headers=OWN[who]).status_code == 200
    answer = ui.post("/graphql", json=body, headers=OWN[who])
    assert answer.json()["data"]["deletePipelineRun"]["__typename"] == "DeletePipelineRunSuccess"
    assert not instance.has_run(run)


def _over_the_socket(ui: TestClient, query: str) -> dict[str, Any]:
    with ui.websocket_connect(SOCKET, headers=OWN["the UI"]) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json()["type"] == "connection_ack"
        socket.send_json({"type": "start", "id": "1", "payload": {"query": query}})
        return dict(socket.receive_json())


def test_the_web_socket_carries_subscriptions_only(ui, instance, run):
    """What is refused by GET would go through the other door; or the UI shows no events of a run."""
    inline = DELETE.replace("($id: String!)", "").replace("$id", f'"{run}"')
    assert _over_the_socket(ui, inline)["type"] == "error"
    assert instance.has_run(run)
    instance.report_run_failed(instance.get_run_by_id(run))
    events = f'subscription {{ pipelineRunLogs(runId: "{run}", cursor: null) {{ __typename }} }}'
    assert _over_the_socket(ui, events)["payload"]["data"]["pipelineRunLogs"]


def test_no_page_shows_the_ui_in_a_frame(ui):
    """A page lays the UI, unseen, over its own buttons and has a person click 'Delete'."""
    headers = ui.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("host", "known", "unknown"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "::1"], ["192.168.0.7", "evil.example", "", "localhost.evil.example"]),
        ("0.0.0.0", ["localhost", "192.168.0.7", "2001:db8::7", "name.example"], ["evil.example"]),
    ],
)
def test_the_names_of_the_ui(monkeypatch, host, known, unknown):
    """Nobody reaches a UI that is served in the network, or any name that points here is believed."""
    monkeypatch.setattr("socket.gethostname", lambda: "name.example")
    names = HostNames(host, ["Proxy.example"])
    assert all(name in names for name in [*known, "proxy.example"])
    assert not any(name in names for name in unknown)


def test_the_report_is_beside_the_ui(ui, instance):
    """Who looks at the UI finds no way to the report, or any page in the browser can read it."""
    assert ui.get("/report").status_code == 404
    report = Home(Path(instance.root_directory).parent).report
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<title>The report</title>")
    shown = ui.get("/report")
    assert shown.status_code == 200 and "The report" in shown.text
    assert ui.get("/report", headers={"origin": "http://evil.example"}).status_code == 403
