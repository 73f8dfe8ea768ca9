#!/usr/bin/env bash
# Install the Debian or Ubuntu packages that FFCV and the Kanji data need (scripts/system/*.txt).
# Exit status 1, with the command to run, where the rights to install are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3.11}"

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian or Ubuntu system: install what scripts/system/*.txt names for FFCV and the Kanji data."
  exit 1
fi

wanted=$(sed 's/#.*//' scripts/system/*.txt)
"$python" -c 'import ensurepip' 2>/dev/null || wanted+=" $(basename "$python")-venv"
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  || wanted+=" $(basename "$python")-dev"

installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' | awk '$1 == "ii" {print $2}' | sort -u)
missing=$(comm -23 <(printf '%s\n' $wanted | sort -u) <(printf '%s\n' "$installed"))
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ]; then as_root=(env); elif sudo -n true 2>/dev/null; then as_root=(sudo -n); else
  echo "These system packages are missing and need rights this account lacks. To install them, run:"
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends" $missing
  echo "Going on without them: what needs no system package works (for example: make train ARGS=data=digits)."
  exit 1
fi

echo "installing $(wc -w <<<"$missing") system packages (FFCV's libraries, fonts, a character dictionary)"
"${as_root[@]}" apt-get update -qq
offered=$(apt-cache --names-only search . | awk '{print $1}' | sort -u)
unknown=$(comm -23 <(printf '%s\n' $missing) <(printf '%s\n' "$offered"))
[ -z "$unknown" ] || echo "this release does not offer:" $unknown
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
  $(comm -12 <(printf '%s\n' $missing) <(printf '%s\n' "$offered")) >/dev/null
