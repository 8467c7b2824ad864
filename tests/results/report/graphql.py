"""A local HTTP server that answers as much of W&B's GraphQL as saving a report and reading it back ask for, to who has
the key, and keeps what it was told."""

import base64
import json
import re

from tests.wandb_server import KEY, Handler, running
from tests.wandb_server import Server as Base

ID = "Vmlldzox"
_BASIC = f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"


class Server(Base):
    def __init__(self, projects=("sia",)):
        super().__init__(_Handler)
        self.projects = list(projects)
        self.refuses = 0  # HTTP status to answer everything with
        self.saved = []  # variables of each upsertView
        self.asked = []  # names of the operations
        self.received = []  # all that was sent, as text: request lines, headers but the key's, bodies


def serving(**given):
    return running(Server(**given))


class _Handler(Handler):
    server: Server

    def do_GET(self):
        self._read()
        self.answer({})

    def do_POST(self):
        body = self._read()
        if self.server.refuses or self.headers.get("Authorization") != _BASIC:
            self.answer({"errors": [{"message": "no"}]}, self.server.refuses or 401)
            return
        if not self.path.endswith("/graphql"):
            self.answer({})
            return
        asked = json.loads(body)
        name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
        self.server.asked.append(name)
        answer = getattr(self, f"_{name}", None)
        if answer:
            self.answer({"data": answer(asked.get("variables") or {})})
        else:
            self.answer({"errors": [{"message": f"this server knows no {name}"}]})

    def _read(self):
        body = self.body()
        headers = [f"{key}: {value}" for key, value in self.headers.items() if key != "Authorization"]
        self.server.received.append("\n".join([self.requestline, *headers, body.decode()]))
        return body

    def _Viewer(self, _):
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _ProjectInternalId(self, given):
        known = given["projectName"] in self.server.projects
        return {"project": {"id": "UHJvamVjdA==", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="} if known else None}

    def _GetProjects(self, given):
        node = {"__typename": "Project", "id": "p", "entityName": "me", "createdAt": "2026-01-01T00:00:00Z"}
        edges = [{"node": node | {"name": name, "isBenchmark": False, "user": None}} for name in self.server.projects]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    def _CreateProject(self, given):
        self.server.projects.append(given["input"]["name"])
        made = {"id": "p", "name": given["input"]["name"], "entityName": "me"}
        return {"result": {"project": made, "model": made, "inserted": True}}

    def _upsertView(self, given):
        self.server.saved.append(given)
        return {"upsertView": {"view": self._view(given), "inserted": True}}

    def _SpecificReport(self, given):
        return {"view": self._view(self.server.saved[-1]) if given["reportId"] == ID else None}

    def _view(self, given):
        return {
            "id": ID,
            "type": given["type"],
            "name": given["name"],
            "displayName": given["displayName"],
            "description": given["description"],
            "project": {"id": "p", "name": given["projectName"], "entityName": given["entityName"]},
            "spec": given["spec"],
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
        }
