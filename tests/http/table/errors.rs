//! Error answers, beyond those that a section of their own asks for.

use super::row::{Registry, Row, row};

pub(super) fn rows() -> Vec<Row> {
    let row = |end, says| row(end, "Error Codes", says);
    let stranger = |row: Row| {
        row.on(Registry::Guarded)
            .refused(401, "UNAUTHORIZED")
            .with("www-authenticate", "Basic realm=\"sledge\"")
    };
    let method = |row: Row, allow| row.refused(405, "UNSUPPORTED").with("allow", allow);
    vec![
        stranger(row("end-1", "a stranger who asks whether there is a registry").ask("GET", "/v2/")),
        stranger(row("end-3", "one who pulls").ask("GET", "/v2/a/manifests/v1")),
        stranger(row("end-3", "one who pulls what is not there").ask("GET", "/v2/a/manifests/none")),
        stranger(row("end-4a", "one who pushes").ask("POST", "/v2/{own}/blobs/uploads/").send("")),
        stranger(row("end-9", "one who deletes").ask("DELETE", "/v2/{own}/manifests/v1")).then(
            "GET",
            "/v2/{own}/manifests/v1",
            401,
        ),
        stranger(row("end-3", "a password that is wrong").ask("GET", "/v2/a/manifests/v1"))
            .header("Authorization", "Basic YWxpY2U6d3Jvbmc="),
        row("end-1", "a path that is no endpoint's").ask("GET", "/v2/a").refused(404, "UNSUPPORTED"),
        row("end-1", "one outside of the API").ask("GET", "/").refused(404, "UNSUPPORTED"),
        row("end-1", "another version of it").ask("GET", "/v1/").refused(404, "UNSUPPORTED"),
        row("end-1", "an extension of a registry that is not there")
            .ask("GET", "/v2/_oci/ext/discover")
            .refused(404, "UNSUPPORTED"),
        row("end-1", "an extension of a repository that is not there")
            .ask("GET", "/v2/a/_oci/ext/discover")
            .refused(404, "UNSUPPORTED"),
        method(row("end-1", "a method that the root does not have").ask("POST", "/v2/"), "GET, HEAD"),
        method(
            row("end-2", "one that blobs do not have").ask("PUT", "/v2/a/blobs/{layer}"),
            "GET, HEAD, DELETE",
        ),
        method(
            row("end-3", "one that manifests do not have").ask("PATCH", "/v2/a/manifests/v1"),
            "GET, HEAD, PUT, DELETE",
        ),
        method(
            row("end-4a", "one that the place of uploads does not have").ask("GET", "/v2/a/blobs/uploads/"),
            "POST",
        ),
        method(
            row("end-5", "one that sessions do not have").ask("POST", "{session}").send(""),
            "GET, HEAD, PATCH, PUT, DELETE",
        ),
        method(
            row("end-8a", "one that lists of tags do not have").ask("DELETE", "/v2/a/tags/list"),
            "GET, HEAD",
        ),
        method(
            row("end-12a", "one that lists of referrers do not have")
                .ask("DELETE", "/v2/a/referrers/{image}"),
            "GET, HEAD",
        ),
    ]
}
