//! What happens in a registry, told to webhooks: in order, until each has it, and none lost by a kill.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sledge::oci::Algorithm;

use crate::server::Server;

/// A test that waits for longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// One request to a webhook, which waits for its answer.
struct Hook {
    head: String,
    events: Vec<Value>,
    answer: Sender<u16>,
}

impl Hook {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn ids(&self) -> Vec<String> {
        self.events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// A webhook of which a test says what it answers.
struct Webhook {
    url: String,
    requests: Receiver<Hook>,
}

impl Webhook {
    fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (tell, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, tell) = (stream.unwrap(), tell.clone());
                thread::spawn(move || while let Some(()) = take(&stream, &tell) {});
            }
        });
        Self { url, requests }
    }

    fn next(&self) -> Hook {
        self.requests.recv_timeout(PATIENCE).expect("the webhook is asked")
    }

    /// Takes events until there is one of this tag; what they say, in short.
    fn take_until(&self, tag: &str) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let hook = self.next();
            told.extend(hook.events.iter().map(in_short));
            hook.answer.send(200).unwrap();
            if hook.events.iter().any(|event| event["target"]["tag"] == tag) {
                return told;
            }
        }
    }
}

/// Reads a request and answers it as the test says; an answer of 0 is none.
fn take(stream: &TcpStream, tell: &Sender<Hook>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let (answer, answered) = mpsc::channel();
    let mut hook = Hook { head, events: Vec::new(), answer };
    let mut body = vec![0; hook.header("content-length")?.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    let envelope: Value = serde_json::from_slice(&body).unwrap();
    hook.events = envelope["events"].as_array().unwrap().clone();
    tell.send(hook).ok()?;
    let status = answered.recv().ok().filter(|status| *status > 0)?;
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n").ok()
}

fn in_short(event: &Value) -> String {
    let target = &event["target"];
    let words = [&event["action"], &target["repository"], &target["tag"], &target["digest"]];
    let words = words.into_iter().filter_map(Value::as_str).map(|word| word.get(..20).unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}

fn configure(folder: &Path, endpoints: &str) -> String {
    let path = folder.join("sledge.toml");
    let text = format!("data = \"store\"\nlisten = \"127.0.0.1:0\"\nlog = \"error\"\n{endpoints}");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An endpoint that is asked again at once after a failure.
fn endpoint(name: &str, url: &str) -> String {
    format!("[[events]]\nname = \"{name}\"\nurl = \"{url}\"\nbackoff = \"1ms\"\n")
}

fn start(config: &str) -> Server {
    Server::start_as(&["--config", config], &[])
}

fn push_blob(server: &Server, repository: &str, content: &[u8]) -> String {
    let digest = Algorithm::Sha256.digest(content);
    let answer = server.request("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), content);
    assert_eq!(answer.status, 201);
    digest.to_string()
}

/// Pushes an image of one blob under a tag; the manifest's digest.
fn push(server: &Server, repository: &str, tag: &str) -> String {
    let config = push_blob(server, repository, tag.as_bytes());
    let (length, media_type) = (tag.len(), "application/vnd.oci.image.manifest.v1+json");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/x","digest":"{config}","size":{length}}},"layers":[]}}"#
    );
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
         Content-Length: {}\r\n\r\n{manifest}",
        manifest.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    Algorithm::Sha256.digest(manifest.as_bytes()).to_string()
}

#[test]
fn a_webhook_is_told_what_happens_in_the_order_in_which_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start();
    let endpoint = endpoint("hook", &webhook.url) + "headers = { Authorization = \"Bearer of news\" }\n";
    let server = start(&configure(folder.path(), &endpoint));
    let image = push(&server, "a/b", "v1");
    let first = webhook.next();
    assert!(first.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", first.head);
    assert_eq!(first.header("authorization"), Some("Bearer of news"));
    let media_type = "application/vnd.docker.distribution.events.v2+json";
    assert_eq!(first.header("content-type"), Some(media_type));
    assert_eq!(first.header("sledge-events-missing"), None);
    let event = &first.events[0];
    let blob = Algorithm::Sha256.digest(b"v1").to_string();
    assert_eq!(
        event["target"],
        serde_json::json!({ "mediaType": "application/octet-stream", "digest": blob, "size": 2, "length": 2, "repository": "a/b" })
    );
    assert_eq!(event["source"]["addr"], server.address.as_str());
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
    let request = &event["request"];
    assert_eq!((request["method"].as_str(), request["host"].as_str()), (Some("POST"), Some("x")));
    assert!(request["addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{request}");
    assert_eq!(request["id"].as_str().unwrap().len(), 32, "{request}");
    // Nobody had to prove who he is.
    assert_eq!(event["actor"], serde_json::json!({}));
    first.answer.send(200).unwrap();
    let mut told: Vec<String> = first.events.iter().map(in_short).collect();
    if first.events.len() == 1 {
        told.extend(webhook.take_until("v1"));
    }

    let mount = format!("/v2/c/blobs/uploads/?mount={blob}&from=a/b");
    assert_eq!(server.request("POST", &mount, b"").status, 201);
    assert_eq!(server.request("DELETE", "/v2/a/b/manifests/v1", b"").status, 202);
    assert_eq!(server.request("DELETE", &format!("/v2/a/b/manifests/{image}"), b"").status, 202);
    assert_eq!(server.request("DELETE", &format!("/v2/a/b/blobs/{blob}"), b"").status, 202);
    // What is refused is no event.
    assert_eq!(server.request("DELETE", &format!("/v2/a/b/blobs/{blob}"), b"").status, 404);
    push(&server, "d", "end");
    told.extend(webhook.take_until("end"));
    let (blob, image) = (&blob[..20], &image[..20]);
    let end = &Algorithm::Sha256.digest(b"end").to_string()[..20];
    let expected = [
        format!("push a/b {blob}"),
        format!("push a/b v1 {image}"),
        format!("mount c {blob}"),
        // A tag goes without its manifest's digest, or it would seem that the manifest did.
        "delete a/b v1".to_owned(),
        format!("delete a/b {image}"),
        format!("delete a/b {blob}"),
        format!("push d {end}"),
    ];
    assert_eq!(told[..7], expected);
    assert_eq!(told.len(), 8);
}

/// Neither a failure, a redirection, a connection that is cut nor a restart loses an event or changes its id.
#[test]
fn what_was_not_taken_is_sent_again_with_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start();
    let config = configure(folder.path(), &endpoint("hook", &webhook.url));
    let server = start(&config);
    push_blob(&server, "a", b"1");
    let mut ids = Vec::new();
    for answer in [500, 404, 307, 0, 503] {
        let hook = webhook.next();
        ids.extend(hook.ids());
        hook.answer.send(answer).unwrap();
    }
    let again = webhook.next();
    assert!(ids.len() == 5 && ids.iter().all(|id| *id == again.ids()[0]), "{ids:?}");
    // It was received, but the answer did not come before the kill.
    server.kill();
    drop(again);
    let server = start(&config);
    let hook = webhook.next();
    assert_eq!(hook.ids()[0], ids[0]);
    hook.answer.send(204).unwrap();
    push_blob(&server, "a", b"2");
    let hook = webhook.next();
    assert_eq!(hook.events.len(), 1);
    assert!(!ids.contains(&hook.ids()[0]));
    hook.answer.send(200).unwrap();
    server.stop();
}

/// Nobody listens when it happens; later somebody does.
#[test]
fn a_webhook_that_was_away_is_told_all_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let other = Webhook::start();
    let away = endpoint("away", &format!("http://{address}/hook"));
    let config = configure(folder.path(), &(away + &endpoint("here", &other.url)));
    let server = start(&config);
    for tag in ["1", "2", "3"] {
        push(&server, "a", tag);
    }
    // One that is away keeps nobody else waiting.
    assert_eq!(other.take_until("3").len(), 6);
    server.stop();
    let server = start(&config);
    let back = Webhook::on(TcpListener::bind(address).unwrap());
    assert_eq!(back.take_until("3").len(), 6);
    push(&server, "a", "4");
    assert_eq!((back.take_until("4").len(), other.take_until("4").len()), (2, 2));
}

#[test]
fn a_webhook_is_told_only_of_what_it_wants() {
    let folder = tempfile::tempdir().unwrap();
    let (deletes, all) = (Webhook::start(), Webhook::start());
    let endpoints =
        endpoint("deletes", &deletes.url) + "actions = [\"delete\"]\n" + &endpoint("all", &all.url);
    let server = start(&configure(folder.path(), &endpoints));
    push(&server, "a", "1");
    assert_eq!(all.take_until("1").len(), 2);
    assert_eq!(server.request("DELETE", "/v2/a/manifests/1", b"").status, 202);
    assert_eq!(all.take_until("1"), ["delete a 1"]);
    assert_eq!(deletes.take_until("1"), ["delete a 1"]);
}

/// `alice:secret`
const ALICE: &str = "YWxpY2U6c2VjcmV0";

#[test]
fn a_webhook_is_told_who_did_it() {
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start();
    let users = "alice:$2y$05$XoUu/fFVfgWMgpq4DfjYjOwqeUG5idTAJ7ynrquvBaPC7f6fzBkZW\n";
    fs::write(folder.path().join("users"), users).unwrap();
    let config = configure(
        folder.path(),
        &("[auth]\nhtpasswd = \"users\"\n".to_owned() + &endpoint("hook", &webhook.url)),
    );
    let server = start(&config);
    let digest = Algorithm::Sha256.digest(b"1");
    let push = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(server.request_as(Some(ALICE), "POST", &push, b"1").status, 201);
    let blob = format!("/v2/a/blobs/{digest}");
    assert_eq!(server.request_as(Some(ALICE), "DELETE", &blob, b"").status, 202);
    let mut told = Vec::new();
    while told.len() < 2 {
        let hook = webhook.next();
        let who = |event: &Value| {
            format!("{} by {} with {}", event["action"], event["actor"]["name"], event["request"]["method"])
        };
        told.extend(hook.events.iter().map(who));
        assert!(!format!("{:?}", hook.events).contains("secret"));
        hook.answer.send(200).unwrap();
    }
    assert_eq!(told, [r#""push" by "alice" with "POST""#, r#""delete" by "alice" with "DELETE""#]);
}

/// HEAD and what the client has already are no pulls, and who does not ask for pulls is told of none.
#[test]
fn pulls_are_told_to_who_asks_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let (pulls, changes) = (Webhook::start(), Webhook::start());
    let endpoints =
        endpoint("pulls", &pulls.url) + "actions = [\"pull\"]\n" + &endpoint("changes", &changes.url);
    let server = start(&configure(folder.path(), &endpoints));
    let image = push(&server, "a", "v1");
    let blob = Algorithm::Sha256.digest(b"v1").to_string();
    assert_eq!(server.request("HEAD", "/v2/a/manifests/v1", b"").status, 200);
    assert_eq!(server.request("HEAD", &format!("/v2/a/blobs/{blob}"), b"").status, 200);
    assert_eq!(server.request("GET", "/v2/a/manifests/none", b"").status, 404);
    for (path, headers, status) in [
        ("/v2/a/manifests/v1".to_owned(), format!("If-None-Match: \"{image}\""), 304),
        (format!("/v2/a/blobs/{blob}"), format!("If-None-Match: \"{blob}\""), 304),
        (format!("/v2/a/blobs/{blob}"), "Range: bytes=7-".to_owned(), 416),
        (format!("/v2/a/blobs/{blob}"), "Range: bytes=1-".to_owned(), 206),
        ("/v2/a/manifests/v1".to_owned(), "User-Agent: tester/1".to_owned(), 200),
        (format!("/v2/a/manifests/{image}"), "X: y".to_owned(), 200),
        (format!("/v2/a/blobs/{blob}"), "X: y".to_owned(), 200),
    ] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{path} {headers}");
    }
    let mut events = Vec::new();
    while events.len() < 4 {
        let hook = pulls.next();
        events.extend(hook.events.clone());
        hook.answer.send(200).unwrap();
    }
    let (image, blob) = (&image[..20], &blob[..20]);
    let expected = [
        format!("pull a {blob}"),
        format!("pull a v1 {image}"),
        format!("pull a {image}"),
        format!("pull a {blob}"),
    ];
    assert_eq!(events.iter().map(in_short).collect::<Vec<_>>(), expected);
    assert_eq!(events[1]["request"]["useragent"], "tester/1");
    assert_eq!(events[0]["target"]["size"], 2);
    push(&server, "a", "end");
    assert_eq!(changes.take_until("end").len(), 4);
}

/// What a client was given is told though the server is killed at once, and nobody pushes any more.
#[test]
fn a_pull_that_was_answered_is_told_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = endpoint("away", &format!("http://{address}/hook")) + "actions = [\"pull\"]\n";
    let config = configure(folder.path(), &endpoint);
    let server = start(&config);
    push(&server, "a", "v1");
    assert_eq!(server.request("GET", "/v2/a/manifests/v1", b"").status, 200);
    server.kill();
    let webhook = Webhook::on(TcpListener::bind(address).unwrap());
    let server = start(&config);
    assert_eq!(webhook.take_until("v1").len(), 1);
    assert_eq!(server.request("GET", "/v2/a/manifests/v1", b"").status, 200);
    assert_eq!(webhook.take_until("v1").len(), 1);
}

/// A server that was told to stop waited for a receiver as long as that might take.
#[test]
fn a_receiver_that_does_not_answer_keeps_no_server_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start();
    let config = configure(folder.path(), &(endpoint("hook", &webhook.url) + "timeout = \"1h\"\n"));
    let server = start(&config);
    push_blob(&server, "a", b"1");
    let unanswered = webhook.next();
    server.stop();
    // The store was closed all the same, and has what was not taken.
    let server = start(&config);
    assert_eq!(webhook.next().ids(), unanswered.ids());
    drop(server);
}

/// A server under load is killed again and again: each push that it acknowledged is told to the webhook, before the kill or after,
/// and nothing that did not happen is.
#[test]
fn no_acknowledged_push_goes_untold_by_a_kill() {
    const CLIENTS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start();
    let config = configure(folder.path(), &endpoint("hook", &webhook.url));
    // What the webhook has taken, each event once: it fails twice of three times, and has nothing of what it got then.
    let (tell, told) = mpsc::channel();
    let requests = webhook.requests;
    thread::spawn(move || {
        let mut taken = BTreeSet::new();
        for (n, hook) in requests.iter().enumerate() {
            if n % 3 < 2 {
                // The server that asked may be gone.
                let _ = hook.answer.send(500);
                continue;
            }
            let _ = hook.answer.send(200);
            for (event, id) in hook.events.iter().zip(hook.ids()) {
                if taken.insert(id) && tell.send(event["target"]["tag"].as_str().unwrap().to_owned()).is_err()
                {
                    return;
                }
            }
        }
    });
    let mut acknowledged = BTreeSet::new();
    let mut begun = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let lives = std::env::var("EVENTS_LIVES").map_or(4, |lives| lives.parse().unwrap());
    for life in 0..lives {
        let server = start(&config);
        let (done, pushed) = mpsc::channel();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (server, done) = (&server, done.clone());
                scope.spawn(move || {
                    for n in 0.. {
                        let tag = format!("{life}-{client}-{n}");
                        if done.send((tag.clone(), false)).is_err() || !try_push(server, &tag) {
                            return;
                        }
                        if done.send((tag, true)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(done);
            // After so many acknowledgements, wherever everything else stands then.
            for (tag, is_acknowledged) in &pushed {
                begun.insert(tag.clone());
                if is_acknowledged {
                    acknowledged.insert(tag);
                }
                if acknowledged.len() >= (life + 1) * (30 + life * 7) {
                    break;
                }
            }
            server.signal_kill();
            for (tag, is_acknowledged) in &pushed {
                begun.insert(tag.clone());
                if is_acknowledged {
                    acknowledged.insert(tag);
                }
            }
        });
        server.kill();
    }
    let server = start(&config);
    assert!(try_push(&server, "end"));
    while !seen.contains("end") {
        let tag = told.recv_timeout(PATIENCE).expect("all that was acknowledged is told");
        assert!(seen.insert(tag.clone()), "{tag} was told under two ids");
    }
    let lost: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(lost.is_empty(), "acknowledged and never told: {lost:?}");
    begun.insert("end".to_owned());
    let invented: Vec<_> = seen.difference(&begun).collect();
    assert!(invented.is_empty(), "told and never pushed: {invented:?}");
    // What was told is there.
    for tag in &seen {
        assert_eq!(server.request("HEAD", &format!("/v2/a/manifests/{tag}"), b"").status, 200, "{tag}");
    }
    println!("{} pushes acknowledged in {lives} lives, {} told", acknowledged.len(), seen.len());
}

/// Whether a push was acknowledged; the server may be killed meanwhile.
fn try_push(server: &Server, tag: &str) -> bool {
    let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
    let Ok(mut stream) = TcpStream::connect(&server.address) else { return false };
    let sent = write!(
        stream,
        "PUT /v2/a/manifests/{tag} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{manifest}",
        manifest.len()
    );
    let mut answer = Vec::new();
    sent.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 201")
}
