"""What someone without a guard would write: uvicorn and one ONNX Runtime session, same graph, same decoding.

    python -m benchmarks.bare_service GRAPH PIXELS --port 8000 --workers 1

No limits, no checks, no batching, no metrics: each request is decoded and scored where it is read, which is the
fastest that one process can answer one request.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from starlette.requests import Request
from uvicorn.supervisors import Multiprocess

from guard.manifest import Preprocess
from guard.preprocess import to_input


class Bare:
    """The ASGI application.

    Args:
        graph: path of the ONNX file.
        pixels: its input is (N, pixels, pixels, 3).
        threads: ONNX Runtime's.
    """

    def __init__(self, graph: str, pixels: int, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.config = Preprocess(height=pixels, width=pixels)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        images = await self._images(Request(scope, receive))
        label, probabilities, score, is_ood = self.session.run(None, {"images": images})
        answers = [
            {
                "label": int(label[i]),
                "probability": float(probabilities[i, label[i]]),
                "ood_score": float(score[i]),
                "is_ood": bool(is_ood[i]),
            }
            for i in range(len(label))
        ]
        body = json.dumps(answers).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _images(self, request: Request) -> np.ndarray:
        path = request.url.path
        if path == "/form":
            async with request.form() as form:
                encoded = [await form["image"].read()]  # type: ignore[union-attr]
        elif path == "/json":
            encoded = [base64.b64decode((await request.json())["image"])]
        elif path == "/tensor":
            body = await request.body()
            return np.frombuffer(body, np.uint8).reshape(-1, self.config.height, self.config.width, 3)
        else:
            encoded = [await request.body()]
        return np.stack([to_input(data, self.config) for data in encoded])


def make() -> Bare:
    """For uvicorn's workers."""
    graph, pixels, threads = json.loads(os.environ["BARE_SERVICE"])
    return Bare(graph, pixels, threads)


def main() -> None:
    graph, pixels, threads, port, workers = sys.argv[1:]
    os.environ["BARE_SERVICE"] = json.dumps([graph, int(pixels), int(threads)])
    config = uvicorn.Config("benchmarks.bare_service:make", factory=True, workers=int(workers), log_level="error")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # uvicorn's own socket for several workers leaves it off, and an answer in two parts then waits 40 ms for the client
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.bind(("127.0.0.1", int(port)))
    server = uvicorn.Server(config)
    if int(workers) == 1:
        server.run(sockets=[listening])
    else:
        Multiprocess(config, sockets=[listening]).run()


if __name__ == "__main__":
    main()
