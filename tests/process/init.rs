//! The server as an init system starts it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// systemd opens the port and passes it: a client may come before the server does, and is not turned away. The server says when
/// it is ready, and when it stops.
#[test]
fn a_port_that_is_passed_is_served_and_the_init_system_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut words = [0; 256];
        let length = told.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let mut early = TcpStream::connect(address).unwrap();
    early.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    early.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();

    // The shell puts the socket where an init system does, and becomes the server.
    let mut server = Command::new("sh")
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null"])
        .arg(env!("CARGO_BIN_EXE_sledge"))
        .args(["serve", "--log", "error", "--data"])
        .arg(folder.path().join("store"))
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .stdin(Stdio::from(OwnedFd::from(port)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(hear(), "READY=1\n");
    let mut line = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(&format!("http://{address}")), "{line}");
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let signalled = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert_eq!(hear(), "STOPPING=1\n");
    assert!(server.wait().unwrap().success());
}
