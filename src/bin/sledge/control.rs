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
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::operation::{Operation, Report};
use crate::policy::Standing;
use crate::printer::Failure;

const SOCKET: &str = "control";
/// A name that the store removes when it is opened.
const UNFINISHED: &str = "unfinished-control";

/// So many clients are answered at once; others wait.
const CLIENTS: u32 = 8;
/// So many more may be saying what they want, or waiting.
const ARRIVING: usize = 64;
/// How long a client may take to say what it wants, all of it.
const TO_SAY: Duration = Duration::from_secs(30);
/// How long it may take to take a line.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client waits for the first line of an answer: so long that the server may have others to answer before.
const FIRST_ANSWER: Duration = Duration::from_secs(120);
const LONGEST_REQUEST: usize = 64 << 10;
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
        // Each permit comes back when a client has been answered; whoever still waits for one gets none.
        let all = self.clients.acquire_many(CLIENTS).await;
        self.clients.close();
        drop(all);
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
    // They end with this task.
    let mut arriving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if arriving.len() < ARRIVING => match accepted {
                Ok((stream, _)) => {
                    let client = Client {
                        store: store.clone(),
                        standing: Arc::clone(&standing),
                        stopping: Arc::clone(&stopping),
                    };
                    arriving.spawn(client.arrive(stream, Arc::clone(&clients)));
                }
                // The client went away, or there are too many files open: both pass.
                Err(error) => {
                    tracing::warn!(%error, "a client of the control socket was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = arriving.join_next() => {}
        }
    }
}

/// Who answers one client.
struct Client {
    store: Sled,
    standing: Arc<Standing>,
    stopping: Arc<AtomicBool>,
}

impl Client {
    /// Hears what is wanted. Only who has said that is one of the few that are answered at once.
    async fn arrive(self, stream: tokio::net::UnixStream, clients: Arc<Semaphore>) {
        let request = match tokio::time::timeout(TO_SAY, read_request(&stream)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return went_away(&error),
            Err(_) => Err(format!("a request is to be made within {} s", TO_SAY.as_secs())),
        };
        let Ok(permit) = clients.acquire_owned().await else { return };
        let stream = match stream.into_std().and_then(|stream| patient(&stream).map(|()| stream)) {
            Ok(stream) => stream,
            Err(error) => return went_away(&error),
        };
        let answering = thread::Builder::new().name("sledge-control".to_owned());
        let answered = answering.spawn(move || {
            self.answer(&stream, request);
            drop(permit);
        });
        if let Err(error) = answered {
            tracing::warn!(%error, "a client of the control socket was not answered");
        }
    }

    fn answer(&self, stream: &UnixStream, request: Result<Operation, String>) {
        let answer = request.map_or_else(Answer::Error, |operation| self.operate(stream, &operation));
        if let Err(error) = send(stream, &answer) {
            went_away(&error);
        }
    }

    fn operate(&self, stream: &UnixStream, operation: &Operation) -> Answer {
        tracing::info!(operation = %in_words(operation), "an operation was asked for");
        let mut watch = |progress: &Progress| {
            let told = send(stream, &Answer::Progress(progress.clone()));
            if told.is_err() || self.stopping.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        match operation.run(&self.store, &self.standing, &mut watch) {
            Ok(report) => {
                tracing::info!(report = %in_words(&report), "an operation is done");
                Answer::Report(report)
            }
            Err(error) => {
                tracing::warn!(%error, operation = %in_words(operation), "an operation failed");
                Answer::Error(error.to_string())
            }
        }
    }
}

fn went_away(error: &io::Error) {
    tracing::debug!(%error, "a client of the control socket went away");
}

/// As it goes over the socket.
fn in_words(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

/// What the client wants, or what is wrong with its words.
async fn read_request(stream: &tokio::net::UnixStream) -> io::Result<Result<Operation, String>> {
    let mut words = Vec::new();
    let mut piece = [0; 4096];
    let line = loop {
        if let Some(end) = words.iter().position(|byte| *byte == b'\n') {
            break words.get(..end);
        }
        if words.len() >= LONGEST_REQUEST {
            break None;
        }
        stream.readable().await?;
        match stream.try_read(&mut piece) {
            Ok(0) => break None,
            Ok(length) => words.extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    };
    let Some(line) = line else {
        return Ok(Err(format!("a request is one line of at most {LONGEST_REQUEST} bytes")));
    };
    Ok(serde_json::from_slice(line)
        .map_err(|error| format!("this version of the server does not know the request: {error}")))
}

/// Has it written to as from a thread of its own.
fn patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Has the server that has the store do it.
pub(crate) fn ask(data: &Path, operation: &Operation, watch: Watch<'_>) -> Result<Report, Failure> {
    ask_within(FIRST_ANSWER, data, operation, watch)
}

fn ask_within(
    first_answer: Duration,
    data: &Path,
    operation: &Operation,
    watch: Watch<'_>,
) -> Result<Report, Failure> {
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
    stream.set_read_timeout(Some(first_answer)).map_err(failed)?;
    send(&stream, operation).map_err(failed)?;
    let mut answers = BufReader::new(&stream);
    loop {
        let mut line = Vec::new();
        let read = answers.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line);
        let length = read.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let reason = format!("it did not answer within {} s", first_answer.as_secs());
                Failure::new(format!("asking the server that has {}", data.display()), reason)
                    .hint("it may be doing this for others: see its log, and try again")
            }
            _ => failed(error),
        })?;
        // It is at it, and that may take as long as it takes.
        stream.set_read_timeout(None).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_a_server_that_does_not_answer_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let _listens = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let mut watch = |_: &Progress| ControlFlow::Continue(());
        let asked = ask_within(Duration::from_millis(1), folder.path(), &Operation::Usage, &mut watch);
        let Err(Failure::Failed { reason, .. }) = asked else { panic!("{asked:?}") };
        assert!(reason.to_string().starts_with("it did not answer within"), "{reason}");
    }
}
