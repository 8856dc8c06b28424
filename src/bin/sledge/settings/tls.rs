//! TLS.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sledge::server::{ClientCertificates, Tls, TlsOptions};

use super::Mistake;

/// Files of a certificate and what goes with it. All are PEM.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsSettings {
    /// The server's certificate with those that lead to its authority: TLS is spoken, and nothing else
    #[arg(
        long = "tls-certificate",
        id = "tls_certificate",
        value_name = "FILE",
        env = "SLEDGE_TLS_CERTIFICATE"
    )]
    certificate: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long = "tls-key", id = "tls_key", value_name = "FILE", env = "SLEDGE_TLS_KEY")]
    key: Option<PathBuf>,
    /// Authorities whose certificates prove who a client is: by the first name in it
    #[arg(long = "tls-client-ca", id = "tls_client_ca", value_name = "FILE", env = "SLEDGE_TLS_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Whether a client must have such a certificate [default: optional]
    #[arg(
        long = "tls-client-certificates",
        id = "tls_client_certificates",
        value_enum,
        env = "SLEDGE_TLS_CLIENT_CERTIFICATES"
    )]
    client_certificates: Option<Certificates>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Certificates {
    /// Who has none proves who he is otherwise, or is nobody
    Optional,
    /// Who has none is turned away
    Required,
}

impl TlsSettings {
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            certificate: self.certificate.or(others.certificate),
            key: self.key.or(others.key),
            client_ca: self.client_ca.or(others.client_ca),
            client_certificates: self.client_certificates.or(others.client_certificates),
        }
    }

    pub(super) fn beginning_at(&mut self, folder: &Path) {
        for path in [&mut self.certificate, &mut self.key, &mut self.client_ca].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.certificate, &self.key, &self.client_ca].into_iter().flatten().map(PathBuf::as_path)
    }

    pub(crate) const fn asks_for_certificates(&self) -> bool {
        self.client_ca.is_some()
    }

    /// What the server speaks, with the files as they are now; nothing if it is plain HTTP.
    pub(crate) fn load(&self) -> Result<Option<Tls>, Mistake> {
        let (certificate, key) = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => {
                return Err(Mistake::new(
                    "tls.certificate",
                    "a certificate is of no use alone: give `tls.key` too",
                ));
            }
            (None, Some(_)) => {
                return Err(Mistake::new("tls.key", "a key is of no use alone: give `tls.certificate` too"));
            }
            (None, None) if self.client_ca.is_some() => {
                return Err(Mistake::new(
                    "tls.client-ca",
                    "clients show certificates over TLS: give `tls.certificate` too",
                ));
            }
            (None, None) => return Ok(None),
        };
        let mut options = TlsOptions::new(certificate, key);
        match (&self.client_ca, self.client_certificates) {
            (Some(authorities), certificates) => {
                let certificates = match certificates {
                    Some(Certificates::Required) => ClientCertificates::Required,
                    Some(Certificates::Optional) | None => ClientCertificates::Optional,
                };
                options = options.clients(authorities, certificates);
            }
            (None, Some(_)) => {
                let says = "whose certificates are good is not said: give `tls.client-ca` too";
                return Err(Mistake::new("tls.client-certificates", says));
            }
            (None, None) => {}
        }
        options.load().map(Some).map_err(|error| Mistake::new("tls.certificate", error.to_string()))
    }
}
