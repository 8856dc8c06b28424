#!/usr/bin/env bash
#
# The clients that people have against `sledge serve`, each in its own way: pushes, pulls, images of several platforms, tags,
# mounts, deletions, passwords; without and with TLS. Nothing is fetched from the network: the images are made here.
#
#     tests/e2e/clients.sh [SLEDGE]       SLEDGE is the binary, target/release/sledge by default
#
#     CLIENTS="curl skopeo"               which clients, all of them by default: curl skopeo podman buildah ctr docker
#     CLIENTS_REQUIRED="skopeo buildah"   which of them must not be absent, none by default
#
# It needs curl, jq, openssl, tar, gzip and a busybox (Debian: busybox-static), and 200 MB of room in TMPDIR. As root it goes
# into a network and mounts of its own, in which nothing but loopback can be reached and what the clients write in /etc and
# /var is not the machine's. containerd and dockerd are started there; without root they cannot run, and docker's and
# containerd's cells are not claimed. One row is printed for each client, transport and login; the last line is
# "N passed, M failed". What a failed cell printed is shown at the end.
#
# A cell is "ok", "FAILED", or "-" where the client has no such command. What it stands for:
#
#     login     the client's login command takes the right password
#     push      an image; the client names the digest of what it pushed
#     pull      it comes out again, into an empty store, with that digest and the config that was pushed
#     index     push, pull: the same for an index of two platforms, each of which is pulled
#     tags      the client lists the tags
#     mount     the image goes to another repository, and its layer is not sent again
#     delete    the image is deleted, and then unknown
#     refused   with a wrong password and without one neither login, push nor pull are possible, and the client is told why
#
# What a login is: "password" sends it with each request, "token" gets a token for it and sends that, "anyone" is the same
# where everyone may pull: there, pull and tags go without.

# shellcheck disable=SC2034 # the clients' files use what is set here
set -euo pipefail

# Mounts and a network of its own, or this once more without.
if [[ $(id -u) == 0 && -z ${E2E_INSIDE:-} ]]; then
    if unshare --net --mount true 2>/dev/null; then
        E2E_INSIDE=isolated exec unshare --net --mount "$BASH" "$0" "$@"
    fi
fi
isolated=
[[ ${E2E_INSIDE:-} != isolated ]] || isolated=yes

sledge=${1:-target/release/sledge}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
all_clients=(curl skopeo podman buildah ctr docker)
read -ra clients <<<"${CLIENTS:-${all_clients[*]}}"
read -ra required <<<"${CLIENTS_REQUIRED:-}"

passed=0
failed=0
daemons=()  # process ids, in the order in which they were started
declare -A server_of address_of  # process ids and addresses, by transport and login
made=()  # folders that were not there
failures=()  # the logs of failed cells

fail() {
    printf 'FAILED  %s\n' "$*" >&2
    exit 1
}

# Ends what was started, the clients' daemons first. Whoever does not end within 20 s is killed.
end_all() {
    local each tries
    for each in "${daemons[@]}" "${server_of[@]}"; do
        kill -TERM "$each" 2>/dev/null || continue
        for ((tries = 0; tries < 200; tries++)); do
            kill -0 "$each" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$each" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}

finish() {
    local status=$? each
    trap - EXIT ERR
    end_all
    # Without root podman leaves a process that holds its namespace.
    while read -r each; do
        kill -KILL "$(<"$each")" 2>/dev/null || true
    done < <(find "${work:-/nowhere}" -name pause.pid 2>/dev/null)
    if ((status != 0)); then
        for each in "${failures[@]}"; do
            printf -- '--- %s ---\n' "${each##*/}" >&2
            tail -n 40 -- "$each" >&2
        done
        for each in "${work:-/nowhere}"/server.*.log; do
            [[ ! -s $each ]] || { printf -- '--- the end of %s ---\n' "${each##*/}" >&2 && tail -n 40 -- "$each" >&2; }
        done
    fi
    for each in "${made[@]}"; do
        umount -- "$each" 2>/dev/null || true
        rmdir -- "$each" 2>/dev/null || true
    done
    [[ -z ${work:-} ]] || rm -rf --one-file-system -- "$work"
    ((status == 0 || failed > 0)) || failed=1
    printf '%d passed, %d failed\n' "$passed" "$failed"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# `set -e` alone stops without a word.
trap 'printf "FAILED  line %d: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR

for tool in curl jq openssl tar gzip sha256sum cmp busybox timeout; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done
[[ -x $sledge ]] || fail "$sledge is not a program: give the path of the sledge binary, or run cargo build --release"
sledge=$(realpath -- "$sledge")

if [[ $isolated ]]; then
    # Docker trusts whatever it meets on 127.0.0.0/8, so with TLS the registry is somewhere else: at an address that is
    # kept for documentation, on this network's loopback.
    busybox ip link set lo up
    busybox ip address add 192.0.2.1/32 dev lo
    # Where the clients write whatever else they are told.
    for folder in /run /etc/docker /var/lib/containers; do
        if [[ ! -d $folder ]]; then
            mkdir -p -- "$folder"
            made+=("$folder")
        fi
        mount -t tmpfs none "$folder"
    done
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/sledge-e2e.XXXXXX")
mkdir -p "$work/tmp" "$work/home" "$work/cells"

# No client may read this user's credentials and settings.
export HOME=$work/home XDG_RUNTIME_DIR=$work/home XDG_DATA_HOME=$work/home XDG_CONFIG_HOME=$work/home/.config
export REGISTRY_AUTH_FILE=$work/home/auth.json DOCKER_CONFIG=$work/home
unset "${!SLEDGE_@}" DOCKER_HOST CONTAINERD_ADDRESS CONTAINERD_NAMESPACE CONTAINERD_SNAPSHOTTER http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# shellcheck source-path=SCRIPTDIR
source "$here/layout.sh"

# --- The images ---------------------------------------------------------------------------------------------------------

# Two platforms with one layer. `one` is the first by itself, under a tag of its own, `multi` the index of both.
layout=$work/layout
layout_new "$layout"
mkdir -p "$work/tmp/tree/bin"
cp -L -- "$(command -v busybox)" "$work/tmp/tree/bin/busybox"
base=$(layer "$layout" "$work/tmp/tree" gzip)
platforms=()
declare -A config_of
for architecture in amd64 arm64; do
    platforms+=("$(image "$layout" "$architecture" "$base")")
    manifest=$(jq -r '.digest[7:]' <<<"${platforms[-1]}")
    config_of[$architecture]=$(jq -r .config.digest "$layout/blobs/sha256/$manifest")
done
printf '%s\n' "${platforms[@]}" |
    jq -s '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' >"$work/tmp/index"
layout_tag "$layout" multi "$(layout_add "$layout" application/vnd.oci.image.index.v1+json "$work/tmp/index")"
layout_tag "$layout" one "$(jq -c 'del(.platform)' <<<"${platforms[0]}")"
one=$(tagged "$layout" one | jq -r .digest)
multi=$(tagged "$layout" multi | jq -r .digest)
layer_digest=$(sed -n 1p <<<"$base" | jq -r .digest)

# --- The servers --------------------------------------------------------------------------------------------------------

user=somebody
password='correct horse: battery+staple/='

help=$("$sledge" serve --help)
offered() { # offered plain|TLS|none|password|token|anyone
    [[ -z ${flag_of[$1]:-} ]] || grep -qE -- "^ *${flag_of[$1]}([^a-z-]|\$)" <<<"$help"
}
transports=(plain TLS)
logins=(none password token anyone)
declare -A flag_of=([TLS]=--tls-certificate [password]=--htpasswd [token]=--tokens [anyone]=--anonymous-pull)

# The certificate of an authority that nobody else trusts, and one of the server's that it vouches for.
certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=a test authority' \
        -addext keyUsage=critical,keyCertSign -keyout "$work/ca.key" -out "$work/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=a test registry' \
        -keyout "$work/server.key" -out "$work/server.csr"
    openssl x509 -req -in "$work/server.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -extfile <(printf 'subjectAltName=IP:127.0.0.1,IP:192.0.2.1,DNS:localhost\nextendedKeyUsage=serverAuth\n') \
        -out "$work/server.crt"
}
if offered TLS; then
    certificates >"$work/openssl.log" 2>&1 || { cat "$work/openssl.log" >&2 && fail "no certificates could be made"; }
fi
# By `htpasswd -nbB somebody "$password"`.
# shellcheck disable=SC2016 # no variables, a hash
printf '%s\n' 'somebody:$2y$05$mbC47iDV6itavhtc093wNeUtkTP6gCxl5YGe0QlFxm3zzoTTvdmZO' >"$work/htpasswd"

# Starts a server and notes its address. The port is the system's choice.
serve() { # serve TRANSPORT LOGIN
    local name=$1.$2 ip=127.0.0.1 scheme=http options=() tries
    if [[ $1 == TLS ]]; then
        options+=(--tls-certificate "$work/server.crt" --tls-key "$work/server.key")
        scheme=https
        [[ ! $isolated ]] || ip=192.0.2.1
    fi
    [[ $2 == none ]] || options+=(--htpasswd "$work/htpasswd")
    if [[ $2 == token || $2 == anyone ]]; then
        : >"$work/$name.toml"
        options+=(--config "$work/$name.toml")
    fi
    : >"$work/server.$name.log"
    "$sledge" serve --data "$work/data.$name" --listen "$ip:0" "${options[@]}" 2>"$work/server.$name.log" &
    server_of[$name]=$!
    for ((tries = 0; tries < 300; tries++)); do
        address_of[$name]=$(sed -nE 's,^.*listening on https?://([0-9.]+:[0-9]+).*$,\1,p' "$work/server.$name.log" | head -n 1)
        [[ -z ${address_of[$name]} ]] || break
        kill -0 "${server_of[$name]}" 2>/dev/null || fail "the server $name ended before it listened"
        sleep 0.1
    done
    [[ -n ${address_of[$name]} ]] || fail "the server $name did not say where it listens within 30 s"
    [[ $2 == token || $2 == anyone ]] || return 0

    # Where tokens are to be had is known only now.
    printf '[auth]\ntokens = true\nexternal-url = "%s://%s"\nanonymous-pull = %s\n' "$scheme" "${address_of[$name]}" \
        "$([[ $2 == anyone ]] && printf true || printf false)" >"$work/$name.toml"
    kill -HUP "${server_of[$name]}"
    for ((tries = 0; tries < 300; tries++)); do
        if curl --silent --head --cacert "$work/ca.crt" "$scheme://${address_of[$name]}/v2/" |
            grep -qi '^www-authenticate: Bearer'; then return 0; fi
        sleep 0.1
    done
    fail "the server $name does not say where to get tokens"
}

# --- What the cells share -----------------------------------------------------------------------------------------------
#
# Set for each row: $registry, $transport, $login, and $secret, the password if one is to be given. Each cell is a
# function CLIENT_CELL, run in a shell of its own that ends at the first command that fails; what it leaves for later cells of
# the row, it leaves in files in $row.

says() { # says WHAT FOUND EXPECTED
    [[ $2 == "$3" ]] || fail "$1 is «$2», expected «$3»"
}

# A command that must fail, and say that it is for want of the right password.
denied() { # denied COMMAND...
    local output
    if output=$("$@" 2>&1); then
        fail "went through with a wrong password: $*"
    fi
    printf '%s\n' "$output"
    grep -qiE \
        'unauthorized|authentication required|no basic auth credentials|(incorrect|invalid) username|insufficient_scope|denied|\b401\b' \
        <<<"$output" || fail "failed, but not for want of the right password: $*"
}

# The same for one that pulls, unless it gives no password where everyone may pull.
denied_pull() { # denied_pull PASSWORD COMMAND...
    if [[ $login == anyone && -z $1 ]]; then "${@:2}"; else denied "${@:2}"; fi
}

# A command that must fail because the manifest is not there.
unknown() { # unknown COMMAND...
    local output
    if output=$("$@" 2>&1); then
        fail "still there: $*"
    fi
    printf '%s\n' "$output"
    grep -qiE 'manifest unknown|not found|\b404\b' <<<"$output" || fail "failed, but not because it is unknown: $*"
}

# The files in which all clients but curl and ctr keep what they were told at a login.
credentials() { # credentials [PASSWORD]
    local auths='{"auths":{}}'
    if (($# > 0)); then
        auths=$(jq -nc --arg registry "$registry" --arg auth "$user:$1" '{auths: {($registry): {auth: ($auth | @base64)}}}')
    fi
    printf '%s\n' "$auths" | tee "$REGISTRY_AUTH_FILE" >"$DOCKER_CONFIG/config.json"
}

ready() { # ready PID LOG COMMAND...    waits until a daemon answers, or sets `reason`
    local pid=$1 log=$2 tries
    shift 2
    for ((tries = 0; tries < 600; tries++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    reason="$(tail -n 1 -- "$log" | cut -c 1-200)"
    return 1
}

# --- The clients --------------------------------------------------------------------------------------------------------
#
# Of each: CLIENT_program, which is looked for; CLIENT_version; CLIENT_ready, where something must be started first, which sets
# `reason` if that cannot be; and the cells that it has.

# shellcheck source=/dev/null
for each in curl containers ctr docker; do source "$here/clients/$each.sh"; done

# --- The matrix ---------------------------------------------------------------------------------------------------------

columns=(login push pull push_index pull_index tags mount delete refused)
heads=(login push pull 'index push' 'index pull' tags mount delete refused)

line() { # line CLIENT TRANSPORT LOGIN CELL...
    local each at=3 text
    text=$(printf '%-29s %-9s %-9s' "$1" "$2" "$3")
    for each in "${@:4}"; do
        text+=$(printf ' %-*s' "${#heads[at - 3]}" "$each")
        # The narrowest columns hold "FAILED".
        ((${#heads[at - 3]} >= 6)) || ((${#each} > ${#heads[at - 3]})) || text+=$(printf '%*s' $((6 - ${#heads[at - 3]})) '')
        at=$((at + 1))
    done
    printf '%s\n' "${text%"${text##*[! ]}"}"
}

# Runs a cell, and sets `cell` to what is printed.
run_cell() { # run_cell CLIENT COLUMN
    local log=$work/cells/$1.$transport.$login.$2 status
    cell=-
    declare -F "$1_$2" >/dev/null || return 0
    if [[ $2 == login || $2 == refused ]]; then
        [[ $login != none ]] || return 0
    fi
    if [[ $login == anyone ]]; then
        case $2 in
            pull | pull_index | tags) secret='' && credentials ;;
            *) secret=$password && credentials "$password" ;;
        esac
    fi
    # Not in a condition: `set -e` would mean nothing within.
    set +e
    (
        trap - EXIT INT TERM
        set -e
        cd -- "$work"
        trap 'printf "FAILED  %s:%d: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR
        "$1_$2"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    if ((status == 0)); then
        passed=$((passed + 1)) cell=ok
    else
        failed=$((failed + 1)) cell=FAILED
        failures+=("$log")
    fi
}

# Says why a client has no rows, which is a failure where it must have some.
absent() { # absent TITLE REASON
    printf '%-29s %s\n' "$1" "$2"
    if [[ " ${required[*]} " == *" ${1%% *} "* ]]; then
        failed=$((failed + 1))
        printf 'FAILED  %s is required\n' "${1%% *}" >&2
    fi
}

run_client() { # run_client CLIENT
    local program=$1_program title column cells
    command -v "${!program}" >/dev/null || { absent "$1" 'not installed' && return 0; }
    title="$1 $("$1_version")"
    reason=
    if declare -F "$1_ready" >/dev/null; then
        "$1_ready" || { absent "$title" "cannot run here: $reason" && return 0; }
    fi
    for transport in "${transports[@]}"; do
        for login in "${logins[@]}"; do
            if [[ -z ${address_of[$transport.$login]:-} ]]; then
                line "$title" "$transport" "$login" 'not offered'
                continue
            fi
            registry=${address_of[$transport.$login]}
            row=$work/row
            rm -rf -- "$row"
            mkdir -p "$row"
            secret=
            [[ $login == none ]] || secret=$password
            credentials ${secret:+"$secret"}
            cells=()
            for column in "${columns[@]}"; do
                run_cell "$1" "$column"
                cells+=("$cell")
            done
            line "$title" "$transport" "$login" "${cells[@]}"
        done
    done
}

printf '%s\n' "$("$sledge" --version)"
for transport in "${transports[@]}"; do
    for login in "${logins[@]}"; do
        if offered "$transport" && offered "$login"; then serve "$transport" "$login"; fi
    done
done

line client transport login "${heads[@]}"
for client in "${clients[@]}"; do
    [[ " ${all_clients[*]} " == *" $client "* ]] || fail "$client is none of ${all_clients[*]}"
    run_client "$client"
done
for client in "${required[@]}"; do
    [[ " ${clients[*]} " == *" $client "* ]] || fail "$client is required, but CLIENTS does not have it"
done

for server in "${!server_of[@]}"; do
    kill -TERM "${server_of[$server]}"
    wait "${server_of[$server]}" || fail "after SIGTERM the server $server ended with status $?"
    # A panic on a server's thread answers one request wrongly and may go unseen by the client.
    if grep -nE 'panicked at|ERROR' "$work/server.$server.log" >&2; then
        fail "the log of the server $server has errors"
    fi
done

if ((failed > 0)); then exit 1; fi
