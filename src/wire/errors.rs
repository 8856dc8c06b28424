//! Error answers: the status, the JSON body, and the one place where errors become them.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::request::Refusal;
use crate::error::{Error, ErrorCode};
use crate::oci::{Digest, ManifestError, ReferenceRole};
#[cfg(feature = "schema1")]
use crate::oci::{SignedManifestError, SignedManifestFault};

/// The system's and the process's limit of open files is reached, as every Unix numbers it.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
/// How many missing references an answer names, each in an entry of its own.
const MISSING_NAMED: usize = 100;

/// The JSON body of an error answer (distribution-spec, "Error Codes").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// At least one error, where this crate writes it.
    #[serde(default)]
    pub errors: Vec<ErrorEntry>,
}

/// One error of an error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// One of the spec's codes; `UNKNOWN` where the failure is the server's own, for which the spec has none.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// How a request that failed is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorAnswer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: ErrorBody,
    /// The `Allow` header.
    pub allow: Option<&'static str>,
    /// The `Retry-After` header, in seconds.
    pub retry_after: Option<u64>,
    /// The `WWW-Authenticate` header.
    pub challenge: Option<String>,
}

impl ErrorAnswer {
    fn new(
        status: StatusCode,
        code: Option<ErrorCode>,
        message: &(impl ToString + ?Sized),
        detail: Value,
    ) -> Self {
        let code = code.map_or("UNKNOWN", ErrorCode::as_str).to_owned();
        let entry = ErrorEntry { code, message: message.to_string(), detail };
        Self {
            status,
            body: ErrorBody { errors: vec![entry] },
            allow: None,
            retry_after: None,
            challenge: None,
        }
    }
}

impl From<&Refusal> for ErrorAnswer {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NoEndpoint => {
                Self::new(StatusCode::NOT_FOUND, Some(ErrorCode::Unsupported), refusal, Value::Null)
            }
            Refusal::Method { allow } => Self {
                allow: Some(allow),
                ..Self::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    Some(ErrorCode::Unsupported),
                    refusal,
                    Value::Null,
                )
            },
            Refusal::NoSuchReference(..) | Refusal::NotAccepted(_) => {
                Self::new(StatusCode::NOT_FOUND, Some(ErrorCode::ManifestUnknown), refusal, Value::Null)
            }
            Refusal::NoSuchUpload(_) => {
                Self::new(StatusCode::NOT_FOUND, Some(ErrorCode::BlobUploadUnknown), refusal, Value::Null)
            }
            Refusal::Range { total } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Some(ErrorCode::SizeInvalid),
                refusal,
                json!({ "size": total }),
            ),
            Refusal::Unauthenticated { challenge } | Refusal::BadCredentials { challenge, .. } => Self {
                challenge: Some(challenge.clone()),
                ..Self::new(StatusCode::UNAUTHORIZED, Some(ErrorCode::Unauthorized), refusal, Value::Null)
            },
            Refusal::Denied => {
                Self::new(StatusCode::FORBIDDEN, Some(ErrorCode::Denied), refusal, Value::Null)
            }
            Refusal::Error(error) => error.into(),
        }
    }
}

impl From<&Error> for ErrorAnswer {
    fn from(error: &Error) -> Self {
        let with = |status, detail| Self::new(status, error.code(), error, detail);
        match error {
            Error::RepositoryUnknown(repository) => {
                with(StatusCode::NOT_FOUND, json!({ "repository": repository }))
            }
            Error::BlobUnknown { digest, .. } => with(StatusCode::NOT_FOUND, json!({ "digest": digest })),
            #[cfg(feature = "schema1")]
            Error::TarSumUnknown { tar_sum, .. } => {
                with(StatusCode::NOT_FOUND, json!({ "digest": tar_sum.to_string() }))
            }
            #[cfg(feature = "schema1")]
            Error::TarSumMismatch { expected, found } => with(
                StatusCode::BAD_REQUEST,
                json!({ "expected": expected.to_string(), "found": found.to_string() }),
            ),
            #[cfg(feature = "schema1")]
            Error::NoTarSum(_) | Error::TarSumInvalid(_) => with(StatusCode::BAD_REQUEST, Value::Null),
            Error::ManifestUnknown { reference, .. } => {
                with(StatusCode::NOT_FOUND, json!({ "reference": reference.to_string() }))
            }
            Error::UploadUnknown { id, .. } => with(StatusCode::NOT_FOUND, json!({ "id": id.to_string() })),
            // What is asked for is there; what it needs is not. One entry each, so that a client can push them and try again.
            Error::ReferencesMissing { missing, .. } => Self {
                body: ErrorBody { errors: missing_entries(missing) },
                ..with(StatusCode::NOT_FOUND, Value::Null)
            },
            // One entry for each, as above.
            #[cfg(feature = "schema1")]
            Error::SignedManifestRefused { faults, missing } => {
                let fault = |fault: &SignedManifestFault| ErrorEntry {
                    code: fault_code(fault).as_str().to_owned(),
                    message: fault.to_string(),
                    detail: Value::Null,
                };
                let mut errors: Vec<_> = faults.iter().map(fault).collect();
                errors.extend(missing_entries(missing));
                Self { body: ErrorBody { errors }, ..with(StatusCode::BAD_REQUEST, Value::Null) }
            }
            #[cfg(feature = "schema1")]
            Error::SignedManifestInvalid(SignedManifestError::Payload(ManifestError::TooLarge(_))) => {
                with(StatusCode::PAYLOAD_TOO_LARGE, Value::Null)
            }
            #[cfg(feature = "schema1")]
            Error::SignedManifestInvalid(_) | Error::Conversion(_) => {
                with(StatusCode::BAD_REQUEST, Value::Null)
            }
            Error::ManifestInvalid(ManifestError::TooLarge(_)) => {
                with(StatusCode::PAYLOAD_TOO_LARGE, Value::Null)
            }
            Error::DigestMismatch(mismatch) => with(
                StatusCode::BAD_REQUEST,
                json!({ "expected": mismatch.expected, "found": mismatch.found }),
            ),
            Error::SizeMismatch { declared, received } => {
                with(StatusCode::BAD_REQUEST, json!({ "declared": declared, "received": received }))
            }
            Error::ManifestInvalid(_)
            | Error::NameInvalid(_)
            | Error::TagInvalid(_)
            | Error::DigestInvalid(_)
            | Error::MediaTypeInvalid(_)
            | Error::RequestInvalid(_) => with(StatusCode::BAD_REQUEST, Value::Null),
            // The session is in a state that the request does not fit, and will leave it: the other writer ends, or falls silent.
            Error::UploadBusy(_) => Self { retry_after: Some(1), ..with(StatusCode::CONFLICT, Value::Null) },
            Error::UploadOffset { offset, requested, .. } => {
                with(StatusCode::RANGE_NOT_SATISFIABLE, json!({ "offset": offset, "requested": requested }))
            }
            Error::TagImmutable { tag, found } => {
                with(StatusCode::FORBIDDEN, json!({ "tag": tag, "found": found }))
            }
            Error::TagCondition { tag, found } => {
                with(StatusCode::PRECONDITION_FAILED, json!({ "tag": tag, "found": found }))
            }
            Error::TooManyTags(_) => with(StatusCode::URI_TOO_LONG, Value::Null),
            // The spec's words for what is switched off. What can always be done is to read.
            Error::Unsupported(_) => {
                Self { allow: Some("GET, HEAD"), ..with(StatusCode::METHOD_NOT_ALLOWED, Value::Null) }
            }
            Error::TooManyRequests { retry_after } => Self {
                retry_after: Some(seconds(*retry_after)),
                ..with(StatusCode::TOO_MANY_REQUESTS, Value::Null)
            },
            Error::DiskFull { .. } | Error::OverBudget { .. } => {
                with(StatusCode::INSUFFICIENT_STORAGE, Value::Null)
            }
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, None, "the disk is full", Value::Null)
            }
            Error::Io { source, .. } if matches!(source.raw_os_error(), Some(ENFILE | EMFILE)) => Self {
                retry_after: Some(1),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    None,
                    "too many files are open: try again in a moment",
                    Value::Null,
                )
            },
            Error::Unavailable(_) => with(StatusCode::SERVICE_UNAVAILABLE, Value::Null),
            // Their words name the server's folders: they are for its log.
            Error::NotAStore { .. }
            | Error::NotEmpty { .. }
            | Error::NoStore(_)
            | Error::Locked(_)
            | Error::FormatVersion { .. }
            | Error::Damaged { .. }
            | Error::Interrupted(_)
            | Error::Io { .. } => {
                let message = "the registry failed at this; its log says where";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, message, Value::Null)
            }
        }
    }
}

fn missing_entries(missing: &[(ReferenceRole, Digest)]) -> Vec<ErrorEntry> {
    let entry = |(role, digest): &(ReferenceRole, Digest)| ErrorEntry {
        code: ErrorCode::ManifestBlobUnknown.as_str().to_owned(),
        message: format!("{role} ({digest}) is unknown in the repository"),
        detail: json!({ "digest": digest, "field": format!("{role}") }),
    };
    // A manifest can lack tens of thousands, and an answer of megabytes helps nobody.
    let mut errors: Vec<_> = missing.iter().take(MISSING_NAMED).map(entry).collect();
    let more = missing.len() - errors.len();
    if let Some(last) = errors.last_mut().filter(|_| more > 0) {
        last.message += &format!(", and {more} more references are");
    }
    errors
}

#[cfg(feature = "schema1")]
const fn fault_code(fault: &SignedManifestFault) -> ErrorCode {
    match fault {
        SignedManifestFault::Name { .. } => ErrorCode::NameInvalid,
        SignedManifestFault::Digest { .. } => ErrorCode::DigestInvalid,
        SignedManifestFault::Layer { .. } => ErrorCode::ManifestBlobUnknown,
        _ => ErrorCode::ManifestInvalid,
    }
}

/// Whole seconds, rounded up: a client that comes back early is refused again.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, DigestMismatch, RepositoryName, Tag};

    #[test]
    fn every_error_has_a_status_and_a_code() {
        let repository: RepositoryName = "a/b".parse().unwrap();
        let digest = Algorithm::Sha256.digest(b"");
        let tag: Tag = "latest".parse().unwrap();
        let id = uuid::Uuid::nil();
        let io = |kind: std::io::ErrorKind| Error::Io { doing: "x".to_owned(), source: kind.into() };
        let system = |number| {
            let source = std::io::Error::from_raw_os_error(number);
            Error::Io { doing: "opening /x".to_owned(), source }
        };
        let cases = [
            (Error::RepositoryUnknown(repository.clone()), 404, "NAME_UNKNOWN"),
            (Error::BlobUnknown { repository: repository.clone(), digest }, 404, "BLOB_UNKNOWN"),
            (
                Error::ManifestUnknown { repository: repository.clone(), reference: tag.clone().into() },
                404,
                "MANIFEST_UNKNOWN",
            ),
            (Error::UploadUnknown { repository, id }, 404, "BLOB_UPLOAD_UNKNOWN"),
            (ManifestError::NoConfig.into(), 400, "MANIFEST_INVALID"),
            (ManifestError::TooLarge(1).into(), 413, "MANIFEST_INVALID"),
            (DigestMismatch { expected: digest, found: digest }.into(), 400, "DIGEST_INVALID"),
            ("x".parse::<Digest>().unwrap_err().into(), 400, "DIGEST_INVALID"),
            ("X".parse::<RepositoryName>().unwrap_err().into(), 400, "NAME_INVALID"),
            (".".parse::<Tag>().unwrap_err().into(), 400, "MANIFEST_INVALID"),
            (Error::SizeMismatch { declared: 1, received: 2 }, 400, "SIZE_INVALID"),
            (Error::RequestInvalid("x".to_owned()), 400, "UNSUPPORTED"),
            (Error::UploadBusy(id), 409, "BLOB_UPLOAD_INVALID"),
            (Error::UploadOffset { id, offset: 1, requested: 2 }, 416, "BLOB_UPLOAD_INVALID"),
            (Error::TagCondition { tag, found: None }, 412, "DENIED"),
            (Error::TooManyTags(33), 414, "MANIFEST_INVALID"),
            (Error::Unsupported("x".to_owned()), 405, "UNSUPPORTED"),
            (Error::TooManyRequests { retry_after: Duration::from_millis(1500) }, 429, "TOOMANYREQUESTS"),
            (Error::DiskFull { needed: 1, available: 0 }, 507, "UNKNOWN"),
            (
                Error::OverBudget { needed: 1, used: 2, budget: 2, in_index: 1, in_uploads: 0, held_back: 0 },
                507,
                "UNKNOWN",
            ),
            (io(std::io::ErrorKind::StorageFull), 507, "UNKNOWN"),
            (io(std::io::ErrorKind::NotFound), 500, "UNKNOWN"),
            (system(23), 503, "UNKNOWN"),
            (system(24), 503, "UNKNOWN"),
            (system(5), 500, "UNKNOWN"),
            (Error::Unavailable("x".to_owned()), 503, "UNKNOWN"),
            (Error::Locked("/x".into()), 500, "UNKNOWN"),
        ];
        for (error, status, code) in cases {
            let answer = ErrorAnswer::from(&error);
            assert_eq!((answer.status.as_u16(), &*answer.body.errors[0].code), (status, code), "{error}");
            assert_eq!(answer.allow.is_some(), status == 405);
            assert_eq!(
                answer.retry_after,
                match (&error, status) {
                    (_, 409) | (Error::Io { .. }, 503) => Some(1),
                    (_, 429) => Some(2),
                    _ => None,
                }
            );
            assert!(!answer.body.errors[0].message.contains("/x"), "{error}");
        }
    }

    #[test]
    fn the_body_is_the_spec_s_and_is_read_back() {
        let missing = vec![
            (ReferenceRole::Config, Algorithm::Sha256.digest(b"")),
            (ReferenceRole::Layer(3), Algorithm::Sha512.digest(b"")),
        ];
        let error = Error::ReferencesMissing { repository: "a".parse().unwrap(), missing: missing.clone() };
        let answer = ErrorAnswer::from(&error);
        let text = serde_json::to_string(&answer.body).unwrap();
        assert_eq!(serde_json::from_str::<ErrorBody>(&text).unwrap(), answer.body);
        let body: Value = serde_json::from_str(&text).unwrap();
        for (at, (role, digest)) in missing.iter().enumerate() {
            let entry = &body["errors"][at];
            assert_eq!(entry["code"], "MANIFEST_BLOB_UNKNOWN");
            assert_eq!(entry["detail"]["digest"], digest.to_string());
            assert_eq!(entry["detail"]["field"], role.to_string());
        }
        let many = |count| Error::ReferencesMissing {
            repository: "a".parse().unwrap(),
            missing: (0..count).map(|n| (ReferenceRole::Layer(n), missing[0].1)).collect(),
        };
        for (count, named, more) in
            [(100, 100, None), (101, 100, Some("1 more")), (38_000, 100, Some("37900 more"))]
        {
            let errors = ErrorAnswer::from(&many(count)).body.errors;
            assert_eq!(errors.len(), named);
            assert!(errors.iter().all(|entry| entry.code == "MANIFEST_BLOB_UNKNOWN"));
            assert!(errors[98].message.ends_with("is unknown in the repository"));
            assert!(errors[99].message.contains(more.unwrap_or("is unknown in the repository")));
            assert_eq!(errors[99].message.contains("more"), more.is_some());
        }
        let answer = ErrorAnswer::from(&Refusal::Method { allow: "GET, HEAD" });
        assert_eq!((answer.status.as_u16(), answer.allow), (405, Some("GET, HEAD")));
        assert_eq!(ErrorAnswer::from(&Refusal::NoEndpoint).status.as_u16(), 404);
        let entry: ErrorBody = serde_json::from_str("{\"errors\":[{\"code\":\"DENIED\"}]}").unwrap();
        assert_eq!(entry.errors[0].message, "");
    }
}
