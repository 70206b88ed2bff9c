#!/bin/sh
# Bring a fresh Debian or Ubuntu machine to where `make test` runs: system packages, `.venv`, the package.
# usage: tools/setup.sh [base|peers]
#
# As root the system packages are installed by apt; anyone else is told the one command that is missing
# and gets exit 64. Nothing is done twice: a stamp in `.venv` names the digest of what was installed.
set -eu
cd "$(dirname "$0")/.."
group="${1:-base}"

refuse() { # whose fault, what to do; the last line names the exit code
    printf 'holdfast: %s\n' "$1" >&2
    printf 'holdfast: exit 64 (set-up is incomplete)\n' >&2
    exit 64
}

# -- system packages --------------------------------------------------------------------------------
# command or file that shows a package is there -> the package
base_needs='
command:bwrap=bubblewrap
command:gcc=gcc
command:git=git
command:runc=runc
command:strace=strace
header:sys/capability.h=libcap-dev
library:libseccomp.so.2=libseccomp2
'
# what benches, the matrix and nightly runs need
peers_needs='
command:nginx=nginx-light
command:wrk=wrk
command:haproxy=haproxy
command:firejail=firejail
command:podman=podman
command:crun=crun
command:systemd-nspawn=systemd-container
command:dockerd=docker.io
command:socat=socat
command:rg=ripgrep
command:npm=npm
command:redis-server=redis-server
command:node=nodejs
file:/usr/lib/postgresql=postgresql
file:/usr/share/unicode/auxiliary/WordBreakTest.txt=unicode-data
'

present() {
    case "$1" in
        command:*) command -v "${1#command:}" >/dev/null 2>&1 || [ -x "/usr/sbin/${1#command:}" ] ;;
        header:*) echo "#include <${1#header:}>" | gcc -E - >/dev/null 2>&1 ;;
        library:*)
            for folder in /lib/*/ /usr/lib/*/ /usr/lib64/; do
                [ -e "$folder${1#library:}" ] && return 0
            done
            return 1
            ;;
        file:*) [ -e "${1#file:}" ] ;;
    esac
}

missing=''
note_missing() {
    for need in $1; do
        present "${need%%=*}" || missing="$missing ${need#*=}"
    done
}

python=''
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
[ -n "$python" ] || refuse 'no Python 3.11 or newer on PATH; run: apt-get install python3 python3-venv'

note_missing "$base_needs"
[ "$group" = base ] || note_missing "$peers_needs"
# Debian splits venv and the headers off; ask the interpreter itself, since it need not be Debian's.
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    missing="$missing python3-dev"

if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || refuse "system packages are missing; run: sudo apt-get install --no-install-recommends$missing"
    command -v apt-get >/dev/null 2>&1 || refuse "no apt-get here; install by hand:$missing"
    echo "set-up: installing system packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || refuse 'apt-get update failed; see the lines above'
    # A package that starts a daemon on install (redis, postgresql) has no business doing so here.
    # shellcheck disable=SC2086
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        refuse "apt-get could not install:$missing"
fi

# sandboxes from npm, beside the interpreter so that nothing lands outside of .venv
peers_npm='@anthropic-ai/sandbox-runtime@0.0.83 @openai/codex@0.169.0'

# -- the environment --------------------------------------------------------------------------------
# The digest covers this script, the locks and the interpreter: a change of any builds the rest anew.
locks='requirements/dev.txt'
[ "$group" = base ] || locks="$locks requirements/peers.txt"
stamp=".venv/.holdfast-$group"
digest="$(cat tools/setup.sh pyproject.toml $locks | sha256sum | cut -d' ' -f1) $PWD $("$python" -c 'import sys; print(sys.version_info[:3], sys.base_prefix)')"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$digest" ]; then
    exit 0
fi
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
    echo "set-up: creating .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
for lock in $locks; do
    echo "set-up: installing $lock (hashes checked)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" ||
        refuse "pip could not install $lock; is a package index reachable?"
done
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ||
    refuse 'pip could not install the package itself'
if [ "$group" = peers ]; then
    echo "set-up: installing $peers_npm"
    # shellcheck disable=SC2086
    npm install --prefix .venv/peers --no-save --no-audit --no-fund --silent $peers_npm >/dev/null 2>&1 ||
        refuse "npm could not install $peers_npm; is a package registry reachable?"
fi
printf '%s' "$digest" >"$stamp"
echo 'set-up: done'
