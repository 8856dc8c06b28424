# skopeo, podman and buildah: one library, three tools. To be sourced by tests/e2e/clients.sh, which says what is there.
# shellcheck shell=bash disable=SC2034,SC2154

# How they are told of the registry; where there are two of them, of which one. Whom to trust is in a folder of the user's.
options() { # options [src-|dest-]
    local folder=$XDG_CONFIG_HOME/containers/certs.d/$registry
    if [[ $transport == TLS ]]; then
        mkdir -p "$folder"
        cp -- "$work/ca.crt" "$folder/ca.crt"
        printf -- '--%stls-verify=true' "${1:-}"
    else
        printf -- '--%stls-verify=false' "${1:-}"
    fi
}

logs_in() { # logs_in PROGRAM...
    credentials
    "$@" login "$(options)" --username "$user" --password-stdin "$registry" <<<"$password"
    # What it wrote is what the cells below go by.
    jq -e --arg registry "$registry" '.auths[$registry].auth' "$REGISTRY_AUTH_FILE" >/dev/null
}

refused_login() { # refused_login PROGRAM...
    credentials
    denied "$@" login "$(options)" --username "$user" --password wrong "$registry"
}

skopeo_program=skopeo
skopeo_version() { skopeo --version | sed 's/skopeo version //'; }
run_skopeo() { timeout 120 skopeo --debug --insecure-policy --tmpdir "$work/tmp" "$@"; }

skopeo_out() { # skopeo_out TAG [OPTION...]
    rm -rf -- "$row/out"
    run_skopeo copy "$(options src-)" "${@:2}" "docker://$registry/skopeo/app:$1" "oci:$row/out:out"
    same_image "$layout" "$1" "$row/out" out
}

skopeo_login() { logs_in run_skopeo; }
skopeo_push() { run_skopeo copy "$(options dest-)" "oci:$layout:one" "docker://$registry/skopeo/app:one"; }
skopeo_pull() { skopeo_out one; }
skopeo_push_index() { run_skopeo copy --all "$(options dest-)" "oci:$layout:multi" "docker://$registry/skopeo/app:multi"; }
skopeo_pull_index() { skopeo_out multi --all; }
skopeo_tags() {
    run_skopeo list-tags "$(options)" "docker://$registry/skopeo/app" >"$row/tags"
    says 'the list' "$(jq -c '.Tags | sort' "$row/tags")" '["multi","one"]'
}
skopeo_mount() {
    run_skopeo copy "$(options src-)" "$(options dest-)" "docker://$registry/skopeo/app:one" \
        "docker://$registry/skopeo/copy:one" 2>"$row/log"
    cat -- "$row/log"
    grep -qE "POST .*/v2/skopeo/copy/blobs/uploads/.*mount=sha256(:|%3A)${layer_digest#sha256:}" "$row/log"
    # The config is sent whatever is offered.
    (($(grep -c 'PATCH http' "$row/log") <= 1)) || fail "the layer was sent, not mounted"
}
skopeo_delete() {
    run_skopeo delete "$(options)" "docker://$registry/skopeo/copy:one"
    unknown run_skopeo inspect "$(options)" "docker://$registry/skopeo/copy:one"
}
skopeo_refused() {
    refused_login run_skopeo
    for each in wrong ''; do
        credentials ${each:+"$each"}
        denied_pull "$each" run_skopeo inspect "$(options)" "docker://$registry/skopeo/app:one"
        denied skopeo_push
    done
}

# podman and buildah keep images in a store of their own, and pack the layers anew when they push: the digest is theirs. The
# config is what was given to them.
kin() { # kin podman|buildah ARGUMENT...
    local program=$1 settings=()
    shift
    [[ $program == buildah ]] || settings=(--cgroup-manager cgroupfs --events-backend none)
    timeout 120 "$program" --root "$work/$program" --runroot "$work/$program.run" --storage-driver vfs "${settings[@]}" "$@"
}

kin_push() { # kin_push PROGRAM
    local id
    kin "$1" rmi --all --force
    id=$(kin "$1" pull --quiet oci:layout:one)
    says 'the image' "sha256:${id#sha256:}" "${config_of[amd64]}"
    kin "$1" push "$(options)" --digestfile "$row/digest.one" "$id" "docker://$registry/$1/app:one"
}

kin_push_index() { # kin_push_index PROGRAM
    kin "$1" rmi --all --force
    kin "$1" manifest create list
    kin "$1" manifest add --all list oci:layout:multi
    kin "$1" manifest push --all "$(options)" --digestfile "$row/digest.multi" list "docker://$registry/$1/app:multi"
    # buildah says no otherwise that it failed.
    [[ -s $row/digest.multi ]] || fail "$1 named no digest of what it pushed"
}

# By the tag, which must lead to the digest that was pushed; and by that digest, which the client looks at itself.
kin_out() { # kin_out PROGRAM TAG ARCHITECTURE
    local digest reference id
    digest=$(<"$row/digest.$2")
    for reference in ":$2" "@$digest"; do
        kin "$1" rmi --all --force
        id=$(kin "$1" pull --quiet "$(options)" --arch "$3" "$registry/$1/app$reference")
        says "the image of $reference for $3" "sha256:${id#sha256:}" "${config_of[$3]}"
        says "the digest of $reference" "$(kin "$1" images --digests --format '{{.Digest}}')" "$digest"
    done
}

kin_refused() { # kin_refused PROGRAM
    refused_login kin "$1"
    for each in wrong ''; do
        credentials ${each:+"$each"}
        denied_pull "$each" kin "$1" pull "$(options)" "$registry/$1/app:one"
        denied kin_push "$1"
    done
}

podman_program=podman
podman_version() { podman --version | sed 's/podman version //'; }
podman_login() { logs_in kin podman; }
podman_push() { kin_push podman; }
podman_pull() { kin_out podman one amd64; }
podman_push_index() { kin_push_index podman; }
podman_pull_index() { kin_out podman multi amd64; kin_out podman multi arm64; }
podman_tags() {
    kin podman search "$(options)" --list-tags --format json "$registry/podman/app" >"$row/tags"
    says 'the list' "$(jq -c '[.[].Tags[]] | sort' "$row/tags")" '["multi","one"]'
}
podman_refused() { kin_refused podman; }

buildah_program=buildah
buildah_version() { buildah --version | sed -E 's/buildah version ([^ ]+).*/\1/'; }
buildah_login() { logs_in kin buildah; }
buildah_push() { kin_push buildah; }
buildah_pull() { kin_out buildah one amd64; }
buildah_push_index() { kin_push_index buildah; }
buildah_pull_index() { kin_out buildah multi amd64; kin_out buildah multi arm64; }
buildah_refused() { kin_refused buildah; }
