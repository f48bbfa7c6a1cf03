# What hack's scripts share: packages of the distribution, the Python environment. Sourced from the repository's root.

RUN_PACKAGES=(busybox-static conntrack curl docker.io etcd-client etcd-server iproute2 iptables nftables procps util-linux)
TEST_PACKAGES=(docker-registry libfaketime)

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# quietly LABEL COMMAND…: shows the command's output only if it fails.
quietly() {
  local label=$1 log
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    die "$label failed: $*"
  fi
  rm -f "$log"
}

has_systemd() { [ -d /run/systemd/system ]; }

is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'; }

need_root() { [ "$(id -u)" = 0 ] || die "$0 needs root: it installs packages and drives the Docker engine. Try: sudo $0"; }

# Installs what is missing of the named packages. The packages' own etcd and registry services stay off: Shoal runs its
# own etcd, and theirs would hold its ports. Without systemd no service is started at all.
ensure_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || die "hack/ knows Debian and Ubuntu only; elsewhere install: $*"
  for package in "$@"; do is_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  need_root
  say "installing ${missing[*]}"
  (install_packages "${missing[@]}") || exit 1
}

install_packages() {
  local policy=/usr/sbin/policy-rc.d package
  if [ ! -e "$policy" ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    if has_systemd; then
      printf '#!/bin/sh\ncase "$1" in etcd*|docker-registry*) exit 101 ;; esac\nexit 0\n' >"$policy"
    else
      printf '#!/bin/sh\nexit 101\n' >"$policy"
    fi
    chmod +x "$policy"
  fi
  for package in "$@"; do
    case $package in etcd-server | docker-registry)
      if has_systemd; then quietly "masking" systemctl mask "${package%-server}.service"; fi ;;
    esac
  done
  quietly "apt-get update" apt-get -qq update
  quietly "apt-get install" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
}

# Prints a Python that is new enough and can make environments, installing one where there is none.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# ensure_venv [EXTRA]: .venv with Shoal in it, made anew when pyproject.toml changed or the repository moved.
ensure_venv() {
  local extra=${1:-} python stamp
  if ! python=$(find_python); then
    if apt-cache show python3.11-venv >/dev/null 2>&1; then ensure_packages python3.11-venv; else ensure_packages python3-venv; fi
    python=$(find_python) || die "Shoal needs Python 3.11 or newer; found $(python3 --version 2>&1)"
  fi
  stamp="$PWD $extra $("$python" --version) $(sha256sum <pyproject.toml)"
  if [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ]; then return; fi
  if [ -z "$extra" ] && [ "$(cat .venv/stamp 2>/dev/null)" = "${stamp/$PWD  /$PWD dev }" ]; then return; fi
  say "making .venv"
  rm -rf .venv
  quietly "python environment" "$python" -m venv .venv
  quietly "pip install" .venv/bin/pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}"
  printf '%s\n' "$stamp" >.venv/stamp
}
