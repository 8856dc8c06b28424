#!/usr/bin/env bash
#
# The static binary where there is nothing else, as in a container FROM scratch: as process 1 with a root of its own, in which there are
# /proc, /dev/random and /etc/hosts, which container engines bring. `tests/e2e/empty_root.sh BINARY`, as root.

set -euo pipefail

binary=$1
root=$(mktemp -d)
trap 'rm -rf -- "$root"' EXIT
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    cat "$root/log" >&2
    exit 1
}

mkdir "$root"/{data,dev,etc,proc}
cp -- "$binary" "$root/sledge"
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"

# A name, so that what resolves names is there too.
unshare --pid --fork --kill-child --mount-proc="$root/proc" \
    chroot "$root" /sledge serve --listen localhost:0 --metrics-listen localhost:0 --data /data 2>"$root/log" &
server=$!
line() {
    local found
    until found=$(grep -o "$1" "$root/log"); do
        kill -0 "$server" 2>/dev/null || fail 'the server ended'
        sleep 0.1
    done
    printf '%s' "${found#*http://}"
}
registry=$(line 'listening on http://[0-9.:]*')
monitor=$(line 'health on http://[0-9.:]*')

[[ $(curl -sS "http://$monitor/livez") == ok ]] || fail 'it is not alive'
digest=sha256:$(printf x | sha256sum | cut -d' ' -f1)
status=$(curl -sS -o /dev/null -w '%{http_code}' -H 'Content-Type: application/octet-stream' --data-binary x \
    "http://$registry/v2/a/blobs/uploads/?digest=$digest")
[[ $status == 201 ]] || fail "a push was answered with $status"
[[ $(curl -sS "http://$registry/v2/a/blobs/$digest") == x ]] || fail 'what was pulled is not what was pushed'

# Process 1 gets no signal that it does not ask for.
kill -TERM "$(pgrep -P "$server")"
wait "$server" || fail 'it did not end well'
printf 'passed: a push, a pull and a clean end in an empty root, %s bytes\n' "$(stat -c %s "$root/sledge")"
