#!/usr/bin/env bash
# Installs the Debian packages that benchmarks use, beside those that tests do.
set -euo pipefail
"$(dirname "$0")/../tests/install_servers.sh"
command -v wrk >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The benchmarks need wrk. Install it with: sudo apt-get install wrk" >&2
    exit 1
fi
echo "Installing for the benchmarks: wrk"
apt-get update -qq </dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wrk </dev/null
