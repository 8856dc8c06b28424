//! Pushing blobs, in each form.

use super::row::{Registry, Row, row};
use super::scene::LAYER;
use crate::fixture::{sha256, sha512};

const UPLOADS: &str = "/v2/{own}/blobs/uploads/";
const BLOB: &str = "/v2/{own}/blobs/{sent}";

pub(super) fn rows() -> Vec<Row> {
    [sessions(), whole(), chunks(), closing(), status(), cancelling(), mounting(), by_tar_sum()]
        .into_iter()
        .flatten()
        .collect()
}

/// A blob is there.
fn created(row: Row, location: &'static str, digest: &'static str) -> Row {
    row.is(201).with("location", location).with("docker-content-digest", digest).then("GET", location, 200)
}

/// A session is there, and stands where it says.
fn stands(row: Row, status: u16, range: &'static str) -> Row {
    row.is(status).with("location", "/v2/{own}/blobs/uploads/{id}").with("range", range)
}

fn sessions() -> Vec<Row> {
    let begins = |row: Row| stands(row, 202, "0-0").then("GET", "/v2/{own}/blobs/uploads/{id}", 204);
    let start =
        |says| row("end-4a", "POST then PUT", says).ask("POST", UPLOADS).header("Content-Length", "0");
    let with = |says, query: &str| {
        row("end-4c", "Pushing a blob in chunks", says).ask("POST", format!("{UPLOADS}?{query}"))
    };
    vec![
        begins(start("a session has an id, and a place")),
        begins(
            row("end-4a", "POST then PUT", "also where the last slash is left out")
                .ask("POST", "/v2/{own}/blobs/uploads"),
        ),
        row("end-4a", "POST then PUT", "also in a repository that was not there")
            .ask("POST", "/v2/{own}/more/blobs/uploads/")
            .is(202)
            .with("location", "/v2/{own}/more/blobs/uploads/{id}")
            .then("GET", "/v2/{own}/more/blobs/uploads/{id}", 204),
        begins(
            row("end-4a", "Pushing a blob in chunks", "there is no least length of a chunk")
                .ask("POST", UPLOADS),
        )
        .without("oci-chunk-min-length"),
        begins(with("the digest's algorithm is announced", "digest-algorithm=sha512")),
        with("an algorithm that nobody knows is refused", "digest-algorithm=blake2")
            .refused(400, "DIGEST_INVALID"),
        row("end-4a", "POST then PUT", "a name that is none is refused")
            .ask("POST", "/v2/_oci/blobs/uploads/")
            .refused(400, "NAME_INVALID"),
        row("end-6", "POST then PUT", "all bytes come with the PUT")
            .ask("PUT", "{session}?digest={sent}")
            .send("all bytes")
            .created(BLOB),
        row("end-6", "POST then PUT", "their type may be stated")
            .ask("PUT", "{session}?digest={sent}")
            .header("Content-Type", "application/octet-stream")
            .send("all bytes")
            .created(BLOB),
        row("end-6", "POST then PUT", "their length need not be")
            .ask("PUT", "{session}?digest={sent}")
            .send_chunked("all bytes")
            .created(BLOB),
        row("end-6", "POST then PUT", "there may be no bytes at all")
            .ask("PUT", "{session}?digest={sent}")
            .send("")
            .created(BLOB),
        created(
            row("end-6", "POST then PUT", "a digest of sha512 need not have been announced")
                .ask("PUT", "{session}?digest={sent512}")
                .send("all bytes"),
            "/v2/{own}/blobs/{sent512}",
            "{sent512}",
        ),
        row("end-6", "POST then PUT", "what else is in the query may stay there")
            .ask("PUT", "{session}?_state=x&digest={sent}")
            .send("all bytes")
            .created(BLOB),
    ]
}

fn whole() -> Vec<Row> {
    let post = |says| row("end-4b", "Single POST", says);
    let bad = |says, query: &str| {
        row("end-4b", "Pushing blobs", says).ask("POST", format!("{UPLOADS}?{query}")).send("some bytes")
    };
    let close = |says, query: &str| {
        row("end-6", "Pushing blobs", says).ask("PUT", format!("{{begun}}{query}")).send(" world")
    };
    vec![
        post("a blob in one request")
            .ask("POST", format!("{UPLOADS}?digest={{sent}}"))
            .send("some bytes")
            .created(BLOB),
        post("of unknown length")
            .ask("POST", format!("{UPLOADS}?digest={{sent}}"))
            .send_chunked("some bytes")
            .created(BLOB),
        post("without bytes").ask("POST", format!("{UPLOADS}?digest={{sent}}")).send("").created(BLOB),
        post("that is there already")
            .ask("POST", format!("{UPLOADS}?digest={{sent}}"))
            .send(LAYER)
            .created(BLOB),
        post("larger than what is gathered whole")
            .ask("POST", format!("{UPLOADS}?digest={{sent}}"))
            .send(vec![7; 200_000])
            .created(BLOB),
        created(
            post("by sha512").ask("POST", format!("{UPLOADS}?digest={{sent512}}")).send("some bytes"),
            "/v2/{own}/blobs/{sent512}",
            "{sent512}",
        ),
        post("which says where in the blob it begins, and it is not the beginning")
            .ask("POST", format!("{UPLOADS}?digest={{sent}}"))
            .header("Content-Range", "5-14")
            .send("some bytes")
            .refused(416, "BLOB_UPLOAD_INVALID")
            .then("GET", BLOB, 404),
        bad("another digest than the bytes have", "digest={absent}")
            .refused(400, "DIGEST_INVALID")
            .then("GET", "/v2/{own}/blobs/{absent}", 404)
            .then("GET", BLOB, 404),
        bad("another digest by sha512", "digest={absent512}").refused(400, "DIGEST_INVALID").then(
            "GET",
            "/v2/{own}/blobs/{absent512}",
            404,
        ),
        bad("no digest at all", "digest=sha256:baddigeststring").refused(400, "DIGEST_INVALID"),
        bad("an algorithm that nobody knows", "digest=md5:d41d8cd98f00b204e9800998ecf8427e")
            .refused(400, "DIGEST_INVALID"),
        close("another digest ends the session", "?digest={absent}")
            .refused(400, "DIGEST_INVALID")
            .then("GET", "/v2/{own}/blobs/{absent}", 404)
            .then("GET", "{begun}", 404),
        close("no digest at the end leaves it", "")
            .refused(400, "DIGEST_INVALID")
            .then("GET", "{begun}", 204),
        close("one that is none leaves it too", "?digest=sha256:x")
            .refused(400, "DIGEST_INVALID")
            .then("GET", "{begun}", 204),
        row("end-4a", "Pushing blobs", "one request too many")
            .ask("POST", UPLOADS)
            .on(Registry::Busy)
            .refused(429, "TOOMANYREQUESTS")
            .with("retry-after", "2"),
        row("end-4a", "Pushing blobs", "a registry that only reads")
            .ask("POST", UPLOADS)
            .on(Registry::ReadOnly)
            .refused(405, "UNSUPPORTED")
            .with("allow", "GET, HEAD"),
    ]
}

fn chunks() -> Vec<Row> {
    let patch = |says| row("end-5", "Pushing a blob in chunks", says);
    let out_of_order = |row: Row, range| {
        stands(row.refused(416, "BLOB_UPLOAD_INVALID"), 416, range).then(
            "GET",
            "/v2/{own}/blobs/uploads/{id}",
            204,
        )
    };
    vec![
        stands(
            patch("the first chunk begins at 0")
                .ask("PATCH", "{session}")
                .header("Content-Range", "0-4")
                .send("hello"),
            202,
            "0-4",
        ),
        stands(
            patch("the next begins where it ended")
                .ask("PATCH", "{begun}")
                .header("Content-Range", "5-10")
                .send(" world"),
            202,
            "0-10",
        ),
        stands(
            patch("a chunk need not say where it begins").ask("PATCH", "{begun}").send(" world"),
            202,
            "0-10",
        ),
        stands(patch("nor how long it is").ask("PATCH", "{begun}").send_chunked(" world"), 202, "0-10"),
        stands(
            patch("a chunk may be short").ask("PATCH", "{begun}").header("Content-Range", "5-5").send("!"),
            202,
            "0-5",
        ),
        stands(patch("or empty").ask("PATCH", "{begun}").send(""), 202, "0-4"),
        stands(
            patch("its type is stated")
                .ask("PATCH", "{session}")
                .header("Content-Type", "application/octet-stream")
                .send("hello"),
            202,
            "0-4",
        ),
        out_of_order(
            patch("the first chunk does not begin later")
                .ask("PATCH", "{session}")
                .header("Content-Range", "5-10")
                .send(" world"),
            "0-0",
        ),
        out_of_order(
            patch("nor a later one at 0")
                .ask("PATCH", "{begun}")
                .header("Content-Range", "0-4")
                .send("hello"),
            "0-4",
        ),
        out_of_order(
            patch("there is no gap").ask("PATCH", "{begun}").header("Content-Range", "6-11").send(" world"),
            "0-4",
        ),
        patch("a range has no unit")
            .ask("PATCH", "{begun}")
            .header("Content-Range", "bytes 5-10/11")
            .send(" world")
            .refused(400, "UNSUPPORTED")
            .then("GET", "{begun}", 204),
        patch("its end is the last byte")
            .ask("PATCH", "{begun}")
            .header("Content-Range", "5-11")
            .send(" world")
            .refused(400, "SIZE_INVALID")
            .then("GET", "{begun}", 204),
        patch("a session that is not there")
            .ask("PATCH", format!("{UPLOADS}6b3c9a93-af5d-473f-a4cf-9710022185cd"))
            .send("hello")
            .refused(404, "BLOB_UPLOAD_UNKNOWN"),
        patch("what is no session's id")
            .ask("PATCH", format!("{UPLOADS}7"))
            .send("hello")
            .refused(404, "BLOB_UPLOAD_UNKNOWN"),
    ]
}

fn closing() -> Vec<Row> {
    let put = |says| row("end-6", "Pushing a blob in chunks", says);
    let hello = sha256(b"hello");
    let hello512 = sha512(b"hello");
    let hello_world = sha256(b"hello world");
    vec![
        put("all chunks have come before")
            .ask("PUT", format!("{{begun}}?digest={hello}"))
            .is(201)
            .with("content-length", "0")
            .then("GET", "{begun}", 404),
        put("the digest is of sha512").ask("PUT", format!("{{begun}}?digest={hello512}")).is(201),
        put("the last one comes with the PUT")
            .ask("PUT", format!("{{begun}}?digest={hello_world}"))
            .header("Content-Range", "5-10")
            .send(" world")
            .is(201)
            .then("GET", "{begun}", 404),
        put("the digest is that of the whole")
            .ask("PUT", "{begun}?digest={sent}")
            .send(" world")
            .refused(400, "DIGEST_INVALID"),
        stands(
            put("the last chunk is out of order")
                .ask("PUT", format!("{{begun}}?digest={hello_world}"))
                .header("Content-Range", "6-11")
                .send(" world")
                .refused(416, "BLOB_UPLOAD_INVALID"),
            416,
            "0-4",
        )
        .then("GET", "{begun}", 204),
        put("a session that is not there cannot be closed")
            .ask("PUT", format!("{UPLOADS}6b3c9a93-af5d-473f-a4cf-9710022185cd?digest={hello}"))
            .refused(404, "BLOB_UPLOAD_UNKNOWN"),
    ]
}

fn status() -> Vec<Row> {
    let get = |says, path: &str| row("end-13", "Pushing a blob in chunks", says).ask("GET", path);
    vec![
        stands(get("where an empty session stands", "{session}"), 204, "0-0"),
        stands(get("where one with bytes stands", "{begun}"), 204, "0-4"),
        stands(get("with what the closing PUT has in its query", "{begun}?digest={absent}"), 204, "0-4"),
        stands(get("HEAD asks for the same", "{begun}").ask("HEAD", "{begun}"), 204, "0-4"),
        get("of a session that is not there", "/v2/{own}/blobs/uploads/6b3c9a93-af5d-473f-a4cf-9710022185cd")
            .refused(404, "BLOB_UPLOAD_UNKNOWN"),
    ]
}

fn cancelling() -> Vec<Row> {
    let delete = |says| row("end-14", "Cancel a blob upload", says);
    vec![
        delete("a session is over")
            .ask("DELETE", "{begun}")
            .is(204)
            .without("content-length")
            .then("GET", "{begun}", 404)
            .then("DELETE", "{begun}", 404),
        delete("one that is not there cannot be")
            .ask("DELETE", format!("{UPLOADS}6b3c9a93-af5d-473f-a4cf-9710022185cd"))
            .refused(404, "BLOB_UPLOAD_UNKNOWN"),
    ]
}

fn mounting() -> Vec<Row> {
    let mount = |says, query: &str| {
        let path = format!("/v2/{{own}}/new/blobs/uploads/?mount={query}");
        row("end-11", "Mounting a blob from another repository", says).ask("POST", path)
    };
    let mounted = |row: Row, location, digest| created(row, location, digest);
    let begun =
        |row: Row| row.is(202).with("location", "/v2/{own}/new/blobs/uploads/{id}").with("range", "0-0");
    vec![
        mounted(
            mount("a blob of the repository that is named", "{layer}&from=a"),
            "/v2/{own}/new/blobs/{layer}",
            "{layer}",
        ),
        mounted(
            mount("its name may be encoded", "{layer}&from=%61"),
            "/v2/{own}/new/blobs/{layer}",
            "{layer}",
        ),
        mounted(mount("no repository need be named", "{layer}"), "/v2/{own}/new/blobs/{layer}", "{layer}"),
        mounted(
            mount("a blob known by sha512", "{layer512}&from=a"),
            "/v2/{own}/new/blobs/{layer512}",
            "{layer512}",
        ),
        mounted(mount("one without bytes", "{empty}&from=a"), "/v2/{own}/new/blobs/{empty}", "{empty}"),
        begun(mount("what is nowhere is to be uploaded", "{absent}&from=a")),
        begun(mount("wherever it was sought", "{absent}")),
        begun(mount("also what is elsewhere than was said", "{layer}&from={new}")),
        begun(mount("or where nothing can be", "{layer}&from=NO")),
        mount("a digest that is none", "sha256:x&from=a").refused(400, "DIGEST_INVALID"),
    ]
}

impl Row {
    fn created(self, location: &'static str) -> Self {
        created(self, location, "{sent}")
    }
}

/// By the names that blobs had before there were digests.
fn by_tar_sum() -> Vec<Row> {
    // Of an archive without entries, and without bytes.
    const EMPTY: &str = "tarsum.v1+sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OTHER: &str = "tarsum.v1+sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let blob = |tar_sum: &str| format!("/v2/{{own}}/blobs/{tar_sum}");
    let post = |says, tar_sum: &str| {
        row("end-4b", "Single POST", says).ask("POST", format!("{UPLOADS}?digest={tar_sum}"))
    };
    let put = |says, tar_sum: &str| {
        row("end-6", "POST then PUT", says).ask("PUT", format!("{{session}}?digest={tar_sum}"))
    };
    let get = |says| row("end-2", "Pulling blobs", says);
    vec![
        created(post("a blob can be named by its TarSum", EMPTY).send(""), BLOB, "{sent}"),
        created(post("also with its plus sign encoded", &EMPTY.replace('+', "%2B")).send(""), BLOB, "{sent}"),
        created(put("a session can be ended by a TarSum", EMPTY).send(""), BLOB, "{sent}"),
        post("a TarSum that it does not have is refused", OTHER).refused(400, "DIGEST_INVALID"),
        put("what is no tar has no TarSum", EMPTY).send("no tar").refused(400, "DIGEST_INVALID"),
        put("a TarSum of no known version is refused", &EMPTY.replace("v1", "v2"))
            .refused(400, "DIGEST_INVALID"),
        get("a TarSum that nothing was put under is unknown")
            .ask("GET", blob(OTHER))
            .refused(404, "BLOB_UNKNOWN"),
        row(
            "end-2",
            "Checking if content exists in the registry",
            "a TarSum that nothing was put under is unknown",
        )
        .ask("HEAD", blob(OTHER))
        .is(404),
        get("what is no TarSum is refused")
            .ask("GET", blob("tarsum+sha256:00"))
            .refused(400, "DIGEST_INVALID"),
    ]
}
