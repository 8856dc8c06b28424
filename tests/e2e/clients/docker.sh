# docker, with a dockerd of its own, and that one with a containerd. To be sourced by tests/e2e/clients.sh, which says what is
# there.
# shellcheck shell=bash disable=SC2034,SC2154

docker_program=dockerd
docker_version() { # the command's and the daemon's
    printf '%s\n' "$(docker --version)" "$(dockerd --version)" | sed -E 's/Docker version ([^,]+).*/\1/' | paste -sd /
}

run_docker() { timeout 120 docker --host "unix://$work/docker.sock" "$@"; }

docker_ready() {
    if [[ ! $isolated ]]; then reason='it needs root, and mounts of its own' && return 1; fi
    if ! command -v docker >/dev/null; then reason='docker is not installed' && return 1; fi
    printf '{}\n' >"$work/docker.json"
    dockerd --config-file "$work/docker.json" --data-root "$work/docker" --exec-root "$work/docker.run" \
        --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" --storage-driver vfs --bridge none \
        --iptables=false --ip6tables=false >"$work/docker.log" 2>&1 &
    daemons+=($!)
    ready $! "$work/docker.log" run_docker version
}

docker_empty() { run_docker image prune --all --force; }

# Loads one platform's image from an archive, under a tag.
docker_in() { # docker_in ARCHITECTURE TAG
    local archive=$row/archive config=${config_of[$1]#sha256:}
    rm -rf -- "$archive"
    mkdir -p "$archive"
    cp -- "$layout/blobs/sha256/$config" "$archive/$config.json"
    cp -- "$layout/blobs/sha256/${layer_digest#sha256:}" "$archive/layer.tar"
    jq -n --arg config "$config.json" --arg tag "$registry/docker/app:$2" \
        '[{Config: $config, RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$archive/manifest.json"
    tar --create --directory "$archive" . | run_docker load
}

# The registry's certificate, where the daemon and the command both look for it. Both trust loopback as it is.
docker_trust() {
    insecure=(--insecure)
    if [[ $transport == TLS ]]; then
        insecure=()
        mkdir -p "/etc/docker/certs.d/$registry"
        cp -- "$work/ca.crt" "/etc/docker/certs.d/$registry/ca.crt"
    fi
}

docker_out() { # docker_out TAG ARCHITECTURE
    docker_empty
    run_docker pull --platform "linux/$2" "$registry/docker/app:$1"
    says "the image of $1 for $2" "$(run_docker image inspect --format '{{.Id}}' "$registry/docker/app:$1")" "${config_of[$2]}"
    says "the digest of $1" "$(run_docker image inspect --format '{{index .RepoDigests 0}}' "$registry/docker/app:$1")" \
        "$registry/docker/app@$(<"$row/digest.$1")"
}

docker_login() {
    credentials
    docker_trust
    run_docker login --username "$user" --password-stdin "$registry" <<<"$password"
    jq -e --arg registry "$registry" '.auths[$registry].auth' "$DOCKER_CONFIG/config.json" >/dev/null
}
docker_push() {
    docker_trust
    docker_empty
    docker_in amd64 one
    run_docker push "$registry/docker/app:one" | tee "$row/log"
    sed -nE 's/^one: digest: (sha256:[0-9a-f]{64}) .*/\1/p' "$row/log" >"$row/digest.one"
    [[ -s $row/digest.one ]]
}
docker_pull() { docker_out one amd64; }
docker_push_index() {
    local list=$registry/docker/app:multi architecture
    docker_trust
    for architecture in amd64 arm64; do
        docker_in "$architecture" "$architecture"
        run_docker push "$registry/docker/app:$architecture"
    done
    run_docker manifest create "${insecure[@]}" "$list" "$registry/docker/app:amd64" "$registry/docker/app:arm64"
    run_docker manifest push --purge "${insecure[@]}" "$list" | tee "$row/log"
    tail -n 1 "$row/log" >"$row/digest.multi"
    grep -qE '^sha256:[0-9a-f]{64}$' "$row/digest.multi"
}
docker_pull_index() { docker_out multi amd64; docker_out multi arm64; }
docker_mount() {
    docker_out one amd64
    run_docker tag "$registry/docker/app:one" "$registry/docker/copy:one"
    run_docker push "$registry/docker/copy:one" | tee "$row/log"
    grep -q 'Mounted from docker/app' "$row/log"
}
docker_refused() {
    credentials
    denied run_docker login --username "$user" --password wrong "$registry"
    for each in wrong ''; do
        credentials ${each:+"$each"}
        docker_empty
        denied_pull "$each" run_docker pull "$registry/docker/app:one"
        docker_in amd64 one
        denied run_docker push "$registry/docker/app:one"
    done
}
