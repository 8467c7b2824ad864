"""A program in the place of vLLM, for what befalls servers rather than what they compute: it loads no model.

It takes vLLM's options and answers on its endpoints. A child process stands for vLLM's engine; `--folder` takes what it
notes (PID.json: its options and variables; PID.log: a line for each request) and the files that change what it does:
    broken: it ends before it answers     slow: it never answers     stubborn: SIGTERM ends neither it nor its engine
    wait: requests for a completion wait while the file is there
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ARGUMENTS = sys.argv[1:]
FOLDER = Path(ARGUMENTS[ARGUMENTS.index("--folder") + 1])
PORT = int(ARGUMENTS[ARGUMENTS.index("--port") + 1])
HOST = ARGUMENTS[ARGUMENTS.index("--host") + 1]
NAME = ARGUMENTS[ARGUMENTS.index("--served-model-name") + 1]
ENGINE = "import signal, sys, time; {}; time.sleep(600)"
ADAPTERS: dict[str, str] = {}


def there(name: str) -> bool:
    return (FOLDER / name).exists()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": NAME, "max_model_len": 96}]})
        else:
            self.answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.answer(401, {"error": {"message": "no key"}})
        with (FOLDER / f"{os.getpid()}.log").open("a") as log:
            print(self.path, body.get("model") or body.get("lora_name"), file=log)
        if self.path == "/v1/load_lora_adapter":
            if not Path(body["lora_path"]).is_dir():
                return self.answer(404, {"error": {"message": f"No adapter found for {body['lora_path']}"}})
            ADAPTERS[body["lora_name"]] = body["lora_path"]
            return self.answer(200, {})
        if self.path == "/v1/unload_lora_adapter":
            return self.answer(200 if ADAPTERS.pop(body["lora_name"], None) else 404, {})
        while there("wait"):
            time.sleep(0.02)
        if body["model"] != NAME and body["model"] not in ADAPTERS:
            return self.answer(404, {"error": {"message": f"no model {body['model']}"}})
        shown = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0, "b": -1.0}]}
        self.answer(200, {"choices": [{"token_ids": [1], "logprobs": shown, "finish_reason": "stop"}]})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if there("stubborn") else "0"
    engine = subprocess.Popen([sys.executable, "-c", ENGINE.format(ignore)], start_new_session=True)
    if there("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    noted = {"arguments": ARGUMENTS, "cards": os.environ.get("CUDA_VISIBLE_DEVICES"), "engine": engine.pid}
    (FOLDER / f"{os.getpid()}.json").write_text(json.dumps(noted | {"rank": os.environ.get("RANK")}))
    if there("broken"):
        print("(APIServer) WARNING 11-29 [utils.py:2] This can cause errors like `OSError: Too many open files`.")
        print("(EngineCore) ERROR 11-29 [core.py:1] ValueError: No available memory for the cache blocks.")
        print("RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(1)
    while there("slow"):
        time.sleep(0.05)
    http.server.ThreadingHTTPServer((HOST, PORT), Handler).serve_forever()
