import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi

from bertpress.artifact import hub, load
from bertpress.errors import ArtifactError, MachineError

TOKEN = "hf_thisIsNoRealToken"


class Hub(BaseHTTPRequestHandler):
    """Just enough of the hub's API: make a repository, say how to upload, take a commit."""

    def log_message(self, *args):
        pass

    def reply(self, fields, status=200):
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.server.refuses:
            return self.reply({"error": "not allowed"}, 403)
        return self.reply({"id": "user/name", "sha": "0" * 40, "siblings": [], "tags": [], "private": False})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        if self.server.refuses:
            return self.reply({"error": "not allowed"}, 403)
        if self.path == "/api/repos/create":
            return self.reply({"url": self.server.address + "/user/name", "name": "user/name"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plain = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self.reply({"files": plain})
        if "/commit/" in self.path:
            where = self.server.address + "/user/name/commit/" + "1" * 40
            return self.reply({"commitUrl": where, "commitOid": "1" * 40})
        return self.reply({})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the only host asked is this process
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.refuses = [], False
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def committed(server):
    (body,) = [body for path, _, body in server.seen if "/commit/" in path]
    entries = [json.loads(line) for line in body.splitlines()]
    return {entry["value"]["path"] for entry in entries if entry["key"] == "file"}


def test_the_files_of_the_manifest_and_no_others_are_uploaded(folder, server):
    (folder / ".env").write_text("SECRET=1")
    (folder / "notes.txt").write_text("private")
    artifact = load(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    api = HfApi(endpoint=server.address, token=TOKEN)
    url = hub.push(folder, artifact.manifest, "user/name", private=True, api=api)
    assert url == f"{server.address}/user/name/commit/{'1' * 40}"
    assert committed(server) == {"bertpress.json", *artifact.manifest.files}
    path, authorization, body = server.seen[0]
    assert (path, authorization) == ("/api/repos/create", f"Bearer {TOKEN}")
    assert json.loads(body)["name"].endswith("name")
    assert b"private" in body
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert all(TOKEN.encode() not in body for _, _, body in server.seen)


def test_a_refusal_is_one_line(folder, server):
    server.refuses = True
    api = HfApi(endpoint=server.address, token=TOKEN)
    with pytest.raises(MachineError, match=r"user/name: upload failed: .*403") as caught:
        hub.push(folder, load(folder).manifest, "user/name", api=api)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_an_artifact_hands_its_own_folder_on_and_checks_it_first(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(hub, "push", lambda *args, **options: calls.append((args, options)) or "url")
    artifact = load(folder)
    assert artifact.push_to_hub("user/name", token=TOKEN) == "url"
    assert calls == [((folder, artifact.manifest, "user/name"), {"private": None, "token": TOKEN, "message": None})]
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json: must have SHA-256"):
        artifact.push_to_hub("user/name")


def test_a_wrong_name_is_one_line(folder):
    with pytest.raises(MachineError, match="a//b: upload failed"):
        hub.push(folder, load(folder).manifest, "a//b", api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))


def test_an_artifact_comes_back_by_its_name(folder, tmp_path, monkeypatch):
    """As the hub's cache keeps it: a folder of links into blobs."""
    snapshot = tmp_path / "cache" / "models--user--name" / "snapshots" / ("1" * 40)
    blobs = tmp_path / "cache" / "models--user--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: asked.append(name) or str(snapshot))
    artifact = load("user/name")
    assert asked == ["user/name"]
    assert artifact.task.name == "sst2"
    assert len(list(artifact.predict(["good film"], threads=1))) == 1


def test_a_name_that_nobody_knows_is_one_line(monkeypatch):
    def offline(name):
        raise OSError("cannot\nconnect")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ArtifactError, match=r"user/name: no such folder, and the hub gave none \(OSError: cannot connect\)"
    ):
        load("user/name")
    with pytest.raises(ArtifactError, match="gone: no such folder"):
        load("gone")
