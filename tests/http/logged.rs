//! What the server writes of who asks it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::fixture::{Fixture, stores};
use crate::guard::{basic, current, login};
use crate::tokens::{RULES, access, ask, endpoint, token, with};

/// Where everything that is logged goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_is_logged_or_told_and_users_are() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("trace")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For this process: the server runs on threads of its own. Other tests log there as well, which does no harm.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (_, store) = stores().remove(0);
    let current = current(access(&RULES, &["alice"], &endpoint()));
    let fixture = Fixture::guarded(store, Arc::clone(&current));
    let mut client = fixture.client();
    let mut told = Vec::new();
    let given = token(&ask(&mut client, "&scope=repository:team/logged:pull,push", Some(&login("alice"))));
    let wrong = basic("alice", "hunter2-wrong");
    let broken = format!("{given}x");
    for authorization in
        [&login("alice"), &wrong, &given, &broken, "Basic hunter2-wrong", "Digest hunter2-wrong"]
    {
        for (method, path) in [("POST", "/v2/team/logged/blobs/uploads/"), ("GET", "/token"), ("GET", "/v2/")]
        {
            let answer = client.send(method, path, &with(authorization), b"");
            if answer.status >= 400 {
                told.extend_from_slice(format!("{:?}", answer.headers).as_bytes());
                told.extend_from_slice(&answer.body);
            }
        }
    }
    let form = b"grant_type=password&username=alice&password=hunter2-wrong";
    told.extend_from_slice(&client.send("POST", "/token", &[], form).refused(401, "UNAUTHORIZED").body);
    told.extend_from_slice(&log.0.lock().unwrap());
    told.extend_from_slice(format!("{current:?}").as_bytes());
    let told = String::from_utf8_lossy(&told);
    let line = |line: &&str| line.contains("/v2/team/logged/") && line.contains("status=202");
    assert!(told.lines().find(line).unwrap().contains("user=\"alice\""));
    let signature = given.rsplit('.').next().unwrap();
    let password = |header: &str| header.split(' ').nth(1).unwrap().to_owned();
    for secret in ["hunter2", "secret of", signature, &password(&login("alice")), &password(&wrong), "$2b$"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}
