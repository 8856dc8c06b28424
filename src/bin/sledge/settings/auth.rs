//! Who may do what.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};
use sledge::access::{
    Access, AccessError, Actions, KeySet, Passwords, Policy, TokenEndpoint, TokenIssuer, Who,
};

use super::Mistake;

/// Proofs of who somebody is.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Who may do what")]
pub(crate) struct AuthSettings {
    /// The users and their passwords, as `htpasswd -B` writes them. Who is none of them may do nothing, and each of them everything,
    /// unless [[access]] in the file has rules
    #[arg(long, value_name = "FILE", env = "SLEDGE_HTPASSWD")]
    htpasswd: Option<PathBuf>,
    /// Let everyone pull from everywhere. With passwords it takes --tokens
    #[arg(long, env = "SLEDGE_ANONYMOUS_PULL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    anonymous_pull: Option<bool>,
    /// Give clients tokens for their passwords: then `docker login` checks a password also where everyone may pull. It takes
    /// --external-url
    #[arg(long, env = "SLEDGE_TOKENS", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    tokens: Option<bool>,
    /// By what URL clients reach this server, such as `https://registry.example.org`
    #[arg(long, value_name = "URL", env = "SLEDGE_EXTERNAL_URL")]
    external_url: Option<String>,
    /// The issuer of tokens elsewhere.
    #[arg(skip)]
    issuer: Option<IssuerSettings>,
}

/// Who gives tokens that are taken here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IssuerSettings {
    /// What its tokens have as `iss`.
    name: String,
    /// What they have as `aud`.
    service: String,
    /// The URL where clients get them.
    realm: String,
    /// The file with its keys, a JSON Web Key Set.
    keys: PathBuf,
}

/// A rule: these may do this there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Rule {
    who: Vec<String>,
    actions: Vec<String>,
    repositories: Vec<String>,
}

impl AuthSettings {
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            htpasswd: self.htpasswd.or(others.htpasswd),
            anonymous_pull: self.anonymous_pull.or(others.anonymous_pull),
            tokens: self.tokens.or(others.tokens),
            external_url: self.external_url.or(others.external_url),
            issuer: self.issuer.or(others.issuer),
        }
    }

    pub(super) fn beginning_at(&mut self, folder: &Path) {
        let keys = self.issuer.as_mut().map(|issuer| &mut issuer.keys);
        for path in self.htpasswd.iter_mut().chain(keys) {
            *path = folder.join(&*path);
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let keys = self.issuer.as_ref().map(|issuer| issuer.keys.as_path());
        self.htpasswd.as_deref().into_iter().chain(keys)
    }

    const fn is_none(&self) -> bool {
        self.htpasswd.is_none() && self.issuer.is_none() && self.anonymous_pull.is_none()
    }

    /// Who may do what, with the files as they are now; nothing where everybody may do everything.
    pub(super) fn load(
        &self,
        rules: &[Rule],
        by_certificate: bool,
        endpoint: Option<TokenEndpoint>,
    ) -> Result<Option<Access>, Mistake> {
        if self.is_none() && rules.is_empty() && !by_certificate {
            return match self.tokens {
                Some(true) => Err(Mistake::new(
                    "auth.tokens",
                    "tokens are given for passwords: give `auth.htpasswd` too",
                )),
                _ => Ok(None),
            };
        }
        let proves = self.htpasswd.is_some() || self.issuer.is_some() || by_certificate;
        let public = rules.iter().position(|rule| rule.who.iter().any(|who| who == "anonymous"));
        let public = if self.anonymous_pull.unwrap_or(false) {
            Some(Cow::from("auth.anonymous-pull"))
        } else {
            public.map(|at| format!("access.{}", at + 1).into())
        };
        if let Some(key) = public.filter(|_| self.htpasswd.is_some())
            && !(self.tokens.unwrap_or(false) || self.issuer.is_some())
        {
            let says = "docker and others send no password where anybody is let in, and so could not push: give `auth.tokens` and \
                        `auth.external-url` too";
            return Err(Mistake::new(key, says));
        }
        let users = rules.iter().position(|rule| rule.who.iter().any(|who| who != "anonymous"));
        if let Some(at) = users.filter(|_| !proves) {
            let says =
                "nobody can prove to be a user: give `auth.htpasswd`, `auth.issuer` or `tls.client-ca` too";
            return Err(Mistake::new(format!("access.{}", at + 1), says));
        }
        let mut access = Access::new(self.policy(rules)?);
        if let Some(path) = &self.htpasswd {
            let passwords = Passwords::load(path).map_err(|error| of("auth.htpasswd", &error))?;
            access = access.passwords(passwords);
        }
        if let Some(issuer) = &self.issuer {
            let wrong = |error| of("auth.issuer", &error);
            let keys = KeySet::load(&issuer.keys).map_err(wrong)?;
            let issuer =
                TokenIssuer::new(&issuer.name, &issuer.service, &issuer.realm, keys).map_err(wrong)?;
            access = access.token_issuer(issuer);
        }
        if let Some(endpoint) = endpoint {
            access = access.token_endpoint(endpoint);
        }
        Ok(Some(access))
    }

    /// Where this server gives tokens. Its key is made here and kept as long as it is: tokens of another one are none of it.
    pub(crate) fn endpoint(&self) -> Result<Option<TokenEndpoint>, Mistake> {
        if !self.tokens.unwrap_or(false) {
            return Ok(None);
        }
        if self.htpasswd.is_none() {
            return Err(Mistake::new(
                "auth.tokens",
                "tokens are given for passwords: give `auth.htpasswd` too",
            ));
        }
        let Some(url) = &self.external_url else {
            let says = "clients are told where to get tokens: give `auth.external-url` too";
            return Err(Mistake::new("auth.tokens", says));
        };
        let service = url.split("://").nth(1).unwrap_or(url);
        let service = service.split('/').next().unwrap_or(service);
        TokenEndpoint::new(url, service).map(Some).map_err(|error| of("auth.external-url", &error))
    }

    /// Whether an endpoint of others is the one of these.
    pub(crate) fn has_the_endpoint_of(&self, others: &Self) -> bool {
        self.tokens.unwrap_or(false) == others.tokens.unwrap_or(false)
            && self.external_url == others.external_url
    }

    fn policy(&self, rules: &[Rule]) -> Result<Policy, Mistake> {
        let mut policy = if rules.is_empty() { Policy::users() } else { Policy::new() };
        if self.anonymous_pull.unwrap_or(false) {
            policy = policy.anonymous_pull();
        }
        for (number, rule) in rules.iter().enumerate() {
            let key = format!("access.{}", number + 1);
            let wrong = |error| of(key.clone(), &error);
            let actions: Actions = rule.actions.join(",").parse().map_err(wrong)?;
            let repositories: Vec<&str> = rule.repositories.iter().map(String::as_str).collect();
            if rule.who.is_empty() {
                let says = "a rule is for nobody: name users in `who`, \"*\" for all of them, or \"anonymous\" for everyone";
                return Err(Mistake::new(key, says));
            }
            for who in &rule.who {
                let who: Who = who.parse().map_err(wrong)?;
                policy = policy.rule(who, actions, &repositories).map_err(wrong)?;
            }
        }
        Ok(policy)
    }
}

fn of(key: impl Into<Cow<'static, str>>, error: &AccessError) -> Mistake {
    Mistake::new(key, error.to_string())
}
