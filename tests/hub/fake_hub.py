"""A hub on the loopback interface that speaks the endpoints which huggingface_hub calls to upload and download."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FakeHub:
    """Repositories: name → its commits, each a dict of file name → bytes; who may read; and what was asked."""

    def __init__(self):
        self.commits, self.private, self.asked = {}, {}, []

    def commit(self, repo, files):
        before = self.commits.setdefault(repo, {})
        sha = hashlib.sha1(f"{repo} {len(before)}".encode()).hexdigest()
        before[sha] = {**(list(before.values())[-1] if before else {}), **files}
        return sha

    def newest(self, repo):
        return list(self.commits[repo])[-1]

    @contextlib.contextmanager
    def serving(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
                if self.path == "/api/validate-yaml":
                    return self.answer({"errors": [], "warnings": []})
                if self.path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked['organization']}/{asked['name']}"
                    if name in hub.commits:
                        return self.answer({"url": f"{self.root}/{name}"}, 409)
                    hub.private[name] = asked.get(
                        "visibility", "private" if asked.get("private") else "public"
                    )
                    hub.commits[name] = {}
                    hub.commit(name, {".gitattributes": b""})
                    return self.answer({"url": f"{self.root}/{name}"})
                repo, kind = re.fullmatch(
                    r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path
                ).groups()
                if kind == "preupload":
                    files = json.loads(body)["files"]
                    return self.answer(
                        {
                            "files": [
                                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for f in files
                            ]
                        }
                    )
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                sha = hub.commit(repo, files)
                return self.answer(
                    {
                        "success": True,
                        "commitOid": sha,
                        "commitUrl": f"{self.root}/{repo}/commit/{sha}",
                        "hookOutput": "",
                    }
                )

            def do_GET(self):
                hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
                found = re.fullmatch(
                    r"/api/models/([\w.-]+/[\w.-]+)/(revision|tree)/([^?]+).*", unquote(self.path)
                )
                if found and found[1] in hub.commits:
                    repo, what, revision = found.groups()
                    sha = hub.newest(repo) if revision == "main" else revision
                    if sha not in hub.commits[repo]:
                        return self.answer(
                            {"error": "no revision"}, 404, **{"X-Error-Code": "RevisionNotFound"}
                        )
                    files = hub.commits[repo][sha]
                    if what == "tree":
                        return self.answer(
                            [
                                {"type": "file", "path": p, "size": len(c), "oid": "0" * 40}
                                for p, c in files.items()
                            ]
                        )
                    names = [{"rfilename": name} for name in files]
                    return self.answer(
                        {"id": repo, "modelId": repo, "sha": sha, "siblings": names, "tags": []}
                    )
                found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", unquote(self.path))
                if not found or found[1] not in hub.commits:
                    return self.answer({"error": "no repository"}, 404, **{"X-Error-Code": "RepoNotFound"})
                sha = hub.newest(found[1]) if found[2] == "main" else found[2]
                content = hub.commits[found[1]][sha].get(found[3])
                if content is None:
                    return self.answer({"error": "no file"}, 404, **{"X-Error-Code": "EntryNotFound"})
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self.answer(content, ETag=etag, **{"X-Repo-Commit": sha})

            do_HEAD = do_GET

            @property
            def root(self):
                return f"http://{self.headers['Host']}"

            def answer(self, content, status=200, **headers):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
