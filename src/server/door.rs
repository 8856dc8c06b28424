//! Where connections come in.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long nothing is accepted after the system had no descriptor or memory for a connection.
const BREATHER: Duration = Duration::from_millis(100);
/// How often it is said that all places are taken, at most.
const SAID: Duration = Duration::from_secs(60);

/// A listener, and as many places as there are for connections.
pub(super) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    said: Mutex<Option<Instant>>,
}

/// A connection's place, until it is dropped.
struct Place(#[expect(dead_code, reason = "it is held")] Option<OwnedSemaphorePermit>);

impl Door {
    /// With so many places; 0 for any number.
    pub(super) fn new(listener: TcpListener, places: usize) -> io::Result<Self> {
        listener.local_addr()?;
        let places = if places == 0 { Semaphore::MAX_PERMITS } else { places.min(Semaphore::MAX_PERMITS) };
        Ok(Self { listener, places: Arc::new(Semaphore::new(places)), said: Mutex::new(None) })
    }

    /// Begins what comes, each as a task, until `shutdown` resolves. What `open` gives nothing for is closed.
    pub(super) async fn open_until<T: Future<Output = ()> + Send + 'static>(
        &self,
        shutdown: impl Future<Output = ()>,
        connections: &mut JoinSet<()>,
        mut open: impl FnMut(TcpStream, SocketAddr) -> Option<T>,
    ) {
        let (mut shutdown, mut accepting) = (pin!(shutdown), pin!(self.next()));
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                Some(_) = connections.join_next() => {}
                (stream, address, place) = &mut accepting => {
                    accepting.set(self.next());
                    if let Some(connection) = open(stream, address) {
                        connections.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                }
            }
        }
    }

    /// The next connection, when there is a place for it. Until then it stays in the system's queue, where it costs nothing and is
    /// not turned away: clients that are refused come again at once. Failures of single connections, and of the system to
    /// take more of them, are logged and survived.
    async fn next(&self) -> (TcpStream, SocketAddr, Place) {
        if self.places.available_permits() == 0 {
            self.say_full();
        }
        // Nobody closes it.
        let place = Place(Arc::clone(&self.places).acquire_owned().await.ok());
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (stream, address, place),
                Err(error) if is_the_client_s(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be taken");
                    sleep(BREATHER).await;
                }
            }
        }
    }

    fn say_full(&self) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() > SAID) {
            *said = Some(Instant::now());
            tracing::warn!("there are as many connections as there may be: others wait until one ends");
        }
    }
}

/// Whether a connection was lost before it could be taken, which says nothing of the next one.
fn is_the_client_s(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
