#!/usr/bin/env bash
# A real, rootful Docker engine of its own for tests and development: no systemd, no change to the host's network.
#   docker.sh up       install it where it is missing (root on Debian), start it, make the sandbox's image
#   docker.sh down     stop it; images stay
#   docker.sh reset    stop it and delete all it holds
# Both `up` and `env` end with the line to evaluate: export DOCKER_HOST=…
# Where no image registry can be reached, the image is made of the Python that $PYTHON names (default: python3).
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
HOME_OF_ENGINE=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/docker
IMAGE=${SIA_IMAGE:-sia-runner-sandbox}
export DOCKER_HOST=unix://$HOME_OF_ENGINE/docker.sock

answers() { docker version >/dev/null 2>&1; }
pid_of_engine() { cat "$HOME_OF_ENGINE/docker.pid" 2>/dev/null; }

install_engine() {
  command -v dockerd >/dev/null && return
  echo "installing docker.io" >&2
  DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends docker.io >"$HOME_OF_ENGINE/apt.log" 2>&1 ||
    { tail -5 "$HOME_OF_ENGINE/apt.log" >&2; return 1; }
}

start_engine() {
  answers && return
  # sandboxes have no network, so the engine needs none: iptables and forwarding of the host stay as they are
  setsid dockerd --host="$DOCKER_HOST" --data-root="$HOME_OF_ENGINE/data" --exec-root="$HOME_OF_ENGINE/exec" \
    --pidfile="$HOME_OF_ENGINE/docker.pid" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --bridge=none --exec-opt native.cgroupdriver=cgroupfs </dev/null >"$HOME_OF_ENGINE/dockerd.log" 2>&1 &
  for _ in $(seq 300); do answers && return; sleep .1; done
  tail -5 "$HOME_OF_ENGINE/dockerd.log" >&2
  return 1
}

make_image() {
  docker image inspect "$IMAGE" >/dev/null 2>&1 && return
  local folder=$HERE/../../sia_runner/sandbox/image base
  base=$(sed -n 's/^FROM //p' "$folder/Dockerfile")
  if timeout "${SIA_PULL_SECONDS:-60}" docker pull -q "$base" >"$HOME_OF_ENGINE/pull.log" 2>&1; then
    docker build --network host -q -t "$IMAGE" "$folder" >&2
  else
    echo "no image registry in reach ($(tail -1 "$HOME_OF_ENGINE/pull.log")): image of ${PYTHON:-python3}" >&2
    "${PYTHON:-python3}" "$HERE/image_from_python.py" "$folder/requirements.txt" |
      docker import -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$IMAGE" >&2
  fi
}

stop_engine() {
  local pid
  pid=$(pid_of_engine) && kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep .1; done
}

case "${1:-up}" in
  up)
    mkdir -p "$HOME_OF_ENGINE"
    install_engine
    start_engine
    make_image
    docker info --format '# docker {{.ServerVersion}}, cgroup v{{.CgroupVersion}}, {{.Driver}}, {{.SecurityOptions}}'
    echo "export DOCKER_HOST=$DOCKER_HOST" ;;
  env) echo "export DOCKER_HOST=$DOCKER_HOST" ;;
  down) stop_engine ;;
  reset) stop_engine; rm -rf "$HOME_OF_ENGINE" ;;
  *) echo "usage: $0 up|down|reset|env" >&2; exit 2 ;;
esac
