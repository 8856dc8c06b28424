//! A server in this process, on a free port, and the stores that the tests go over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use sledge::access::CurrentAccess;
use sledge::oci::Algorithm;
use sledge::server::{Server, ServerOptions};
use sledge::store::Store;
use sledge::store::memory::Memory;
use sledge::store::sled::Sled;
use tokio::sync::oneshot;

use crate::client::{Answer, Client};
use crate::offstage::{self, Offstage};

/// A fresh store of each kind, with its name.
pub(crate) fn stores() -> Vec<(&'static str, Arc<dyn Store>)> {
    watched().into_iter().map(|(name, store)| (name, store as Arc<dyn Store>)).collect()
}

/// The same for tests that look at what the server does to them.
pub(crate) fn watched() -> Vec<(&'static str, Arc<Offstage>)> {
    let folder = tempfile::tempdir().unwrap();
    let sled = Sled::open(folder.path()).unwrap();
    // Each of them is watched, whatever it is tested for.
    vec![
        ("memory", Arc::new(Offstage::new(Memory::new(), None))),
        ("sled", Arc::new(Offstage::new(sled, Some(folder)))),
    ]
}

/// Runs a test over every store.
pub(crate) fn each(test: impl Fn(&Fixture)) {
    for (name, store) in stores() {
        println!("store: {name}");
        test(&Fixture::new(store, ServerOptions::new()));
    }
}

pub(crate) struct Fixture {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    shutdown: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Fixture {
    pub(crate) fn new(store: Arc<dyn Store>, options: ServerOptions) -> Self {
        let server = Server::new(Arc::clone(&store), options);
        Self::serving(store, server)
    }

    /// One that asks who may do what.
    pub(crate) fn guarded(store: Arc<dyn Store>, access: Arc<CurrentAccess>) -> Self {
        let server = Server::new(Arc::clone(&store), ServerOptions::new()).access(access);
        Self::serving(store, server)
    }

    /// Of a server of this store.
    pub(crate) fn serving(store: Arc<dyn Store>, server: Server) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, told) = oneshot::channel();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                server.serve(listener, async { drop(told.await) }).await.unwrap();
            });
        });
        Self { address, store, shutdown: Some(shutdown), serving: Some(serving) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Tells the server to shut down, and does not wait for it.
    pub(crate) fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits until the server and all that it started have ended.
    pub(crate) fn wait(&mut self) {
        self.serving.take().unwrap().join().unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shut_down();
        if let Some(serving) = self.serving.take() {
            let ended = serving.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
        if !std::thread::panicking() {
            offstage::assert_unseen();
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Algorithm::Sha256.digest(bytes).to_string()
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    Algorithm::Sha512.digest(bytes).to_string()
}

/// Bytes that repeat nowhere near where a mistake would shift them to.
pub(crate) fn bytes(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .flatten()
    .take(size)
    .collect()
}

pub(crate) fn push_blob(client: &mut Client, repository: &str, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let answer = client.send("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], bytes);
    assert_eq!(answer.status, 201, "{answer:?}");
    digest
}

/// An image manifest with an empty config, which is pushed along, and `fields` put over it.
pub(crate) fn image(client: &mut Client, repository: &str, fields: &serde_json::Value) -> Vec<u8> {
    let digest = push_blob(client, repository, b"{}");
    let mut image = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2 },
        "layers": [],
    });
    image.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    image.to_string().into_bytes()
}

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn put(client: &mut Client, repository: &str, reference: &str, manifest: &[u8]) -> Answer {
    let headers = [("Content-Type", IMAGE)];
    client.send("PUT", &format!("/v2/{repository}/manifests/{reference}"), &headers, manifest)
}
