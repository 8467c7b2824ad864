"""A local server that speaks as much of W&B's API as wandb-core needs to record a run: GraphQL, the file stream,
artifacts. What it was told is kept, so that a test reads back what W&B would have. It can also refuse and hang."""

import json
import re
import time
from urllib.parse import unquote

from tests.tracking.versions import Versions
from tests.wandb_server import Handler, running
from tests.wandb_server import Server as Base


class Server(Base):
    def __init__(self):
        super().__init__(_Handler)
        self.behaviour = "well"  # well | hangs | 401 | 500
        self.requests = []  # (path or operation, variables)
        self.bodies = []  # everything that came, as bytes
        self.runs = {}  # run id -> {"config", "groupName", "tags", "displayName", "summary", "rows"}
        self.versions = Versions(self.url)  # harnesses and adapters, with all their files
        self.files = {}  # upload path -> bytes, of what belongs to a run

    def run(self, name):
        return self.runs.setdefault(name, {"rows": [], "summary": {}})


def serving():
    return running(Server())


class _Handler(Handler):
    server: Server

    def body(self):
        body = super().body()
        self.server.bodies.append(body)
        return body

    def _bad(self):
        """Does it behave badly? Then it has."""
        if self.server.behaviour == "hangs":
            time.sleep(60)
        elif self.server.behaviour.isdigit():
            self.answer({"errors": [{"message": "no"}]}, int(self.server.behaviour))
        return self.server.behaviour != "well"

    def do_GET(self):
        self.server.requests.append((self.path, None))
        if not self._bad():
            self.answer({})

    def do_PUT(self):
        body = self.body()
        self.server.requests.append((self.path, None))
        if self._bad():
            return
        if self.path.startswith("/versions/"):
            self.server.versions.put(unquote(self.path), body)
        else:
            self.server.files[self.path] = body
        self.answer({})

    def do_POST(self):
        body = self.body()
        if self._bad():
            return
        if self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body))
        elif self.path.endswith("/graphql"):
            self._graphql(json.loads(body))
        else:  # telemetry of wandb's own
            self.server.requests.append((self.path, None))
            self.answer({})

    def _stream(self, name, said):
        self.server.requests.append(("file_stream", said))
        run = self.server.run(name)
        for file, part in (said.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if file == "wandb-history.jsonl":
                run["rows"][part["offset"] :] = lines
            elif file == "wandb-summary.json":
                run["summary"] = lines[-1]
        self.answer({"exitcode": None, "limits": {}})

    def _graphql(self, asked):
        query, given = asked["query"], asked.get("variables") or {}
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        self.server.requests.append((name, given))
        answer = getattr(self, f"_{name}", None) or getattr(self.server.versions, name, None)
        data = answer(given, query) if answer else {}
        self.answer({"data": data})

    def _Viewer(self, given, query):
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _RunResumeStatus(self, given, query):
        if given["name"] not in self.server.runs:
            return {"model": {"bucket": None, "id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}}
        run = self.server.runs[given["name"]]
        rows = run["rows"]
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        bucket = {
            "id": "run", "name": given["name"], "historyLineCount": len(rows), "logLineCount": 0, "eventsLineCount": 0,
            "historyTail": tail, "eventsTail": "[]", "summaryMetrics": json.dumps(run["summary"]),
            "config": run.get("config") or "{}", "displayName": run.get("displayName"), "tags": run.get("tags"),
            "wandbConfig": json.dumps({"t": 1}), "stopped": False,
        }  # fmt: skip
        return {"model": {"bucket": bucket, "id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}}

    def _ArtifactType(self, given, query):
        return {"project": {"artifact": None}}

    def _ServerFeaturesQuery(self, given, query):
        return {"serverInfo": {"features": []}}

    def _CreateRunFiles(self, given, query):
        files = [{"name": name, "uploadUrl": f"{self.server.url}/files/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}

    def _UpsertBucket(self, given, query):
        run = self.server.run(given["name"])
        run |= {key: value for key, value in given.items() if value is not None}
        if given.get("summaryMetrics"):
            run["summary"] = json.loads(given["summaryMetrics"])
        project = {"id": "p", "name": given.get("project") or "p", "entity": {"id": "e", "name": "me"}}
        bucket = {
            "id": "run", "name": given["name"], "displayName": given.get("displayName"), "description": None,
            "config": given.get("config"), "sweepName": None, "historyLineCount": len(run["rows"]), "project": project,
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": len(run["rows"]) == 0}}
