"""Routes of the playground, and the server on loopback."""

from __future__ import annotations

import importlib.resources
import io
import json
import re
import socket
import zipfile
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from worldgymnast.errors import InputError
from worldgymnast.playground.guard import Guard
from worldgymnast.playground.live import Live, picture
from worldgymnast.playground.session import Session
from worldgymnast.playground.visits import Visits
from worldgymnast.playground.watch import Watch
from worldgymnast.video import png, side_by_side, viewable

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_FOREVER = "private, max-age=86400, immutable"
_CLIP_PIXELS = 256
"""Smallest width of each video in an exported clip."""
_TOO_MANY = 4429
"""Close code of a refused session."""


def page(name: str) -> Response:
    """A file of the package's page folder."""
    content = (importlib.resources.files("worldgymnast.playground") / "page" / name).read_bytes()
    return Response(content, media_type=_KINDS[name.rpartition(".")[2]])


def file_route(path: str, name: str) -> Route:
    """Route of a file of the page folder."""

    async def endpoint(request: Request) -> Response:
        return page(name)

    return Route(path, endpoint)


async def refuse(request: Request, error: Exception) -> Response:
    """Answer a request that names nothing."""
    return JSONResponse({"error": str(error)}, 404)


class Playground:
    """The web side of the sessions.

    Attributes:
        visits: the sessions.
        names: names of "world", "policy" and "judge", for the page.
    """

    def __init__(self, visits: Visits, names: Mapping[str, str]):
        self.visits, self.names = visits, dict(names)

    def app(self, token: str | None = None) -> Guard:
        """The application, behind its secret."""
        routes = [
            file_route("/", "play.html"),
            file_route("/play.js", "play.js"),
            file_route("/charts.js", "charts.js"),
            file_route("/controls.js", "controls.js"),
            file_route("/play.css", "play.css"),
            file_route("/icon.svg", "icon.svg"),
            Route("/frame/{visit}/{node:int}", self._frame),
            Route("/real/{scene:int}/{frame:int}", self._real),
            Route("/clip/{visit}.mp4", self._clip),
            Route("/start/{visit}/{node:int}.zip", self._start),
            WebSocketRoute("/live", self._live),
        ]
        return Guard(Starlette(routes=routes, exception_handlers={InputError: refuse}), token)

    async def _live(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            scene = int(socket.query_params.get("scene", "0"))
            visit = await anyio.to_thread.run_sync(
                lambda: self.visits.enter(socket.query_params.get("visit", ""), scene)
            )
        except (InputError, ValueError) as error:
            await socket.send_text(json.dumps({"is": "refused", "text": str(error)}))
            await socket.close(_TOO_MANY)
            return
        try:
            await Live(socket, visit, self.visits, self.names).run()
        except WebSocketDisconnect:
            pass
        finally:
            self.visits.leave(visit)

    def _session(self, request: Request) -> Session:
        return self.visits[request.path_params["visit"]].session

    async def _frame(self, request: Request) -> Response:
        return _image(self._session(request).tree[request.path_params["node"]].frame)

    async def _real(self, request: Request) -> Response:
        scene = await anyio.to_thread.run_sync(lambda: self.visits.scenes[request.path_params["scene"]])
        index = request.path_params["frame"]
        if scene.log is None and index == 0:
            return _image(scene.start.frame, _FOREVER)
        if scene.log is None or index >= len(scene.log.frames):
            raise InputError(f"frame: there is no real frame {index}")
        return _image(scene.log.frames[index], _FOREVER)

    async def _clip(self, request: Request) -> Response:
        session, query = self._session(request), request.query_params
        names = [name for name in query.get("lines", "A").split(",") if name]
        clips = [session.clip(name) for name in names]
        if not clips:
            raise InputError("lines: expected at least one")
        real = session.real_clip(max(map(len, clips))) if query.get("real") == "1" else None
        if real is not None:
            clips.append(real)
        content = await anyio.to_thread.run_sync(
            lambda: viewable(side_by_side(clips), session.world.fps, _CLIP_PIXELS * len(clips))
        )
        headers = {"content-disposition": f'attachment; filename="{_slug(session.instruction)}.mp4"'}
        return Response(content, media_type="video/mp4", headers=headers)

    async def _start(self, request: Request) -> Response:
        session = self._session(request)
        node = session.tree[request.path_params["node"]]
        name = _slug(session.instruction)
        labels = {"instruction": session.instruction, "task": session.scene.start.task or session.instruction}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(f"{name}.png", png(node.frame))
            archive.writestr(f"{name}.json", json.dumps(labels, indent=2, ensure_ascii=False) + "\n")
        headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
        return Response(buffer.getvalue(), media_type="application/zip", headers=headers)


def watch_app(watch: Watch, token: str | None = None) -> Guard:
    """The page that watches a run, behind its secret."""

    async def state(request: Request) -> Response:
        known = request.query_params.get("version", "")
        return JSONResponse(await anyio.to_thread.run_sync(lambda: watch.snapshot(known)))

    async def video(request: Request) -> Response:
        index, kind = request.path_params["index"], request.path_params["kind"]
        content = await anyio.to_thread.run_sync(lambda: watch.video(index, kind))
        return Response(content, media_type="video/mp4", headers={"cache-control": _FOREVER})

    routes = [
        file_route("/", "watch.html"),
        file_route("/watch.js", "watch.js"),
        file_route("/watch.css", "watch.css"),
        file_route("/play.css", "play.css"),
        file_route("/icon.svg", "icon.svg"),
        Route("/state", state),
        Route("/video/{index:int}/{kind}", video),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={InputError: refuse}), token)


def _image(frame: np.ndarray, cache: str = "no-store") -> Response:
    content = picture(frame)
    kind = "image/png" if content[:4] == b"\x89PNG" else "image/jpeg"
    return Response(content, media_type=kind, headers={"cache-control": cache})


def _slug(text: str) -> str:
    """A sentence as a file name.

    >>> _slug("Open the drawer!")
    'open-the-drawer'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "start"


class Server:
    """A server on loopback.

    Attributes:
        url: address of the page, with its secret.
    """

    def __init__(self, app: Guard, port: int = 0):
        """Bind the port; 0 chooses a free one.

        Raises:
            InputError: the port is taken or not allowed.
        """
        # asyncio sends small messages at once only on sockets that name TCP; others wait 40 ms for an acknowledgement
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(128)  # a browser that is faster than the server waits
        except OSError as error:
            self._socket.close()
            raise InputError(
                f"--port: cannot use {port} ({error.strerror}). Give another, or 0 for a free one"
            ) from error
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/{app.token}/"
        self._server = uvicorn.Server(_config(app))

    def run(self) -> None:
        """Serve until `stop`, or until Ctrl-C, which raises KeyboardInterrupt."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True


def _config(app: ASGIApp) -> uvicorn.Config:
    settings: dict[str, Any] = {
        "log_level": "error",  # a request line contains the secret
        "access_log": False,
        "ws": "websockets-sansio",
        "ws_max_size": 65_536,
        "ws_per_message_deflate": False,
        "server_header": False,
        "timeout_graceful_shutdown": 1,
    }
    return uvicorn.Config(app, **settings)
