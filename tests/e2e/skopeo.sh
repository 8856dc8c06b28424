#!/usr/bin/env bash
#
# End to end, with a client that the project has not written: skopeo pushes images to `sledge serve` and pulls them again,
# and every blob and manifest must come back byte for byte. Nothing is fetched from the network: the images are made here.
#
#     tests/e2e/skopeo.sh [SLEDGE]        SLEDGE is the binary, target/release/sledge by default
#
# It needs skopeo, jq, zstd and a busybox (Debian: skopeo jq zstd busybox-static), about 1.5 GB of room in TMPDIR, and no
# privileges. One line is printed for each check; the last line is "N passed, M failed". The first failure ends it: what
# follows would only repeat it.

set -euo pipefail

sledge=${1:-target/release/sledge}

# --- What is reported ---------------------------------------------------------------------------------------------------

passed=0

pass() {
    passed=$((passed + 1))
    printf 'ok %2d  %s\n' "$passed" "$*"
}

fail() {
    printf 'FAILED  %s\n' "$*" >&2
    exit 1
}

# Nothing may be left behind, and the logs are worth nothing once the folder is gone: they are shown first.
finish() {
    local status=$?
    trap - EXIT
    [[ -z ${push_pid:-} ]] || kill -KILL "$push_pid" 2>/dev/null || true
    [[ -z ${server_pid:-} ]] || kill -KILL "$server_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    if ((status != 0)); then
        if [[ -s ${work:-}/client.log ]]; then
            printf -- '--- the last of skopeo ---\n' >&2
            tail -n 40 "$work/client.log" >&2
        fi
        if [[ -s ${work:-}/server.log ]]; then
            printf -- "--- the server's log ---\n" >&2
            tail -n 200 "$work/server.log" >&2
        fi
        # The verdict is the last line of stdout whatever happened.
        printf '%d passed, 1 failed\n' "$passed"
    fi
    [[ -z ${work:-} ]] || rm -rf -- "$work"
    exit "$status"
}
trap finish EXIT
# Without these, a signal would end the script and leave the server running.
trap 'exit 130' INT
trap 'exit 143' TERM
# `set -e` alone stops without a word.
trap 'printf "FAILED  line %d: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR

for tool in skopeo jq zstd gzip tar sha256sum cmp busybox; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done
[[ -x $sledge ]] || fail "$sledge is not a program: give the path of the sledge binary, or run cargo build --release"
sledge=$(realpath -- "$sledge")

work=$(mktemp -d "${TMPDIR:-/tmp}/sledge-e2e.XXXXXX")
data=$work/data
mkdir -p "$work/tmp" "$work/home"

# skopeo must not read this user's credentials and settings.
export HOME=$work/home XDG_RUNTIME_DIR=$work/home XDG_DATA_HOME=$work/home REGISTRY_AUTH_FILE=$work/home/auth.json
printf '{}\n' >"$REGISTRY_AUTH_FILE"

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "${BASH_SOURCE[0]}")/layout.sh"

# --- Figures ------------------------------------------------------------------------------------------------------------

now() { # milliseconds
    local t=${EPOCHREALTIME/[.,]/}
    printf '%s' "${t:0:-3}"
}

seconds() { # seconds MILLISECONDS
    printf '%d.%02d s' $(($1 / 1000)) $(($1 % 1000 / 10))
}

rate() { # rate BYTES MILLISECONDS
    printf '%s, %d MB/s' "$(seconds "$2")" $(($1 / 1000 / ($2 > 0 ? $2 : 1)))
}

stored() { # the bytes that the data folder takes on the disk
    local kib
    kib=$(du -sk -- "$data" | cut -f1)
    printf '%s' $((kib * 1024))
}

# --- The server ---------------------------------------------------------------------------------------------------------

# Starts it on the same data folder and sets `registry` to its address. The port is the system's choice: runs beside each
# other do not meet.
serve() {
    local tries
    printf -- '--- started ---\n' >>"$work/server.log"
    : >"$work/server.started"
    # A file of its own for each start: otherwise an earlier start's line would be taken for this one's.
    "$sledge" serve --data "$data" --listen 127.0.0.1:0 2> >(tee -a "$work/server.log" >"$work/server.started") &
    server_pid=$!
    for ((tries = 0; tries < 300; tries++)); do
        registry=$(sed -n 's,^sledge listening on http://\([^,]*\)\, data in .*$,\1,p' "$work/server.started")
        [[ -z $registry ]] || return 0
        kill -0 "$server_pid" 2>/dev/null || fail "the server ended before it listened"
        sleep 0.1
    done
    fail "the server did not say where it listens within 30 s"
}

# Waits until the server has ended, and sets `server_status`.
server_ended() { # server_ended SECONDS
    local tries
    for ((tries = 0; tries < $1 * 20; tries++)); do
        if ! kill -0 "$server_pid" 2>/dev/null; then
            server_status=0
            wait "$server_pid" || server_status=$?
            server_pid=
            return 0
        fi
        sleep 0.05
    done
    fail "the server did not end within $1 s"
}

# --- The client ---------------------------------------------------------------------------------------------------------

# The requests are in what --debug prints, and nowhere else: how many blobs were sent, mounted or found there already.
client() {
    : >"$work/client.log"
    skopeo --debug --insecure-policy --tmpdir "$work/tmp" "$@" 2>"$work/client.log"
}

requests() { # requests METHOD-AND-START-OF-PATH   as an extended regular expression
    grep -cE "msg=\"$1" "$work/client.log" || true
}

uploads() {
    requests "PATCH http://$registry/"
}

push() { # push LAYOUT TAG REPOSITORY:TAG [OPTION...]
    local layout=$1 tag=$2 to=$3
    shift 3
    client copy "$@" --dest-tls-verify=false "oci:$layout:$tag" "docker://$registry/$to" >/dev/null ||
        fail "skopeo copy to $to"
}

# Pulls into a fresh layout and compares it with the one that was pushed. Sets `took`, `blobs` and `bytes`.
pull_and_compare() { # pull_and_compare LAYOUT TAG REPOSITORY:TAG [OPTION...]
    local layout=$1 tag=$2 from=$3 out=$work/out
    shift 3
    rm -rf -- "$out"
    local begun
    begun=$(now)
    client copy "$@" --src-tls-verify=false "docker://$registry/$from" "oci:$out:out" >/dev/null ||
        fail "skopeo copy from $from"
    took=$(($(now) - begun))
    same_image "$layout" "$tag" "$out" out
    rm -rf -- "$out"
}

tags() { # the repository's tags in one line
    client list-tags --tls-verify=false "docker://$registry/$1" | jq -r '.Tags | sort | join(" ")'
}

expect_tags() { # expect_tags REPOSITORY TAG...
    local repository=$1 found
    shift
    found=$(tags "$repository") || fail "skopeo list-tags of $repository"
    [[ $found == "$*" ]] || fail "list-tags of $repository: expected «$*», found «$found»"
}

# --- The images ---------------------------------------------------------------------------------------------------------

begun=$(now)
printf '%s, %s\n' "$("$sledge" --version)" "$(skopeo --version)"

# Seven layers: a real program, large ones that do not compress, one that does, a small one, and one that appears twice,
# as empty layers do.
big=$work/big
tree=$work/tmp/tree
layout_new "$big"
mkdir -p "$tree/bin"
cp -L -- "$(command -v busybox)" "$tree/bin/busybox"
for applet in sh ls cat; do ln -s busybox "$tree/bin/$applet"; done
base=$(layer "$big" "$tree" gzip)
incompressible "$tree/opt/first" 120
second=$(layer "$big" "$tree" gzip)
incompressible "$tree/opt/second" 80
incompressible "$tree/opt/third" 1
third=$(layer "$big" "$tree" zstd)
incompressible "$tree/opt/fourth" 48
compressible "$tree/var/log/first" 1000
fourth=$(layer "$big" "$tree" gzip)
compressible "$tree/var/log/second" 800000
fifth=$(layer "$big" "$tree" gzip)
mkdir -p "$tree/etc"
printf 'sledge\n' >"$tree/etc/hostname"
sixth=$(layer "$big" "$tree" gzip)
layout_tag "$big" big "$(image "$big" amd64 "$base" "$second" "$third" "$sixth" "$fourth" "$fifth" "$sixth")"

# Two platforms over an index. They share the layer of the image above, so that deleting that one could hurt them.
multi=$work/multi
layout_new "$multi"
cp -- "$big/blobs/sha256/$(sed -n 1p <<<"$base" | jq -r '.digest[7:]')" "$multi/blobs/sha256/"
platforms=()
for architecture in amd64 arm64; do
    incompressible "$tree/opt/$architecture" 6
    own=$(layer "$multi" "$tree" gzip)
    platforms+=("$(image "$multi" "$architecture" "$base" "$own")")
done
printf '%s\n' "${platforms[@]}" | jq -s --indent 3 \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' >"$work/tmp/index"
layout_tag "$multi" multi "$(layout_add "$multi" application/vnd.oci.image.index.v1+json "$work/tmp/index")"
# The amd64 image by itself, under a tag.
layout_tag "$multi" amd64 "$(jq -c 'del(.platform)' <<<"${platforms[0]}")"

# An image that is pushed when the server is killed.
cut=$work/cut
layout_new "$cut"
incompressible "$tree/opt/cut" 160
cut_layer=$(layer "$cut" "$tree" gzip)
layout_tag "$cut" cut "$(image "$cut" amd64 "$cut_layer")"

size=$(du -sbc -- "$big/blobs" "$multi/blobs" "$cut/blobs" | tail -n 1 | cut -f1)
printf 'images made: %d bytes in %s\n' "$size" "$(seconds $(($(now) - begun)))"

# --- Push, list, inspect, pull ------------------------------------------------------------------------------------------

serve
pass "the server listens on $registry"

begun=$(now)
push "$big" big demo/app:big
took=$(($(now) - begun))
sent=$(uploads)
empty=$(stored)
digest=$(tagged "$big" big | jq -r .digest)
bytes=$(reachable "$big" "$digest" | sort -u | sed "s,sha256:,$big/blobs/sha256/," | xargs stat -c %s | jq -s add)
# Six different layers and the config.
((sent == 7)) || fail "the first push sent $sent blobs, not 7"
pass "pushed an image of 7 layers: $sent blobs sent, $bytes bytes, $(rate "$bytes" "$took"); $empty bytes in the data folder"

expect_tags demo/app big
pass "list-tags: big"

client inspect --raw --tls-verify=false "docker://$registry/demo/app:big" >"$work/tmp/raw" || fail "skopeo inspect --raw"
cmp -- "$big/blobs/sha256/${digest#sha256:}" "$work/tmp/raw" >&2 || fail "inspect --raw shows other bytes than were pushed"
pass "inspect --raw: the manifest's $(stat -c %s "$work/tmp/raw") bytes as they were pushed"

client inspect --tls-verify=false "docker://$registry/demo/app:big" >"$work/tmp/inspected" || fail "skopeo inspect"
found=$(jq -r '"\(.Digest) \(.Architecture) \(.Layers | length)"' "$work/tmp/inspected")
[[ $found == "$digest amd64 7" ]] || fail "inspect: found «$found»"
pass "inspect: $found layers"

pull_and_compare "$big" big demo/app:big
pass "pulled it: $blobs blobs and manifests equal, $bytes bytes, $(rate "$bytes" "$took")"

pull_and_compare "$big" big "demo/app@$digest"
pass "pulled it by digest: $blobs equal, $bytes bytes, $(rate "$bytes" "$took")"

begun=$(now)
push "$multi" multi demo/app:multi --all
took=$(($(now) - begun))
sent=$(uploads)
# Two configs and two layers: the third layer is in the repository already.
((sent == 4)) || fail "the push of the index sent $sent blobs, not 4"
pass "pushed an index of 2 platforms with --all: $sent blobs sent, $(seconds "$took")"

expect_tags demo/app big multi
client inspect --raw --tls-verify=false "docker://$registry/demo/app:multi" >"$work/tmp/raw" || fail "skopeo inspect --raw"
cmp -- "$multi/blobs/sha256/$(tagged "$multi" multi | jq -r '.digest[7:]')" "$work/tmp/raw" >&2 ||
    fail "inspect --raw shows another index than was pushed"
pass "list-tags: big multi; inspect --raw: the index's $(stat -c %s "$work/tmp/raw") bytes as they were pushed"

pull_and_compare "$multi" multi demo/app:multi --all
pass "pulled the index with --all: $blobs blobs and manifests equal, $bytes bytes, $(rate "$bytes" "$took")"

# skopeo picks one platform's manifest from the index, and no other blob may come with it.
client --override-os linux --override-arch arm64 copy --src-tls-verify=false "docker://$registry/demo/app:multi" \
    "dir:$work/arm64" >/dev/null || fail "skopeo copy of one platform"
cmp -- "$multi/blobs/sha256/$(jq -r '.digest[7:]' <<<"${platforms[1]}")" "$work/arm64/manifest.json" >&2 ||
    fail "the arm64 image is not the one that was pushed"
rm -rf -- "$work/arm64"
pass "pulled linux/arm64 alone from the index"

# --- What need not be sent again ----------------------------------------------------------------------------------------

before=$(stored)
begun=$(now)
push "$big" big demo/app:big
took=$(($(now) - begun))
sent=$(uploads)
((sent == 0)) || fail "pushing the same image again sent $sent blobs"
after=$(stored)
# Growth of the index's own log is allowed, any layer of a megabyte is not.
((after - before < 1 << 20)) || fail "pushing the same image again made the data folder grow by $((after - before)) bytes"
pass "pushed again: 0 blobs sent, $(seconds "$took"), the data folder grew by $((after - before)) bytes"

before=$(stored)
begun=$(now)
client copy --src-tls-verify=false --dest-tls-verify=false "docker://$registry/demo/app:big" \
    "docker://$registry/demo/copy:big" >/dev/null || fail "skopeo copy between repositories"
took=$(($(now) - begun))
sent=$(uploads)
mounted=$(requests "POST http://$registry/v2/demo/copy/blobs/uploads/\?.*mount=sha256")
after=$(stored)
# The config is fetched and sent whatever the registry offers: skopeo asks for the mount of layers only.
((sent <= 1)) || fail "copying between repositories sent $sent blobs, and mounted $mounted"
((mounted >= 6)) || fail "copying between repositories mounted $mounted blobs, fewer than 6"
((after - before < 1 << 20)) || fail "copying between repositories made the data folder grow by $((after - before)) bytes"
pass "copied to another repository: $mounted layers mounted, $sent config sent, $(seconds "$took"), grew by $((after - before)) bytes"

pull_and_compare "$big" big demo/copy:big
pass "pulled the copy: $blobs equal, $bytes bytes, $(rate "$bytes" "$took")"

# --- Docker's schema 2 --------------------------------------------------------------------------------------------------

# A conversion by skopeo comes first, into a folder; what is compared is the way from folder to registry to folder.
client copy --format v2s2 "oci:$multi:amd64" "dir:$work/docker" >/dev/null || fail "skopeo copy --format v2s2"
client copy --dest-tls-verify=false "dir:$work/docker" "docker://$registry/demo/docker:v2" >/dev/null ||
    fail "skopeo copy of a schema 2 image"
client copy --src-tls-verify=false "docker://$registry/demo/docker:v2" "dir:$work/docker-out" >/dev/null ||
    fail "skopeo copy of a schema 2 image from the registry"
diff -r -- "$work/docker" "$work/docker-out" >&2 || fail "the schema 2 image came out with other bytes"
type=$(jq -r .mediaType "$work/docker-out/manifest.json")
[[ $type == application/vnd.docker.distribution.manifest.v2+json ]] || fail "the schema 2 image came out as $type"
pass "a Docker schema 2 image in and out: $(find "$work/docker" -type f | wc -l) files equal"
rm -rf -- "$work/docker" "$work/docker-out"

# --- Deletion -----------------------------------------------------------------------------------------------------------

client delete --tls-verify=false "docker://$registry/demo/app:big" >/dev/null || fail "skopeo delete"
expect_tags demo/app multi
if client inspect --raw --tls-verify=false "docker://$registry/demo/app:big" >/dev/null; then
    fail "the deleted image can still be had by its tag"
fi
if client inspect --raw --tls-verify=false "docker://$registry/demo/app@$digest" >/dev/null; then
    fail "the deleted image can still be had by its digest"
fi
grep -q 'manifest unknown' "$work/client.log" || fail "the deleted image is not answered with «manifest unknown»"
pass "deleted demo/app:big: list-tags: multi; by tag and by digest it is unknown"

intact() { # intact WHEN
    expect_tags demo/app multi
    expect_tags demo/copy big
    pull_and_compare "$multi" multi demo/app:multi --all
    pass "$1: the index: $blobs equal, $bytes bytes, $(rate "$bytes" "$took")"
    pull_and_compare "$big" big demo/copy:big
    pass "$1: the image in the other repository: $blobs equal, $bytes bytes, $(rate "$bytes" "$took")"
}
intact "after the deletion"

# --- Docker's schema 1 ----------------------------------------------------------------------------------------------------

# skopeo signs what it converts to schema 1, with a key that it makes for that.
old=$work/old
client copy --format v2s1 --dest-tls-verify=false "oci:$multi:amd64" "docker://$registry/demo/old:1" >/dev/null ||
    fail "skopeo copy as schema 1"
client inspect --raw --tls-verify=false "docker://$registry/demo/old:1" >"$work/tmp/raw" || fail "skopeo inspect of schema 1"
found=$(jq -r '"\(.schemaVersion) \(.name) \(.tag) \(.signatures | length)"' <"$work/tmp/raw")
[[ $found == '1 demo/old 1 1' ]] || fail "of the schema 1 image came: $found"
client copy --src-tls-verify=false "docker://$registry/demo/old:1" "dir:$old" >/dev/null || fail "skopeo copy of schema 1"
blobs=$(jq -r '.fsLayers[].blobSum' <"$old/manifest.json" | sort -u)
for blob in $blobs; do
    [[ $(sha256sum <"$old/${blob#sha256:}") == "${blob#sha256:}  -" ]] || fail "layer $blob came back otherwise"
done
"$sledge" convert --data "$data" demo/old:1 1-oci >/dev/null || fail "sledge convert"
# What skopeo makes of the image is to be what it was: the same layers, unpacked.
diff_ids() { # diff_ids REFERENCE [OPTION...]
    client inspect --config "${@:2}" "$1" | jq -c '.rootfs.diff_ids'
}
before=$(diff_ids "oci:$multi:amd64") && after=$(diff_ids "docker://$registry/demo/old:1-oci" --tls-verify=false)
[[ $before == "$after" ]] || fail "the converted image has the layers $after, not $before"
expect_tags demo/old 1 1-oci
pass "pushed and pulled as schema 1, signed; converted to an OCI image with the same layers"

# --- Restarts -----------------------------------------------------------------------------------------------------------

begun=$(now)
kill -TERM "$server_pid"
server_ended 60
((server_status == 0)) || fail "after SIGTERM the server ended with status $server_status"
stopped=$(($(now) - begun))
begun=$(now)
serve
pass "SIGTERM: ended with status 0 in $(seconds "$stopped"), listens again after $(seconds $(($(now) - begun)))"
intact "after SIGTERM"

# In the middle of an upload, so that there is something to lose: when the data folder has grown, bytes have arrived.
before=$(stored)
client copy --dest-tls-verify=false "oci:$cut:cut" "docker://$registry/demo/cut:cut" >/dev/null &
push_pid=$!
for ((tries = 0; tries < 3000; tries++)); do
    (($(stored) - before < 8 << 20)) || break
    kill -0 "$push_pid" 2>/dev/null || break
    sleep 0.01
done
server_status=0
# In one go and without stderr, or bash itself reports the killed job there.
{ kill -KILL "$server_pid" && wait "$server_pid"; } 2>/dev/null || server_status=$?
server_pid=
arrived=$(($(stored) - before))
((arrived > 0)) || fail "nothing of the push had arrived when the server was killed"
((server_status == 137)) || fail "after SIGKILL the server ended with status $server_status"
if wait "$push_pid"; then during="after the push had ended"; else during="in the middle of a push"; fi
push_pid=
begun=$(now)
serve
pass "SIGKILL $during, $arrived bytes had arrived: listens again after $(seconds $(($(now) - begun)))"
intact "after SIGKILL"

begun=$(now)
push "$cut" cut demo/cut:cut
took=$(($(now) - begun))
pass "pushed what had been cut off: $(uploads) blobs sent, $(seconds "$took")"
pull_and_compare "$cut" cut demo/cut:cut
pass "pulled it: $blobs equal, $bytes bytes, $(rate "$bytes" "$took")"

kill -TERM "$server_pid"
server_ended 60
((server_status == 0)) || fail "after the last SIGTERM the server ended with status $server_status"
# A panic on a server's thread answers one request wrongly and may go unseen by the client.
if grep -nE 'panicked at|ERROR' "$work/server.log" >&2; then
    fail "the server's log has errors"
fi
pass "ended with status 0, no errors in its log"

printf '%d passed, 0 failed\n' "$passed"
