#!/usr/bin/env bash
# A real server of the Tinker protocol (SkyRL, JAX) on this machine's CPU, in an environment of its own, and the SDK.
#   tinker.sh up       install what is missing (2.5 GB, Python 3.11), start the server; it takes 3 GB of memory and more with each length of rows
#   tinker.sh down     stop it; environment, model and what it saved stay
# Both `up` and `env` end with the lines to evaluate: export SIA_TINKER_URL=…, SIA_TINKER_STATE=… (the server's folder)
# and SIA_SMOLLM2=… (the model's folder). PYTHON names an interpreter with the extra `training`: it makes the model's
# folder, and `up` installs the SDK that speaks this server's format into it.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
HOME_OF_ENGINE=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/tinker
PORT=${SIA_TINKER_PORT:-8429}
ENVIRONMENT=${SIA_TINKER_VENV:-$HOME_OF_ENGINE/venv} MODEL=${SIA_SMOLLM2:-$HOME_OF_ENGINE/smollm2} STATE=$HOME_OF_ENGINE/state
VERSION=0.3.0 # the last of SkyRL for Python 3.11
SDK='tinker<0.25' # 0.25 speaks another format to it, which it never answers

answers() { "$ENVIRONMENT/bin/python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/api/v1/healthz', timeout=2)" 2>/dev/null; }

install_server() {
  [ -x "$ENVIRONMENT/bin/python" ] && return
  local work
  work=$(mktemp -d)
  "$("$HERE/../../.ci/python" 3.11)" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q torch==2.13.0
  "$work/venv/bin/pip" install -q "skyrl[tinker,jax]==$VERSION" "$SDK" aiohttp uv
  # on Python 3.11 pydantic wants the TypedDict of typing_extensions, where SkyRL imports typing's
  mkdir "$work/venv/mend"
  echo "import typing, typing_extensions; typing.TypedDict = typing_extensions.TypedDict" >"$work/venv/mend/sitecustomize.py"
  mv "$work/venv" "$ENVIRONMENT" && rm -rf "$work"
}

install_sdk() { # where the tests run
  "${PYTHON:-python3}" -c 'import importlib.metadata as m; assert m.version("tinker") < "0.25"' 2>/dev/null ||
    "${PYTHON:-python3}" -m pip install -q "$SDK"
}

make_model() {
  [ -f "$MODEL/config.json" ] && return
  "${PYTHON:-python3}" "$HERE/smollm2.py" "$MODEL"
}

start_server() {
  answers && return
  mkdir -p "$STATE"
  # `uv run` starts it, as it copies that command's flags for the process of its engine. Slot 0 is the base's.
  # Each number of rows in a pass is compiled by itself: so one row; a server that starts again finds what was compiled.
  JAX_COMPILATION_CACHE_DIR=$HOME_OF_ENGINE/compiled HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 PYTHONPATH=$ENVIRONMENT/mend VIRTUAL_ENV=$ENVIRONMENT PATH=$ENVIRONMENT/bin:$PATH \
    setsid uv run --active --no-project --offline -m skyrl.tinker.api --base-model "$MODEL" --backend jax --port "$PORT" \
    --backend-config '{"max_lora_adapters":4,"max_lora_rank":8,"train_micro_batch_size":1,"sample_max_num_sequences":4}' \
    --checkpoints-base "$STATE/checkpoints" --database-url "sqlite:///$STATE/tinker.db" \
    </dev/null >"$HOME_OF_ENGINE/server.log" 2>&1 &
  echo $! >"$HOME_OF_ENGINE/pid"
  for _ in $(seq 240); do
    answers && return
    kill -0 "$(cat "$HOME_OF_ENGINE/pid")" 2>/dev/null || break
    sleep .5
  done
  tail -5 "$HOME_OF_ENGINE/server.log" >&2
  return 1
}

stop_server() { # the process group: server, engine, and what started them
  local pid
  pid=$(cat "$HOME_OF_ENGINE/pid" 2>/dev/null) && kill -- "-$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 -- "-$pid" 2>/dev/null || return 0; sleep .1; done
  kill -9 -- "-$pid" 2>/dev/null || true
}

lines() { printf 'export SIA_TINKER_URL=http://127.0.0.1:%s\nexport SIA_TINKER_STATE=%s\nexport SIA_SMOLLM2=%s\n' "$PORT" "$STATE" "$MODEL"; }

case "${1:-up}" in
  up)
    mkdir -p "$HOME_OF_ENGINE"
    install_server
    install_sdk
    make_model
    start_server
    echo "# skyrl $VERSION, on the CPU"
    lines ;;
  env) lines ;;
  down) stop_server ;;
  *) echo "usage: $0 up|down|env" >&2; exit 2 ;;
esac
