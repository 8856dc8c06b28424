//! TLS: certificates from files, and the handshake.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::ring as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::{self, Holds};
use super::stall::Stalling;

/// The first byte of a TLS client.
const HANDSHAKE: u8 = 22;
/// How much of a request without TLS is read so that its client gets the answer, in bytes.
const PLAIN_REQUEST: u64 = 64 << 10;
/// What such a client is told.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 42\r\n\
    Connection: close\r\n\r\nthis port speaks TLS: use https, not http\n";

/// Why files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file has PEM in it that breaks off or is none.
    #[error("{} is not good PEM: {source}", .file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{} has no certificate in it: it takes PEM with BEGIN CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    /// A file has no private key in it.
    #[error("{} has no private key in it: it takes PEM with BEGIN PRIVATE KEY, without a password", .0.display())]
    NoKey(PathBuf),
    /// The key is of another certificate.
    #[error(
        "the key in {} does not belong to the first certificate in {}", .key.display(), .certificate_chain.display()
    )]
    OtherKey {
        /// The file with the certificate.
        certificate_chain: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// A file's certificate or key is of a kind that is not known here, or damaged.
    #[error("what is in {} cannot be used: {reason}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A client may show none; one that it shows must be good.
    Optional,
    /// Whoever has none is turned away in the handshake.
    Required,
}

/// The files that [`Tls`] is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TlsOptions {
    certificate_chain: PathBuf,
    key: PathBuf,
    clients: Option<(PathBuf, ClientCertificates)>,
}

impl TlsOptions {
    /// The server's certificate, followed by those that lead from it to an authority that clients know, and the private key
    /// of the first one: PEM files, which may be one and the same.
    pub fn new(certificate_chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate_chain: certificate_chain.into(), key: key.into(), clients: None }
    }

    /// Asks clients for certificates, which must be signed by one of the authorities in this PEM file. By default they are not
    /// asked. Certificates that were revoked are not told apart: have them expire soon.
    pub fn clients(mut self, authorities: impl Into<PathBuf>, certificates: ClientCertificates) -> Self {
        self.clients = Some((authorities.into(), certificates));
        self
    }

    /// Reads the files. A certificate that has expired is logged, and served.
    ///
    /// # Errors
    /// [`TlsError`], with the file that is to blame.
    pub fn load(self) -> Result<Tls, TlsError> {
        let current = RwLock::new(self.read()?);
        Ok(Tls(Arc::new(Shared { options: self, current })))
    }

    fn read(&self) -> Result<Current, TlsError> {
        let chain = certificates(&self.certificate_chain)?;
        let key = key(&self.key)?;
        let unusable = |file: &Path, reason: &dyn ToString| TlsError::Unusable {
            file: file.to_owned(),
            reason: reason.to_string(),
        };
        let holds = match chain.first().map(Holds::of) {
            Some(Ok(holds)) => holds,
            Some(Err(error)) => return Err(unusable(&self.certificate_chain, &error)),
            None => return Err(TlsError::NoCertificate(self.certificate_chain.clone())),
        };

        let provider = Arc::new(provider::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable(&self.certificate_chain, &error))?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some((authorities, wanted)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(authorities)? {
                    roots.add(certificate).map_err(|error| unusable(authorities, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match wanted {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Required => verifier,
                };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| unusable(authorities, &error))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::OtherKey {
                certificate_chain: self.certificate_chain.clone(),
                key: self.key.clone(),
            },
            rustls::Error::General(_) => unusable(&self.key, &error),
            error => unusable(&self.certificate_chain, &error),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        if let Some(complaint) = holds.complaint(SystemTime::now()) {
            tracing::warn!(file = %self.certificate_chain.display(), "the server's certificate {complaint}");
        }
        Ok(Current { config: Arc::new(config), not_after: holds.until.to_system_time() })
    }
}

/// TLS 1.2 and 1.3 for a [`Server`](super::Server): a certificate and its key from files, which can be read again. Clones are
/// one and the same.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    options: TlsOptions,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    not_after: SystemTime,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.options).finish()
    }
}

impl Tls {
    /// Reads a certificate chain and its key; clients are not asked for certificates. [`TlsOptions`] has more.
    ///
    /// # Errors
    /// As [`TlsOptions::load`].
    pub fn load(certificate_chain: &Path, key: &Path) -> Result<Self, TlsError> {
        TlsOptions::new(certificate_chain, key).load()
    }

    /// Reads the files again. Connections that are there stay as they are, new ones get what is in the files now; a session
    /// that was begun before is not resumed. Blocks.
    ///
    /// # Errors
    /// As [`TlsOptions::load`]. What was loaded before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = self.0.options.read()?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// When the server's certificate that is in use expires.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.current().not_after
    }

    fn current(&self) -> Current {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a connection secure, or none where the client does not speak TLS: it was told. Waits for the client as long as that
    /// takes.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        silence_limit: Duration,
    ) -> io::Result<Option<Secure>> {
        // Who begins with a letter has taken this for a port without TLS, and would not understand TLS's alert.
        let mut first = [0];
        let begun = stream.peek(&mut first).await?;
        if begun > 0 && first[0] != HANDSHAKE && first[0].is_ascii_alphabetic() {
            refuse_plain(stream).await?;
            return Ok(None);
        }
        let acceptor = TlsAcceptor::from(self.current().config);
        let stream = acceptor.accept(Stalling::new(stream, silence_limit)).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.and_then(certificate::name);
        Ok(Some(Secure { stream, certificate }))
    }
}

/// A connection after its handshake.
pub(super) struct Secure {
    pub(super) stream: TlsStream<Stalling<TcpStream>>,
    /// Whom the client's certificate names, if it has shown one.
    pub(super) certificate: Option<Arc<str>>,
}

async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_ANSWER).await?;
    stream.shutdown().await?;
    // A connection that is closed with unread bytes is reset, and the answer can be lost with it.
    let mut rest = stream.take(PLAIN_REQUEST);
    let mut buffer = [0; 1024];
    while rest.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let certificates = certificates.map_err(|source| TlsError::Pem { file: file.to_owned(), source })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(file.to_owned())) } else { Ok(certificates) }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey(file.to_owned()),
        source => TlsError::Pem { file: file.to_owned(), source },
    })
}
