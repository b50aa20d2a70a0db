#!/usr/bin/env bash
# Installs what the tests and `make lint` need beside cargo; may be run again at any time. Root, or a user with sudo.
#   tests/setup.sh           age, tar's zstd, shellcheck, curl, jq, systemd (Debian), and moto, boto3, tuf (PyPI, in a venv of their own)
#   tests/setup.sh --bench   also the tools that `make bench` compares with: aws, s3cmd, rclone; and strace
# A tool that can't be had is named on standard error; then the tests that need it say so and skip, unless
# PLATFORM_REQUIRE_TOOLS=1, with which this script and those tests fail.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

bench=0
case "${1:-}" in
  '') ;;
  --bench) bench=1 ;;
  *) printf 'usage: %s [--bench]\n' "$0" >&2; exit 2 ;;
esac

tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools" || exit 1
tools="$(cd "$tools" && pwd)"
missing=()

say() { printf 'setup: %s\n' "$*"; }
lacks() {
  printf 'setup: !!! %s could not be installed: what needs it will not run\n' "$1" >&2
  missing+=("$1")
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian's lists are fetched at most once a run, and only when something is missing.
apt_updated=0
apt_install() {
  command -v apt-get >/dev/null || return 1
  if [ "$apt_updated" -eq 0 ]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >"$tools/apt.log" 2>&1 </dev/null || return 1
    apt_updated=1
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$1" >>"$tools/apt.log" 2>&1 </dev/null
}

# debian COMMAND [PACKAGE]
debian() {
  local command="$1" package="${2:-$1}"
  if command -v "$command" >/dev/null; then
    say "$command is there"
  elif apt_install "$package" && command -v "$command" >/dev/null; then
    say "$command installed (Debian package $package)"
  else
    lacks "$command"
  fi
}

# python_tools VENV REQUIREMENTS: the environment is made again when the pins or the interpreter changed.
python_tools() {
  local venv="$1" requirements="$2" want
  want="$(python3 --version 2>&1) $(sha256sum <"$requirements")"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$want" ]; then
    say "$venv is up to date with $requirements"
    return
  fi
  rm -rf "$venv"
  if ! python3 -m venv "$venv" >"$tools/venv.log" 2>&1; then
    # Debian keeps ensurepip in a package of its own.
    rm -rf "$venv"
    { apt_install python3-venv && python3 -m venv "$venv" >>"$tools/venv.log" 2>&1; } || { lacks "$requirements"; return; }
  fi
  if "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$requirements" >>"$tools/venv.log" 2>&1 </dev/null; then
    printf '%s\n' "$want" >"$venv/.made-from"
    say "$requirements installed in $venv"
  else
    tail -n 5 "$tools/venv.log" >&2
    lacks "$requirements"
  fi
}

debian age
debian zstd
debian shellcheck
debian curl
debian jq
debian systemd-analyze systemd
debian python3
python_tools "$tools/venv" tests/requirements.txt
if [ "$bench" -eq 1 ]; then
  debian rclone
  debian strace
  python_tools "$tools/bench-venv" tests/requirements-bench.txt
fi

if [ "${#missing[@]}" -gt 0 ]; then
  printf 'setup: !!! missing: %s (logs in %s)\n' "${missing[*]}" "$tools" >&2
  [ "${PLATFORM_REQUIRE_TOOLS:-0}" != 1 ] || exit 1
fi
