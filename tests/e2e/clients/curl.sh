# curl in the manner of crane: blobs in pieces of unknown length, manifests likewise. To be sourced by tests/e2e/clients.sh,
# which says what is there.
# shellcheck shell=bash disable=SC2034,SC2154

curl_program=curl
curl_version() { curl --version | sed -nE '1s/^curl ([^ ]+).*/\1/p'; }

token= # the last that was given

# Sets `status`, and leaves the body and the headers in files. Whoever is told where to get a token gets one and asks again.
request() { # request METHOD PATH-OR-URL [CURL-OPTION...]
    local url=$2 how=(--request "$1") proof=() challenge realm service scope scopes=()
    [[ $1 != HEAD ]] || how=(--head)
    if [[ $url == /* ]]; then
        if [[ $transport == TLS ]]; then url=https://$registry$url; else url=http://$registry$url; fi
    fi
    if [[ -n $token ]]; then
        proof=(--header "Authorization: Bearer $token")
    elif [[ -n $secret && $login == password ]]; then
        proof=(--user "$user:$secret")
    fi
    send "${how[@]}" "${proof[@]}" "${@:3}" "$url"
    challenge=$(header WWW-Authenticate)
    [[ $status == 401 && $challenge == Bearer* ]] || return 0

    proof=()
    [[ -z $secret ]] || proof=(--user "$user:$secret")
    realm=$(sed -nE 's/.*realm="([^"]*)".*/\1/p' <<<"$challenge")
    service=$(sed -nE 's/.*service="([^"]*)".*/\1/p' <<<"$challenge")
    # Several scopes are several parameters.
    # shellcheck disable=SC2013 # words are what is wanted
    for scope in $(sed -nE 's/.*scope="([^"]*)".*/\1/p' <<<"$challenge"); do
        scopes+=(--data-urlencode "scope=$scope")
    done
    send --get "${proof[@]}" --data-urlencode "service=$service" "${scopes[@]}" "$realm"
    [[ $status == 200 ]] || return 0
    token=$(jq -r .token "$row/body")
    send "${how[@]}" --header "Authorization: Bearer $token" "${@:3}" "$url"
}

send() { # send CURL-OPTION... URL
    local trust=()
    [[ $transport != TLS ]] || trust=(--cacert "$work/ca.crt")
    printf '%s %s\n' "$2" "${*: -1}"
    # Pieces of unknown length are HTTP/1.1's.
    status=$(curl --silent --show-error --http1.1 --max-time 60 --output "$row/body" --dump-header "$row/headers" \
        --write-out '%{http_code}' "${trust[@]}" "$@")
}

header() { # header NAME
    sed -nE "s/^$1: (.*)\r\$/\1/Ip" "$row/headers"
}

expect() { # expect STATUS
    [[ $status == "$1" ]] || { cat "$row/body" && fail "answered with $status, expected $1"; }
}

curl_blob() { # curl_blob REPOSITORY DIGEST   in two PATCHes without a length
    local file=$layout/blobs/sha256/${2#sha256:} half location
    half=$(($(stat -c %s -- "$file") / 2))
    request HEAD "/v2/$1/blobs/$2"
    [[ $status != 200 ]] || return 0
    request POST "/v2/$1/blobs/uploads/" --data-binary ''
    expect 202
    head -c "$half" -- "$file" >"$row/piece"
    location=$(header Location)
    request PATCH "$location" --header 'Transfer-Encoding: chunked' --header 'Content-Type: application/octet-stream' \
        --header 'Expect:' --data-binary "@$row/piece"
    expect 202
    says Range "$(header Range)" "0-$((half - 1))"
    tail -c "+$((half + 1))" -- "$file" >"$row/piece"
    location=$(header Location)
    request PATCH "$location" --header 'Transfer-Encoding: chunked' --header 'Content-Type: application/octet-stream' \
        --data-binary "@$row/piece"
    expect 202
    location=$(header Location)
    if [[ $location == *\?* ]]; then location+='&'; else location+='?'; fi
    request PUT "${location}digest=$2" --data-binary ''
    expect 201
    says Docker-Content-Digest "$(header Docker-Content-Digest)" "$2"
}

curl_manifest() { # curl_manifest REPOSITORY DIGEST REFERENCE   likewise without a length
    local file=$layout/blobs/sha256/${2#sha256:}
    request PUT "/v2/$1/manifests/$3" --header "Content-Type: $(jq -r .mediaType "$file")" \
        --header 'Transfer-Encoding: chunked' --data-binary "@$file"
    expect 201
    says Docker-Content-Digest "$(header Docker-Content-Digest)" "$2"
}

curl_image() { # curl_image REPOSITORY DIGEST TAG   what it leads to first
    local document=$layout/blobs/sha256/${2#sha256:} digest
    while read -r digest; do
        curl_blob "$1" "$digest"
    done < <(jq -r '(.config // empty).digest, (.layers // [])[].digest' "$document")
    while read -r digest; do
        curl_image "$1" "$digest" "$digest"
    done < <(jq -r '(.manifests // [])[].digest' "$document")
    curl_manifest "$1" "$2" "$3"
}

curl_compare() { # curl_compare REPOSITORY DIGEST TAG   all that it leads to
    local digest kind type=
    request GET "/v2/$1/manifests/$3" --header "Accept: $(jq -r .mediaType "$layout/blobs/sha256/${2#sha256:}")"
    expect 200
    says Docker-Content-Digest "$(header Docker-Content-Digest)" "$2"
    cmp -- "$layout/blobs/sha256/${2#sha256:}" "$row/body"
    while read -r digest; do
        kind=blobs type=$(jq -r '.mediaType? // empty' "$layout/blobs/sha256/${digest#sha256:}" 2>/dev/null || true)
        [[ -z $type ]] || kind=manifests
        request GET "/v2/$1/$kind/$digest" --header "Accept: ${type:-*/*}"
        expect 200
        cmp -- "$layout/blobs/sha256/${digest#sha256:}" "$row/body"
        request HEAD "/v2/$1/$kind/$digest" --header "Accept: ${type:-*/*}"
        expect 200
        says Content-Length "$(header Content-Length)" "$(stat -c %s -- "$layout/blobs/sha256/${digest#sha256:}")"
    done < <(reachable "$layout" "$2" | sort -u)
}

curl_login() {
    request GET /v2/
    expect 200
}
curl_push() { curl_image curl/app "$one" one; }
curl_pull() { curl_compare curl/app "$one" one; }
curl_push_index() { curl_image curl/app "$multi" multi; }
curl_pull_index() { curl_compare curl/app "$multi" multi; }
curl_tags() {
    request GET /v2/curl/app/tags/list
    expect 200
    says 'the list' "$(jq -c '[.name, (.tags | sort)]' "$row/body")" '["curl/app",["multi","one"]]'
}
curl_mount() {
    request POST "/v2/curl/copy/blobs/uploads/?mount=$layer_digest&from=curl/app" --data-binary ''
    expect 201
    curl_image curl/copy "$one" one
    curl_compare curl/copy "$one" one
}
curl_delete() {
    request DELETE "/v2/curl/copy/manifests/$one"
    expect 202
    request GET "/v2/curl/copy/manifests/one"
    expect 404
    says 'the error' "$(jq -r '.errors[0].code' "$row/body")" MANIFEST_UNKNOWN
}
curl_refused() {
    local path
    for secret in wrong ''; do
        token=''
        # As most clients do, before anything else. Nobody may have a token too: one that is good for nothing.
        request GET /v2/
        [[ $login != password && -z $secret ]] || curl_stranger
        for path in "manifests/one" "blobs/$layer_digest" tags/list; do
            request GET "/v2/curl/app/$path"
            # Where everyone may pull, no password is asked for.
            if [[ $login == anyone ]]; then expect 200; else curl_stranger; fi
        done
        request POST /v2/curl/app/blobs/uploads/ --data-binary ''
        curl_stranger
        request DELETE "/v2/curl/app/manifests/$one"
        curl_stranger
        [[ $login != password ]] || request GET /v2/_catalog
        curl_stranger
    done
}

# The last answer says that, and how, to say who asks.
curl_stranger() {
    expect 401
    [[ -n $(header WWW-Authenticate) ]] || fail "nothing says how to authenticate"
    says 'the error' "$(jq -r '.errors[0].code' "$row/body")" UNAUTHORIZED
}
