//! The init system, where one has started the process: sockets that it has opened, and what it is told.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The listener that the init system passed, if it did (systemd's `ListenStream=`).
pub(crate) fn listener() -> io::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 | 1 => passed.take_tcp_listener(0),
        more => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{more} sockets were passed, one is served: give the unit a single ListenStream="),
        )),
    }
}

/// Requests are answered from here on.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Nothing more is taken, and what is under way ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Where nobody wants to know, nobody is told.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the init system could not be told");
    }
}
