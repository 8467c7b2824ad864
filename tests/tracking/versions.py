"""The half of the server that keeps artifacts: W&B's conversation of create, manifest, files, upload, commit. A version
is committed only when every file of its manifest has arrived with the checksum that the manifest names."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Version:
    id: str
    asked: dict[str, Any]  # the variables of CreateArtifact
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def kind(self):
        return self.asked["artifactTypeName"]

    @property
    def collection(self):
        return self.asked["artifactCollectionName"]

    @property
    def metadata(self):
        return json.loads(self.asked["metadata"] or "{}")

    @property
    def aliases(self):
        return [one["alias"] for one in self.asked["aliases"]]

    def complete(self):
        """Did all come, whole?"""
        wanted = {name: entry["digest"] for name, entry in self.manifest["contents"].items() if "ref" not in entry}
        return wanted == {name: _md5(body) for name, body in self.files.items()}


class Versions:
    """`url` is where files are put."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.all: list[Version] = []
        self._lock = threading.Lock()

    def of(self, kind: str) -> list[Version]:
        return [one for one in self.all if one.kind == kind]

    def put(self, path: str, body: bytes) -> None:
        """``/versions/<id>/files/<name>`` or ``/versions/<id>/manifest``."""
        _, _, number, what, *name = path.split("/", 4)
        if what == "manifest":
            self._by(number).manifest = json.loads(body)
        else:
            self._by(number).files[name[0]] = body

    def CreateArtifact(self, given: dict[str, Any], query: str) -> dict[str, Any]:
        """Return the newest version of the collection if the new one equals it, as W&B does, else a new one."""
        asked = given["input"]
        with self._lock:
            before = [one for one in self.all if one.collection == asked["artifactCollectionName"]]
            newest = before[-1] if before else None
            if newest and newest.committed and newest.asked["digest"] == asked["digest"]:
                version, state = newest, "COMMITTED"
            else:
                version, state = Version(f"v{len(self.all)}", asked), "PENDING"
                self.all.append(version)
        latest = {"id": newest.id, "versionIndex": len(before) - 1} if newest else None
        return {
            "createArtifact": {
                "artifact": {"id": version.id, "state": state, "artifactSequence": {"latestArtifact": latest}}
            }
        }

    def CreateArtifactManifest(self, given: dict[str, Any], query: str) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(given["artifactID"])}}

    def UpdateArtifactManifest(self, given: dict[str, Any], query: str) -> dict[str, Any]:
        number = given["artifactManifestID"].removeprefix("m-")
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(number)}}

    def CreateArtifactFiles(self, given: dict[str, Any], query: str) -> dict[str, Any]:
        nodes = [self._file(one["artifactID"], one["name"]) for one in given["input"]["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def CommitArtifact(self, given: dict[str, Any], query: str) -> dict[str, Any]:
        version = self._by(given["artifactID"])
        version.committed = version.complete()
        assert version.committed, "files are missing or differ from their checksums"
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.asked["digest"]}}}

    def _by(self, number: str) -> Version:
        return next(one for one in self.all if one.id == number)

    def _manifest(self, number: str) -> dict[str, Any]:
        upload = {"id": f"f-{number}", "uploadUrl": f"{self._url}/versions/{number}/manifest", "uploadHeaders": []}
        return {"id": f"m-{number}", "file": upload}

    def _file(self, number: str, name: str) -> dict[str, Any]:
        where = f"versions/{number}/files/{name}"
        upload = {"storagePath": where, "uploadUrl": f"{self._url}/{where}", "uploadHeaders": []}
        return {**upload, "uploadMultipartUrls": None, "artifact": {"id": number}}


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
