# containerd's ctr, with a containerd of its own. To be sourced by tests/e2e/clients.sh, which says what is there.
# shellcheck shell=bash disable=SC2034,SC2154

ctr_program=containerd
ctr_version() { containerd --version | sed -E 's/^[^ ]+ [^ ]+ v?([^ ]+).*/\1/'; }

run_ctr() { timeout 120 ctr --address "$work/containerd.sock" "$@"; }

ctr_ready() {
    if [[ ! $isolated ]]; then reason='it needs root, and mounts of its own' && return 1; fi
    if ! command -v ctr >/dev/null; then reason='ctr is not installed' && return 1; fi
    cat >"$work/containerd.toml" <<END
version = 2
root = "$work/containerd"
state = "$work/containerd.state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$work/containerd.sock"
[ttrpc]
  address = "$work/containerd.sock.ttrpc"
END
    containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
    daemons+=($!)
    ready $! "$work/containerd.log" run_ctr version
}

# As `docker login` has no counterpart, the password goes with each command. Sets `trust`.
ctr_trust() { # ctr_trust [PASSWORD]
    trust=(--plain-http)
    if [[ $transport == TLS ]]; then
        mkdir -p "$row/hosts/$registry"
        printf '[host."https://%s"]\n  capabilities = ["pull", "resolve", "push"]\n  ca = "%s"\n' \
            "$registry" "$work/ca.crt" >"$row/hosts/$registry/hosts.toml"
        trust=(--hosts-dir "$row/hosts")
    fi
    if (($# > 0)); then trust+=(--user "$user:$1"); fi
}

# Empties the store. What no image keeps is told to go, and waited for.
ctr_empty() {
    run_ctr images ls --quiet | xargs -r timeout 120 ctr --address "$work/containerd.sock" images rm --sync
    run_ctr content prune references
    says 'the content' "$(run_ctr content ls --quiet)" ''
}

ctr_in() {
    ctr_empty
    tar --create --file "$row/layout.tar" --directory "$layout" .
    run_ctr images import --all-platforms --no-unpack --base-name "$registry/ctr/app" "$row/layout.tar"
}

ctr_out() { # ctr_out TAG DIGEST [OPTION...]
    ctr_empty
    ctr_trust ${secret:+"$secret"}
    run_ctr images pull "${trust[@]}" --snapshotter native "${@:3}" "$registry/ctr/app:$1"
    says "the digest of $1" "$(run_ctr images ls "name==$registry/ctr/app:$1" | awk 'NR == 2 { print $3 }')" "$2"
    # It hashes all that it fetches.
    says 'the content' "$(run_ctr content ls --quiet | sort)" "$(reachable "$layout" "$2" | sort -u)"
}

ctr_send() { # ctr_send TAG
    ctr_in
    ctr_trust ${secret:+"$secret"}
    run_ctr images push "${trust[@]}" "$registry/ctr/app:$1"
}

ctr_push() { ctr_send one; }
ctr_pull() { ctr_out one "$one"; }
ctr_push_index() { ctr_send multi; }
ctr_pull_index() { ctr_out multi "$multi" --all-platforms; }
ctr_mount() {
    ctr_out one "$one"
    run_ctr images tag "$registry/ctr/app:one" "$registry/ctr/copy:one"
    run_ctr images push --http-dump "${trust[@]}" "$registry/ctr/copy:one" >"$row/log" 2>&1
    grep -aE '(POST|PUT|PATCH) /|HTTP/[0-9.]+ [0-9]+' -- "$row/log"
    grep -qaE "POST /v2/ctr/copy/blobs/uploads/\?.*mount=sha256(:|%3A)${layer_digest#sha256:}" "$row/log"
    if grep -qaE 'PUT /v2/ctr/copy/blobs/' "$row/log"; then fail "a blob was sent, not mounted"; fi
}
ctr_refused() {
    for each in wrong ''; do
        ctr_trust ${each:+"$each"}
        # It gives the password when it is asked for one, and not before.
        denied_pull '' run_ctr images pull "${trust[@]}" --snapshotter native "$registry/ctr/app:one"
        ctr_in
        # To where it is not yet: what is there it does not push.
        denied run_ctr images push "${trust[@]}" "$registry/ctr/stranger:one" "$registry/ctr/app:one"
    done
}
