#!/usr/bin/env bash
# Sledge beside Debian's docker-registry and nginx, in one run: prints the table, and ends with 1 where a bar is missed.
# It is built as it is released: statically.
#
#     benches/compare.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v docker-registry >/dev/null || missing+=(docker-registry)
command -v nginx >/dev/null || missing+=(nginx-light)
if ((${#missing[@]})); then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update
    "${as_root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}"
fi
host=$(rustc --print host-tuple)
# With a target named, the flags are not those of build scripts and of macros, which cannot be static.
export RUSTFLAGS='-C target-feature=+crt-static -C strip=debuginfo'
exec cargo bench --bench peers --target "$host" -- "$@"
