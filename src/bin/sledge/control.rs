//! The way to a server that has the store: a socket in the data folder, for whoever may write to that.
//!
//! A client sends one line, an [`Operation`] in JSON. The answer is any number of lines `{"progress": ..}`, and last
//! `{"report": ..}` or `{"error": ".."}`. A client that goes away interrupts its operation.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sledge::store::sled::{Progress, Sled, Watch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::operation::{Operation, Report};
use crate::policy::Standing;
use crate::printer::Failure;

const SOCKET: &str = "control";
/// A name that the store removes when it is opened.
const UNFINISHED: &str = "unfinished-control";

/// So many clients are answered at once; others wait.
const CLIENTS: u32 = 8;
/// How long a client may take to say what it wants, and to take a line.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_REQUEST: u64 = 64 << 10;
const LONGEST_ANSWER: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Progress(Progress),
    Report(Report),
    Error(String),
}

/// The listening side.
pub(crate) struct Control {
    data: PathBuf,
    accepting: JoinHandle<()>,
    clients: Arc<Semaphore>,
    stopping: Arc<AtomicBool>,
}

impl Control {
    /// Listens in the folder of an open store. What a killed server has left there is replaced.
    pub(crate) fn listen(data: &Path, store: Sled, standing: Standing) -> io::Result<Self> {
        let listener = tokio::net::UnixListener::from_std(bind(data)?)?;
        let clients = Arc::new(Semaphore::new(CLIENTS as usize));
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = tokio::spawn(accept(
            listener,
            store,
            Arc::new(standing),
            Arc::clone(&clients),
            Arc::clone(&stopping),
        ));
        Ok(Self { data: data.to_owned(), accepting, clients, stopping })
    }

    /// Interrupts what is being done, waits for it to end, and takes the socket away.
    pub(crate) async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.accepting.abort();
        // It ends by being aborted.
        let _ = self.accepting.await;
        // Nobody closes the semaphore: each of its permits comes back when a client has been answered.
        let _ = self.clients.acquire_many(CLIENTS).await;
        // Who removed it before us has done what we want.
        let _ = fs::remove_file(self.data.join(SOCKET));
    }
}

/// Makes the socket where nobody else can reach it before it is ours alone, and then gives it its name.
fn bind(data: &Path) -> io::Result<UnixListener> {
    let room = data.join(UNFINISHED);
    match fs::remove_dir_all(&room) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => DirBuilder::new().mode(0o700).create(&room)?,
    }
    let listener = UnixListener::bind(short(&File::open(&room)?))?;
    fs::set_permissions(room.join(SOCKET), Permissions::from_mode(0o600))?;
    fs::rename(room.join(SOCKET), data.join(SOCKET))?;
    fs::remove_dir(&room)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The socket in an open folder by a name that is short whatever the folder's is: an address has 108 bytes.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

async fn accept(
    listener: tokio::net::UnixListener,
    store: Sled,
    standing: Arc<Standing>,
    clients: Arc<Semaphore>,
    stopping: Arc<AtomicBool>,
) {
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let (store, standing) = (store.clone(), Arc::clone(&standing));
                let stopping = Arc::clone(&stopping);
                let answering = thread::Builder::new().name("sledge-control".to_owned());
                if let Err(error) =
                    answering.spawn(move || answer(&stream, &store, &standing, &stopping, permit))
                {
                    tracing::warn!(%error, "a client of the control socket was not answered");
                }
            }
            // The client went away, or there are too many files open: both pass.
            Err(error) => {
                tracing::warn!(%error, "a client of the control socket was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn answer(
    stream: &UnixStream,
    store: &Sled,
    standing: &Standing,
    stopping: &AtomicBool,
    permit: OwnedSemaphorePermit,
) {
    let outcome = read_request(stream).map(|request| match request {
        Ok(operation) => {
            tracing::info!(operation = %in_words(&operation), "an operation was asked for");
            let mut watch = |progress: &Progress| {
                let told = send(stream, &Answer::Progress(progress.clone()));
                if told.is_err() || stopping.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            match operation.run(store, standing, &mut watch) {
                Ok(report) => {
                    tracing::info!(report = %in_words(&report), "an operation is done");
                    Answer::Report(report)
                }
                Err(error) => {
                    tracing::warn!(%error, operation = %in_words(&operation), "an operation failed");
                    Answer::Error(error.to_string())
                }
            }
        }
        Err(reason) => Answer::Error(reason),
    });
    let told = outcome.and_then(|answer| send(stream, &answer));
    if let Err(error) = told {
        tracing::debug!(%error, "a client of the control socket went away");
    }
    drop(permit);
}

/// As it goes over the socket.
fn in_words(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

/// What the client wants, or what is wrong with its words.
fn read_request(stream: &UnixStream) -> io::Result<Result<Operation, String>> {
    // Accepted by a socket that does not block.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream).take(LONGEST_REQUEST).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Ok(Err(format!("a request is one line of at most {LONGEST_REQUEST} bytes")));
    }
    Ok(serde_json::from_slice(&line)
        .map_err(|error| format!("this version of the server does not know the request: {error}")))
}

fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Has the server that has the store do it.
pub(crate) fn ask(data: &Path, operation: &Operation, watch: Watch<'_>) -> Result<Report, Failure> {
    let failed =
        |error: io::Error| Failure::new(format!("asking the server that has {}", data.display()), error);
    let connected = File::open(data).and_then(|folder| UnixStream::connect(short(&folder)));
    let stream = connected.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "the process that has the store takes no commands: stop it, and do it again"
            }
            ErrorKind::PermissionDenied => "run it as the user that the server runs as",
            _ => "stop the server, and do it again",
        };
        failed(error).hint(hint)
    })?;
    send(&stream, operation).map_err(failed)?;
    let mut answers = BufReader::new(&stream);
    loop {
        let mut line = Vec::new();
        let length = answers.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            let reason = "it went away before it was done: see its log";
            return Err(Failure::new(format!("asking the server that has {}", data.display()), reason));
        }
        match serde_json::from_slice(&line).map_err(|error| failed(error.into()))? {
            Answer::Progress(progress) => {
                if watch(&progress).is_break() {
                    return Err(failed(ErrorKind::Interrupted.into()));
                }
            }
            Answer::Report(report) => return Ok(report),
            Answer::Error(reason) => return Err(Failure::new("", reason)),
        }
    }
}
