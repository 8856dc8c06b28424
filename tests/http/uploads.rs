//! Uploading blobs in all forms, and what goes wrong on the way.

use crate::client::{Answer, Client};
use crate::fixture::{bytes, each, push_blob, sha256, sha512};

fn start(client: &mut Client, query: &str) -> String {
    let answer = client.send("POST", &format!("/v2/a/blobs/uploads/{query}"), &[], b"").expect(202);
    location(&answer)
}

/// Where the session is; it is named in two headers alike.
fn location(answer: &Answer) -> String {
    let location = answer.header("location").unwrap();
    let id = answer.header("docker-upload-uuid").unwrap();
    assert_eq!(location, format!("/v2/a/blobs/uploads/{id}"));
    location.to_owned()
}

fn patch(client: &mut Client, at: &str, range: &str, chunk: &[u8]) -> Answer {
    client.send("PATCH", at, &[("Content-Range", range), ("Content-Type", "application/octet-stream")], chunk)
}

#[track_caller]
fn stands_at(client: &mut Client, at: &str, range: &str) {
    let answer = client.get(at).expect(204);
    assert_eq!((answer.header("range"), &*location(&answer)), (Some(range), at));
}

#[track_caller]
fn is_there(client: &mut Client, digest: &str, content: &[u8]) {
    assert!(client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body == content);
}

#[track_caller]
fn is_created(answer: Answer, digest: &str) {
    let answer = answer.expect(201);
    assert_eq!(answer.header("location"), Some(&*format!("/v2/a/blobs/{digest}")));
    assert_eq!(answer.header("docker-content-digest"), Some(digest));
    assert_eq!(answer.header("content-length"), Some("0"));
}

/// Around the sizes where a body takes another way: what is gathered whole, and a batch.
const SIZES: [usize; 7] = [0, 1, 65_536, 65_537, 1 << 20, (1 << 20) + 1, (4 << 20) + 3];

#[test]
fn every_form_of_upload_makes_the_same_blob() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in SIZES {
            let content = bytes(size);
            for digest in [sha256(&content), sha512(&content)] {
                let path = format!("/v2/a/blobs/{digest}");
                let gone = |client: &mut Client| {
                    client.send("DELETE", &path, &[], b"").expect(202);
                };
                let whole = format!("/v2/a/blobs/uploads/?digest={digest}");
                is_created(client.send("POST", &whole, &[], &content), &digest);
                is_there(&mut client, &digest, &content);
                gone(&mut client);

                let at = start(&mut client, "");
                is_created(client.send("PUT", &format!("{at}?digest={digest}"), &[], &content), &digest);
                is_there(&mut client, &digest, &content);
                client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
                gone(&mut client);

                // One streamed PATCH of unknown length.
                let at = start(&mut client, "?digest-algorithm=sha512");
                let pieces: Vec<&[u8]> = content.chunks(100_000).collect();
                let answer = client.send_chunked("PATCH", &at, &[], &pieces).expect(202);
                assert_eq!(answer.header("range"), Some(&*format!("0-{}", size.saturating_sub(1))));
                is_created(client.send("PUT", &format!("{at}?digest={digest}"), &[], b""), &digest);
                is_there(&mut client, &digest, &content);
                gone(&mut client);

                // In chunks, the last of them in the PUT, all of it of unknown length.
                let at = start(&mut client, "");
                let (first, last) = content.split_at(size / 3);
                client.send_chunked("PATCH", &at, &[], &[first]).expect(202);
                let pieces: Vec<&[u8]> = last.chunks(300_000).collect();
                let answer = client.send_chunked("PUT", &format!("{at}?digest={digest}"), &[], &pieces);
                is_created(answer, &digest);
                is_there(&mut client, &digest, &content);
                gone(&mut client);
            }
        }
    });
}

#[test]
fn chunks_go_where_they_belong_or_nowhere() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in [10, 200_000] {
            let content = bytes(3 * size);
            let digest = sha256(&content);
            let range = |from: usize, to: usize| format!("{from}-{}", to - 1);
            let part = |from: usize, to: usize| &content[from * size..to * size];
            let at = start(&mut client, "");
            stands_at(&mut client, &at, "0-0");
            let out_of_order = |answer: Answer, stands: &str| {
                let answer = answer.refused(416, "BLOB_UPLOAD_INVALID");
                assert_eq!((answer.header("range"), &*location(&answer)), (Some(stands), &*at));
            };
            out_of_order(patch(&mut client, &at, &range(size, 2 * size), part(1, 2)), "0-0");
            let first = range(0, size);
            let answer = patch(&mut client, &at, &first, part(0, 1)).expect(202);
            assert_eq!((answer.header("range"), &*location(&answer)), (Some(&*first), &*at));
            assert_eq!(answer.header("content-length"), Some("0"));

            out_of_order(patch(&mut client, &at, &first, part(0, 1)), &first);
            out_of_order(patch(&mut client, &at, &range(2 * size, 3 * size), part(2, 3)), &first);
            let put = format!("{at}?digest={digest}");
            let wrong = range(2 * size, 3 * size);
            out_of_order(client.send("PUT", &put, &[("Content-Range", &wrong)], part(2, 3)), &first);
            stands_at(&mut client, &at, &first);
            assert_eq!(client.get(&put).expect(204).header("range"), Some(&*first));

            patch(&mut client, &at, &range(size, 2 * size), part(1, 2)).expect(202);
            let last = range(2 * size, 3 * size);
            is_created(client.send("PUT", &put, &[("Content-Range", &last)], part(2, 3)), &digest);
            is_there(&mut client, &digest, &content);
        }
    });
}

#[test]
fn a_length_that_is_not_the_range_s_is_refused_before_anything_is_written() {
    each(|fixture| {
        let mut client = fixture.client();
        let at = start(&mut client, "");
        patch(&mut client, &at, "0-9", b"0123456789").expect(202);
        let digest = sha256(b"0123456789abc");
        for range in ["10-13", "10-11"] {
            patch(&mut client, &at, range, b"abc").refused(400, "SIZE_INVALID");
            let put = format!("{at}?digest={digest}");
            client.send("PUT", &put, &[("Content-Range", range)], b"abc").refused(400, "SIZE_INVALID");
        }
        for range in ["bytes 10-12/13", "bytes=10-12", "10", "12-10", "10-99999999999999999999", ""] {
            patch(&mut client, &at, range, b"abc").refused(400, "UNSUPPORTED");
        }
        stands_at(&mut client, &at, "0-9");
        // Of a body without a length only what the range covers can be taken.
        let header = [("Content-Range", "10-11")];
        client.send_chunked("PATCH", &at, &header, &[b"abc"]).refused(400, "SIZE_INVALID");
        stands_at(&mut client, &at, "0-9");
        is_created(client.send("PUT", &format!("{at}?digest={digest}"), &[], b"abc"), &digest);
    });
}

#[test]
fn a_wrong_digest_leaves_nothing_visible_in_any_form() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in [10, 200_000] {
            let content = bytes(size);
            let found = sha256(&content);
            for wrong in [sha256(b"other"), sha512(b"other")] {
                let unseen = |client: &mut Client, answer: Answer| {
                    answer.refused(400, "DIGEST_INVALID");
                    for digest in [&wrong, &found] {
                        client.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
                    }
                };
                let answer =
                    client.send("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], &content);
                unseen(&mut client, answer);
                let at = start(&mut client, "");
                let answer = client.send("PUT", &format!("{at}?digest={wrong}"), &[], &content);
                unseen(&mut client, answer);
                client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
                let at = start(&mut client, "");
                client.send_chunked("PATCH", &at, &[], &[&content]).expect(202);
                let answer = client.send("PUT", &format!("{at}?digest={wrong}"), &[], b"");
                unseen(&mut client, answer);
            }
        }
    });
}

#[test]
fn a_cut_connection_resumes_where_it_was_cut() {
    each(|fixture| {
        let content = bytes(5 << 20);
        for declared in [true, false] {
            let mut client = fixture.client();
            let at = start(&mut client, "");
            let mut cut = fixture.client();
            if declared {
                cut.head("PATCH", &at, &[("Content-Length", &content.len().to_string())]);
                cut.write(&content[..3 << 20]);
            } else {
                cut.head("PATCH", &at, &[("Transfer-Encoding", "chunked")]);
                cut.chunk(&content[..3 << 20]);
            }
            cut.cut();
            // The server may not have noticed yet: until then the session has a writer.
            let offset = loop {
                let range = client.get(&at).expect(204).header("range").unwrap().to_owned();
                let last: usize = range.strip_prefix("0-").unwrap().parse().unwrap();
                let offset = if last == 0 { 0 } else { last + 1 };
                let range = format!("{offset}-{}", content.len() - 1);
                let answer = patch(&mut client, &at, &range, &content[offset..]);
                match answer.status {
                    409 => assert_eq!(answer.header("retry-after"), Some("1")),
                    416 => {}
                    _ => {
                        answer.expect(202);
                        break offset;
                    }
                }
            };
            assert!(offset <= 3 << 20);
            let digest = sha256(&content);
            is_created(client.send("PUT", &format!("{at}?digest={digest}"), &[], b""), &digest);
            is_there(&mut client, &digest, &content);
        }
    });
}

#[test]
fn a_session_has_one_writer() {
    each(|fixture| {
        let mut first = fixture.client();
        let mut second = fixture.client();
        let at = start(&mut first, "");
        let content = bytes(200_000);
        let headers = [("Content-Length", "200000"), ("Expect", "100-continue")];
        first.head("PATCH", &at, &headers);
        // It is asked for the body, so it has the session.
        assert_eq!(first.answer("PATCH").status, 100);
        patch(&mut second, &at, "0-9", b"0123456789").refused(409, "BLOB_UPLOAD_INVALID");
        let put = format!("{at}?digest={}", sha256(b"x"));
        second.send("PUT", &put, &[], b"x").refused(409, "BLOB_UPLOAD_INVALID");
        second.get(&at).expect(204);
        first.write(&content);
        first.answer("PATCH").expect(202);
        is_created(
            second.send("PUT", &format!("{at}?digest={}", sha256(&content)), &[], b""),
            &sha256(&content),
        );
    });
}

#[test]
fn a_cancelled_session_is_gone_also_for_its_writer() {
    each(|fixture| {
        let mut client = fixture.client();
        let at = start(&mut client, "");
        client.send("DELETE", &at, &[], b"").expect(204);
        client.send("DELETE", &at, &[], b"").refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
        patch(&mut client, &at, "0-0", b"x").refused(404, "BLOB_UPLOAD_UNKNOWN");
        let put = format!("{at}?digest={}", sha256(b"x"));
        client.send("PUT", &put, &[], b"x").refused(404, "BLOB_UPLOAD_UNKNOWN");
        // Another repository's session is none of this one's.
        let at = start(&mut client, "");
        let elsewhere = at.replace("/v2/a/", "/v2/b/");
        client.get(&elsewhere).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.send("DELETE", &elsewhere, &[], b"").refused(404, "BLOB_UPLOAD_UNKNOWN");
        stands_at(&mut client, &at, "0-0");

        let mut writer = fixture.client();
        writer.head("PATCH", &at, &[("Content-Length", "200000"), ("Expect", "100-continue")]);
        assert_eq!(writer.answer("PATCH").status, 100);
        client.send("DELETE", &at, &[], b"").expect(204);
        writer.write(bytes(200_000));
        writer.answer("PATCH").refused(404, "BLOB_UPLOAD_UNKNOWN");
    });
}

#[test]
fn a_blob_is_mounted_or_is_to_be_uploaded() {
    each(|fixture| {
        let mut client = fixture.client();
        let digest = push_blob(&mut client, "source/x", b"content");
        let mount = |client: &mut Client, query: &str| {
            client.send("POST", &format!("/v2/a/blobs/uploads/?mount={query}"), &[], b"")
        };
        for query in [format!("{digest}&from=source/x"), format!("{digest}&from=source%2Fx"), digest.clone()]
        {
            is_created(mount(&mut client, &query), &digest);
            is_there(&mut client, &digest, b"content");
            client.send("DELETE", &format!("/v2/a/blobs/{digest}"), &[], b"").expect(202);
        }
        let absent = sha512(b"absent");
        let cases = [
            format!("{digest}&from=unknown"),
            format!("{digest}&from=NO/NAME"),
            format!("{absent}&from=source/x"),
            absent.clone(),
        ];
        for query in cases {
            let answer = mount(&mut client, &query).expect(202);
            stands_at(&mut client, &location(&answer), "0-0");
        }
        let at = location(&mount(&mut client, &absent));
        is_created(client.send("PUT", &format!("{at}?digest={absent}"), &[], b"absent"), &absent);
    });
}
