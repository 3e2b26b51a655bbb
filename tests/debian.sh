#!/usr/bin/env bash
# Install what tests/slurm and tests/browser need on Debian: Slurm, munge, MariaDB; Chromium and its
# driver. Starts none of them.
# Quiet, and does nothing where they are installed. Not root: runs itself again through sudo.
set -euo pipefail

missing=()
for package in slurm-wlm munge slurmdbd mariadb-server chromium chromium-driver; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "$0: no apt-get here; install Slurm, munge, MariaDB, Chromium and chromedriver yourself" >&2
    exit 1
fi
[ "$(id -u)" = 0 ] || exec sudo bash "$0"

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
# The packages' own scripts start their daemons where an init system runs. 101 forbids that, and
# the tests start their own daemons with their own files. A policy that is there is left alone.
ours=no
cleanup() {
    rm -f "$log"
    if [ "$ours" = yes ]; then rm -f "$policy"; fi
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=120)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "$0: could not install ${missing[*]}" >&2
    exit 1
fi
