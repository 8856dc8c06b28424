//! Requests for tokens, as Docker's token specification has them.

use std::fmt;

/// What somebody asks of a token endpoint: in the query of a `GET`, or in the form that a `POST` brings.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The registry that the token is to be for.
    pub service: Option<String>,
    /// What it is to be good for, each `TYPE:NAME:ACTIONS`, or several of these with spaces between.
    pub scopes: Vec<String>,
    /// How the client proves who it is; in forms alone.
    pub grant_type: Option<String>,
    /// The user of the grant `password`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

impl TokenRequest {
    /// Where tokens are given, on this server: beside the distribution-spec's paths.
    pub const PATH: &str = "/token";

    /// Reads a query, or a form. Parameters that are not known are passed over; of one that is given twice the first counts, but for
    /// scopes.
    #[must_use]
    pub fn parse(form: &[u8]) -> Self {
        let mut request = Self::default();
        for (key, value) in form_urlencoded::parse(form) {
            let place = match &*key {
                "scope" => {
                    request.scopes.push(value.into_owned());
                    continue;
                }
                "service" => &mut request.service,
                "grant_type" => &mut request.grant_type,
                "username" => &mut request.username,
                "password" => &mut request.password,
                _ => continue,
            };
            place.get_or_insert_with(|| value.into_owned());
        }
        request
    }
}

/// Without the password.
impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("service", &self.service)
            .field("scopes", &self.scopes)
            .field("grant_type", &self.grant_type)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_forms_are_read() {
        let request = TokenRequest::parse(
            b"account=alice&service=r.example&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository:c:pull&service=x&client_id=docker",
        );
        assert_eq!(request.service.as_deref(), Some("r.example"));
        assert_eq!(request.scopes, ["repository:a/b:pull,push", "repository:c:pull"]);
        assert_eq!(request.grant_type, None);
        let request = TokenRequest::parse(b"grant_type=password&username=al+ice&password=won%26der");
        assert_eq!(
            (request.username.as_deref(), request.password.as_deref()),
            (Some("al ice"), Some("won&der"))
        );
        assert!(!format!("{request:?}").contains("won&der"));
        assert_eq!(TokenRequest::parse(b"\xFF=&&=%"), TokenRequest::default());
    }
}
