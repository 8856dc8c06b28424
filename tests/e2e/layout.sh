# Image layouts: made without an image tool, and compared byte for byte. To be sourced, by a script that has `fail MESSAGE`,
# and a folder $work with tmp/ in it.
# shellcheck shell=bash disable=SC2154

# tar, jq and sha256sum are enough to write an OCI layout, need no privileges, and let the bytes be chosen freely: an image
# tool would re-encode the JSON, and exactly those differences are to be found.

layout_new() { # layout_new LAYOUT
    mkdir -p "$1/blobs/sha256"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
    printf '{"schemaVersion":2,"manifests":[]}' >"$1/index.json"
}

# Moves a file into the layout under its digest, and prints its descriptor.
layout_add() { # layout_add LAYOUT MEDIA-TYPE FILE
    local hex size
    hex=$(sha256sum <"$3" | cut -d' ' -f1)
    size=$(stat -c %s -- "$3")
    mv -- "$3" "$1/blobs/sha256/$hex"
    jq -nc --arg type "$2" --arg digest "sha256:$hex" --argjson size "$size" \
        '{mediaType: $type, digest: $digest, size: $size}'
}

layout_tag() { # layout_tag LAYOUT TAG DESCRIPTOR
    jq -c --arg tag "$2" --argjson descriptor "$3" \
        '.manifests += [$descriptor + {annotations: {"org.opencontainers.image.ref.name": $tag}}]' \
        "$1/index.json" >"$work/tmp/index.json"
    mv -- "$work/tmp/index.json" "$1/index.json"
}

# Packs the folder as a layer and prints two lines: its descriptor, and the digest of the tar inside (the image's config
# names that one). The folder is deleted.
layer() { # layer LAYOUT FOLDER gzip|zstd
    local tar=$work/tmp/layer.tar diff_id packed=$work/tmp/layer.packed type
    tar --create --file "$tar" --directory "$2" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
    rm -rf -- "$2"
    diff_id=sha256:$(sha256sum <"$tar" | cut -d' ' -f1)
    # The fastest level: the bytes only have to be a valid stream.
    case $3 in
        gzip) gzip -n -1 <"$tar" >"$packed" && type=application/vnd.oci.image.layer.v1.tar+gzip ;;
        zstd) zstd -q -1 <"$tar" >"$packed" && type=application/vnd.oci.image.layer.v1.tar+zstd ;;
    esac
    rm -- "$tar"
    layout_add "$1" "$type" "$packed"
    printf '%s\n' "$diff_id"
}

# Writes config and manifest over layers, and prints the manifest's descriptor with its platform.
image() { # image LAYOUT ARCHITECTURE LAYER...   (each LAYER as `layer` prints it)
    local layout=$1 architecture=$2 layers diff_ids config
    shift 2
    layers=$(for each; do sed -n 1p <<<"$each"; done | jq -sc .)
    diff_ids=$(for each; do sed -n 2p <<<"$each"; done | jq -Rsc 'split("\n")[:-1]')
    jq -n --arg architecture "$architecture" --argjson diff_ids "$diff_ids" '{
        created: "1970-01-01T00:00:00Z", architecture: $architecture, os: "linux",
        config: {Cmd: ["/bin/busybox", "sh"]},
        rootfs: {type: "layers", diff_ids: $diff_ids},
        history: [$diff_ids[] | {created: "1970-01-01T00:00:00Z", created_by: "tests/e2e"}]
    }' >"$work/tmp/config.json"
    config=$(layout_add "$layout" application/vnd.oci.image.config.v1+json "$work/tmp/config.json")
    # Indented, with an annotation that no JSON library writes so: a registry that parsed and wrote the manifest anew would
    # be found out.
    jq -n --tab --argjson config "$config" --argjson layers "$layers" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: $layers,
        annotations: {"org.example.written": "as \u003cthis\u003e / and no otherwise"}
    }' | sed 's/<this>/\\u003cthis\\u003e/; s# / # \\/ #' >"$work/tmp/manifest.json"
    layout_add "$layout" application/vnd.oci.image.manifest.v1+json "$work/tmp/manifest.json" |
        jq -c --arg architecture "$architecture" '. + {platform: {architecture: $architecture, os: "linux"}}'
}

incompressible() { # incompressible FILE MEBIBYTES
    mkdir -p "$(dirname -- "$1")"
    head -c $(($2 << 20)) /dev/urandom >"$1"
}

compressible() { # compressible FILE LINES
    mkdir -p "$(dirname -- "$1")"
    seq -f 'line %.0f of a log that says the same thing over and over again' "$2" >"$1"
}

# The descriptor that a layout has for a tag.
tagged() { # tagged LAYOUT TAG
    jq -ce --arg tag "$2" \
        '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $tag)' "$1/index.json"
}

# Every digest that a manifest in a layout leads to, its own first; of an index, those of every platform.
reachable() { # reachable LAYOUT DIGEST
    local document=$1/blobs/sha256/${2#sha256:} child
    printf '%s\n' "$2"
    jq -r '(.config // empty).digest, (.layers // [])[].digest' "$document"
    while read -r child; do
        reachable "$1" "$child"
    done < <(jq -r '(.manifests // [])[].digest' "$document")
}

# What one layout has under a tag, the other one has too, byte for byte, and nothing else. Sets `blobs` and `bytes`.
same_image() { # same_image SOURCE SOURCE-TAG COPY COPY-TAG
    local source copy digest file digests=$work/tmp/digests
    source=$(tagged "$1" "$2" | jq -r .digest) || fail "$1 has no tag $2"
    copy=$(tagged "$3" "$4" | jq -r .digest) || fail "the copy has no tag $4"
    [[ $source == "$copy" ]] || fail "$2 went in as $source and came out as $copy"
    reachable "$1" "$source" | sort -u >"$digests"
    blobs=0 bytes=0
    while read -r digest; do
        file=blobs/sha256/${digest#sha256:}
        [[ -f $3/$file ]] || fail "$digest is missing in what came out"
        cmp -- "$1/$file" "$3/$file" >&2 || fail "$digest came out with other bytes"
        blobs=$((blobs + 1))
        bytes=$((bytes + $(stat -c %s -- "$3/$file")))
    done <"$digests"
    diff "$digests" <(find "$3/blobs" -type f -printf 'sha256:%f\n' | sort) >&2 ||
        fail "what came out has other blobs than what went in"
}
