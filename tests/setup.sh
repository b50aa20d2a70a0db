#!/usr/bin/env bash
# Installs what the tests and `make lint` need beside cargo; may be run again at any time. Root, or a user with sudo.
#   tests/setup.sh           age, tar's zstd, shellcheck, curl, jq, systemd, openssl, ssh-keygen (Debian), moto, boto3, tuf
#                            (PyPI, in a venv of their own), etcd and promtool (Debian, unpacked beside them: as packages they
#                            would start daemons)
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

# etcd, with the version that the tests name in what they print. Debian trixie's; where that can't be had, the release's own.
etcd_version=3.5.16-4
etcd_packages() {
  local directory="$1" package
  rm -rf "$directory"
  mkdir -p "$directory" || return 1
  for package in etcd-server etcd-client; do
    curl -fsS --max-time 120 -o "$directory/$package.deb" \
      "http://deb.debian.org/debian/pool/main/e/etcd/${package}_${etcd_version}_amd64.deb" || return 1
  done
  # Unsigned transport, so by digest.
  (cd "$directory" && sha256sum --check --quiet) <<'DIGESTS'
0875921bb0d023f2af9b8e15cdfbe417a03e65731345fb832c40f9c2dd72967b  etcd-server.deb
7eb67e305ba2ce523a5a0b29bf88750ded3f724769c7111a83382b7909f9977b  etcd-client.deb
DIGESTS
}

etcd_of_release() {
  rm -rf "$1"
  mkdir -p "$1" && (cd "$1" && apt-get download -q etcd-server etcd-client)
}

unpacked_etcd() {
  local place="$tools/etcd" package
  if "$place/usr/bin/etcd" --version >/dev/null 2>&1 && [ -x "$place/usr/bin/etcdctl" ]; then
    say "$place is there"
    return
  fi
  if ! etcd_packages "$tools/etcd-packages" >"$tools/etcd.log" 2>&1; then
    # apt-get's lists may be empty.
    apt_install ca-certificates
    etcd_of_release "$tools/etcd-packages" >>"$tools/etcd.log" 2>&1 || { lacks etcd; return; }
  fi
  rm -rf "$place"
  for package in "$tools"/etcd-packages/*.deb; do
    dpkg-deb -x "$package" "$place" >>"$tools/etcd.log" 2>&1 || { lacks etcd; return; }
  done
  "$place/usr/bin/etcd" --version >>"$tools/etcd.log" 2>&1 || { lacks etcd; return; }
  say "$("$place/usr/bin/etcd" --version | head -n 1) unpacked in $place"
}

# promtool alone, of the system's own release.
unpacked_promtool() {
  local place="$tools/prometheus"
  if "$place/usr/bin/promtool" --version >/dev/null 2>&1; then
    say "$place is there"
    return
  fi
  rm -rf "$place" "$tools/prometheus-packages"
  mkdir -p "$tools/prometheus-packages"
  # apt-get checks what it downloads; its lists may be empty.
  (cd "$tools/prometheus-packages" && apt-get download -q prometheus) >"$tools/prometheus.log" 2>&1 ||
    { apt_install ca-certificates; (cd "$tools/prometheus-packages" && apt-get download -q prometheus) >>"$tools/prometheus.log" 2>&1; } ||
    { lacks promtool; return; }
  dpkg-deb -x "$tools"/prometheus-packages/prometheus_*.deb "$place" >>"$tools/prometheus.log" 2>&1 || { lacks promtool; return; }
  rm -rf "$tools/prometheus-packages"
  "$place/usr/bin/promtool" --version >>"$tools/prometheus.log" 2>&1 || { lacks promtool; return; }
  say "$("$place/usr/bin/promtool" --version | head -n 1) unpacked in $place"
}

debian age
debian zstd
debian openssl
debian curl
debian ssh-keygen openssh-client
unpacked_etcd
unpacked_promtool
debian shellcheck
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
