//! The whole service, over a connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use sledge::oci::{Algorithm, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::server::{Server, ServerOptions};
use sledge::store::memory::Memory;
use sledge::store::{Discover as _, Pull as _, Push as _, PutManifest, UploadOptions};
use sledge::wire::ErrorBody;
use tokio::sync::oneshot;

/// More takes long, and finds what less finds.
const MOST: usize = 16 << 10;
/// What ends a connection whose client has said all that it has to say, where it is understood.
const LAST: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n";
/// How long is waited for more answers before the client says that it sends no more; and then for the connection's end.
const PATIENCE: [Duration; 2] = [Duration::from_millis(30), Duration::from_secs(30)];

/// Panics of any thread: those of a server's tasks end only their connection.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A client sends these bytes: each answer is HTTP, those that are errors say so in the spec's form, nothing panics, what is in the
/// store makes sense, and the next client is served.
///
/// `{session}` in the input is the id of an upload session in repository `a`, which has five bytes.
pub fn check(input: &[u8]) {
    count_panics();
    let before = PANICS.load(Ordering::SeqCst);
    let (store, session) = store();
    let input = replace(input.get(..MOST).unwrap_or(input), b"{session}", session.as_bytes());
    serve(&store, |address| {
        let (answers, cut) = exchange(address, &[&input, LAST].concat());
        // Who begins with HTTP/2 is answered in frames.
        if !input.starts_with(b"PRI * HTTP/2.0") {
            read_answers(&answers, cut);
        }
        let (answer, cut) = exchange(address, LAST);
        assert!(!cut && answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\n{}"));
    });
    make_sense(&store);
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "the server panicked");
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            hook(panic);
        }));
    });
}

fn store() -> (Memory, String) {
    let store = Memory::new();
    let name: RepositoryName = "a".parse().unwrap();
    for blob in [&b"{}"[..], b"content"] {
        let mut upload = store.start_upload(&name, &UploadOptions::new()).unwrap();
        upload.write_all(blob).unwrap();
        upload.commit(&Algorithm::Sha256.digest(blob)).unwrap();
    }
    let image = format!(
        "{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"x/y\",\"digest\":\"{}\",\"size\":2}},\"layers\":[]}}",
        Algorithm::Sha256.digest(b"{}")
    );
    let image = Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), image.into_bytes());
    let tag: Tag = "v1".parse().unwrap();
    store.put_manifest(&name, &image, &PutManifest::new().tags(&[tag])).unwrap();
    let mut upload = store.start_upload(&name, &UploadOptions::new()).unwrap();
    upload.write_all(b"hello").unwrap();
    let session = upload.id().to_string();
    upload.suspend().unwrap();
    (store, session)
}

fn replace(input: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// Serves the store while `client` runs.
fn serve(store: &Memory, client: impl FnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    // A client that has said all says so: these are for a machine that is slow, and end what would hang.
    let limit = Duration::from_secs(20);
    let options = ServerOptions::new().header_limit(limit).silence_limit(limit).drain_limit(limit);
    let server = Server::new(Arc::new(store.clone()), options);
    let (stop, stopped) = oneshot::channel::<()>();
    thread::scope(|threads| {
        threads.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                server.serve(listener, async { drop(stopped.await) }).await.unwrap();
            });
        });
        client(address);
        drop(stop);
    });
}

/// What comes back until the connection ends, and whether it was cut, so that some of it may be lost.
fn exchange(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut answers = Vec::new();
    // What it does not take, it has refused.
    let mut cut = stream.write_all(bytes).is_err();
    for patience in PATIENCE {
        stream.set_read_timeout(Some(patience)).unwrap();
        match stream.read_to_end(&mut answers) {
            Ok(_) => return (answers, cut),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                drop(stream.shutdown(Shutdown::Write));
            }
            Err(_) => {
                cut = true;
                return (answers, cut);
            }
        }
    }
    panic!("the connection does not end");
}

/// Each answer has a head and the body that it announces. Which of them answer HEAD, and so have none, is not known here.
fn read_answers(mut answers: &[u8], cut: bool) {
    while !answers.is_empty() {
        let Some(end) = answers.windows(4).position(|window| window == b"\r\n\r\n") else {
            assert!(cut, "half a head: {}", String::from_utf8_lossy(answers));
            return;
        };
        let head = std::str::from_utf8(&answers[..end]).expect("a head is text");
        answers = &answers[end + 4..];
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line.strip_prefix("HTTP/1.1 ").or(line.strip_prefix("HTTP/1.0 "));
        let status: u16 =
            status.and_then(|line| line.get(..3)).expect("a status line").parse().expect("a status");
        let headers: Vec<_> = lines.map(|line| line.split_once(": ").expect("a header")).collect();
        let header = |wanted: &str| {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
        };
        if status < 200 || status == 204 || status == 304 {
            continue;
        }
        let length: usize = header("content-length").expect("a length").parse().expect("a length");
        let ends = |rest: &[u8]| rest.is_empty() || rest.starts_with(b"HTTP/1.");
        let body = match answers.get(..length) {
            Some(body) if ends(&answers[length..]) => body,
            _ if ends(answers) => continue,
            _ => {
                assert!(cut, "the body of {head:?} is not {length} bytes long");
                return;
            }
        };
        answers = &answers[length..];
        // HTTP refuses what is no request before it comes to the service.
        if status >= 400 && header("docker-distribution-api-version").is_some() {
            assert_eq!(header("content-type"), Some("application/json"));
            let told: ErrorBody = serde_json::from_slice(body).expect("an error in the spec's form");
            assert!(!told.errors.is_empty());
            for error in told.errors {
                let known = error.code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                assert!(known && (error.code == "UNKNOWN") == (status >= 500), "{status} {error:?}");
            }
        }
    }
}

/// What is listed is there, and is what its name says.
fn make_sense(store: &Memory) {
    for name in store.repositories(None, usize::MAX).unwrap().items {
        for found in store.manifests(&name, None, usize::MAX).unwrap().items {
            let manifest = store.manifest(&name, &Reference::Digest(found.digest)).unwrap();
            assert_eq!(found.digest.algorithm().digest(manifest.bytes()), found.digest);
            assert!(manifest.contents().is_ok());
        }
        for tagged in store.tags(&name, None, usize::MAX).unwrap().items {
            assert_eq!(store.resolve(&name, &Reference::Tag(tagged.tag)).unwrap().digest, tagged.digest);
        }
    }
}
