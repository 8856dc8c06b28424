//! What a certificate says.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Error};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::{Time, Validity};

/// The longest name that is taken, in bytes. A longer one is none.
const LONGEST_NAME: usize = 256;

/// From when and until when a certificate holds.
#[derive(Clone, Copy)]
pub(super) struct Holds {
    pub(super) from: Time,
    pub(super) until: Time,
}

impl Holds {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = Certificate::from_der(certificate)?;
        let Validity { not_before: from, not_after: until, .. } = *certificate.tbs_certificate().validity();
        Ok(Self { from, until })
    }

    /// What is wrong with it at this time, in words.
    pub(super) fn complaint(&self, now: SystemTime) -> Option<String> {
        if self.until.to_system_time() < now {
            return Some(format!("expired at {}", self.until.to_date_time()));
        }
        (self.from.to_system_time() > now)
            .then(|| format!("does not hold before {}", self.from.to_date_time()))
    }
}

/// Whom a certificate names: the first DNS name or e-mail address among its alternative names, or else the common name of its
/// subject. None where that is empty, longer than 256 bytes or has control characters, and where the certificate cannot be
/// read to its end: a name that is not certain is no name.
pub(super) fn name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let contents = certificate.tbs_certificate();
    let alternatives = contents.get_extension::<SubjectAltName>().ok()?;
    let alternative = alternatives.iter().flat_map(|(_, names)| &names.0).find_map(|name| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) => Some(name.to_string()),
        _ => None,
    });
    let name = match alternative {
        Some(name) => name,
        None => contents.subject().common_name().ok()??.value().into_owned(),
    };
    let is_sane = !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control);
    is_sane.then(|| name.into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn named(common: Option<&str>, alternatives: Vec<SanType>) -> Option<String> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "organisation");
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = alternatives;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(certificate.der()).map(|name| name.to_string())
    }

    #[test]
    fn a_certificate_names_whom_it_was_made_for() {
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
        let address = SanType::IpAddress([192, 0, 2, 1].into());
        assert_eq!(named(Some("common"), vec![dns("a.example")]).as_deref(), Some("a.example"));
        assert_eq!(named(Some("common"), vec![email("a@b"), dns("x")]).as_deref(), Some("a@b"));
        assert_eq!(named(Some("common"), vec![address.clone(), dns("x"), dns("y")]).as_deref(), Some("x"));
        assert_eq!(named(Some("comm\u{f6}n"), vec![]).as_deref(), Some("comm\u{f6}n"));
        assert_eq!(named(Some("common"), vec![address]).as_deref(), Some("common"));
        assert_eq!(named(None, vec![]), None);
        assert_eq!(named(Some(""), vec![]), None);
        // Two lines of a log.
        assert_eq!(named(Some("a\nb"), vec![]), None);
        assert_eq!(named(Some(&"x".repeat(257)), vec![]), None);
        assert_eq!(name(&CertificateDer::from_slice(b"\x30\x03\x02\x01\x01")), None);
    }

    #[test]
    fn a_certificate_that_does_not_hold_says_so() {
        let mut params = CertificateParams::new([]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2002, 3, 4);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let holds = Holds::of(certificate.der()).unwrap();
        let at = |time: Time| time.to_system_time();
        let second = std::time::Duration::from_secs(1);
        assert_eq!(holds.complaint(at(holds.from)), None);
        assert_eq!(holds.complaint(at(holds.until)), None);
        let late = holds.complaint(at(holds.until) + second).unwrap();
        assert_eq!(late, "expired at 2002-03-04T00:00:00Z");
        let early = holds.complaint(at(holds.from) - second).unwrap();
        assert_eq!(early, "does not hold before 2001-02-03T00:00:00Z");
    }
}
