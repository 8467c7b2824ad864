#!/usr/bin/env bash
# PEFT 0.12 and a transformers of its time, in an environment of their own (1.1 GB): the tests run programs in it.
#   earlier_peft.sh up|down|env      `up` and `env` end with the line to evaluate: export SIA_EARLIER_PEFT=… (its Python)
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ENVIRONMENT=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/earlier_peft

install() {
  [ -x "$ENVIRONMENT/bin/python" ] && return
  local work
  work=$(mktemp -d)
  "$("$HERE/../../.ci/python" 3.11)" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q 'peft==0.12.*' 'transformers==4.46.*' torch==2.13.0 numpy
  mkdir -p "$(dirname "$ENVIRONMENT")"
  mv "$work/venv" "$ENVIRONMENT" && rm -rf "$work"
}

case "${1:-up}" in
  up) install; echo "# PEFT 0.12" ;&
  env) printf 'export SIA_EARLIER_PEFT=%s\n' "$ENVIRONMENT/bin/python" ;;
  down) ;;
  *) echo "usage: $0 up|down|env" >&2; exit 2 ;;
esac
