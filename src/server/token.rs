//! The token endpoint: `GET /token` with a password in its head, `POST /token` with one in its body.

use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::admission::{credentials, identify};
use super::arriving::Arriving;
use super::body::Body;
use super::reply::Reply;
use super::route::{Peer, Service};
use crate::access::{Access, Basic, Credentials, Grant, Identity, Question};
use crate::error::Error;
use crate::wire::{Refusal, TokenRequest};

/// The longest form, in bytes.
const LONGEST_FORM: usize = 16 << 10;

/// Answers a request for a token, and says who made it.
pub(super) async fn answer(
    service: &Service,
    peer: &Peer,
    access: &Arc<Access>,
    parts: &Parts,
    body: &mut Arriving,
) -> Result<(Identity, Response<Body>), Refusal> {
    let (request, credentials) = match parts.method {
        Method::GET => {
            let query = parts.uri.query().unwrap_or_default();
            (TokenRequest::parse(query.as_bytes()), credentials(&parts.headers))
        }
        Method::POST => {
            let form = body.gather(LONGEST_FORM).await?;
            let form = form.ok_or_else(|| Error::RequestInvalid("a form has at most 16 KiB".to_owned()))?;
            let mut request = TokenRequest::parse(&form);
            let proof = (request.grant_type.as_deref(), request.username.take(), request.password.take());
            let (Some("password"), Some(user), Some(password)) = proof else {
                let words =
                    "a token is given for a password alone: send grant_type=password, username and password";
                return Err(Error::RequestInvalid(words.to_owned()).into());
            };
            (request, Credentials::Basic(Basic { user, password }))
        }
        _ => return Err(Refusal::Method { allow: "GET, POST" }),
    };
    let challenge = |_| Access::password_challenge();
    // A token for a token would have no end.
    if matches!(credentials, Credentials::Bearer(_)) {
        let reason = "a token is given for a password, not for a token";
        return Err(Refusal::BadCredentials { reason, challenge: Access::password_challenge() });
    }
    let identity = identify(service, peer, access, credentials, challenge).await?;
    // An empty token would look like a login that worked.
    if identity.user().is_none() && !access.is_public_somewhere() {
        return Err(Refusal::Unauthenticated { challenge: Access::password_challenge() });
    }
    let question = Question { service: request.service.as_deref(), scopes: &request.scopes };
    let Some(granted) = access.grant(&identity, &question) else { return Err(Refusal::NoEndpoint) };
    let Grant { token, lifetime } = granted.map_err(|reason| Error::RequestInvalid(reason.to_owned()))?;
    // By both names: the specification has changed its mind.
    let answer = json!({ "token": token, "access_token": token, "expires_in": lifetime });
    let reply = Reply::new(StatusCode::OK).header(CACHE_CONTROL, "no-store");
    Ok((identity, reply.bytes("application/json", answer.to_string())))
}
