//! What a server's clients get of it.

use clap::Args;
use serde::{Deserialize, Serialize};
use sledge::server::ServerOptions;

use super::Mistake;
use crate::values::{Size, Time};

/// Limits.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitSettings {
    /// How many connections there are at once; more wait; 0 for any number [default: 512]
    #[arg(long, value_name = "N", env = "SLEDGE_CONNECTIONS")]
    connections: Option<usize>,
    /// How many of these one client has, by its address; more are closed [default: any number]
    #[arg(long, value_name = "N", env = "SLEDGE_CONNECTIONS_PER_CLIENT")]
    connections_per_client: Option<usize>,
    /// How many requests that push one client has in flight; more are answered with 429 [default: any number]
    #[arg(long, value_name = "N", env = "SLEDGE_UPLOADS_PER_CLIENT")]
    uploads_per_client: Option<usize>,
    /// How many requests a second one client makes in the long run; more are answered with 429 [default: any number]
    #[arg(long, value_name = "N", env = "SLEDGE_REQUESTS_PER_CLIENT")]
    requests_per_client: Option<u32>,
    /// How many of these may come at once after it was quiet [default: ten seconds' worth]
    #[arg(long, value_name = "N", env = "SLEDGE_REQUESTS_AT_ONCE")]
    requests_at_once: Option<u32>,
    /// How long requests in flight may take after the server was told to stop [default: 30s]
    #[arg(long, value_name = "TIME", env = "SLEDGE_DRAIN_LIMIT")]
    drain_limit: Option<Time>,
    /// How long a client may take to send a request's head [default: 60s]
    #[arg(long, value_name = "TIME", env = "SLEDGE_HEADER_LIMIT")]
    header_limit: Option<Time>,
    /// How long a client may send nothing in the middle of a body, or take nothing of an answer [default: 120s]
    #[arg(long, value_name = "TIME", env = "SLEDGE_SILENCE_LIMIT")]
    silence_limit: Option<Time>,
    /// How many bytes a request's head may have, 8KiB at least [default: 64KiB]
    #[arg(long, value_name = "SIZE", env = "SLEDGE_HEADER_BYTES")]
    header_bytes: Option<Size>,
}

impl LimitSettings {
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            connections: self.connections.or(others.connections),
            connections_per_client: self.connections_per_client.or(others.connections_per_client),
            uploads_per_client: self.uploads_per_client.or(others.uploads_per_client),
            requests_per_client: self.requests_per_client.or(others.requests_per_client),
            requests_at_once: self.requests_at_once.or(others.requests_at_once),
            drain_limit: self.drain_limit.or(others.drain_limit),
            header_limit: self.header_limit.or(others.header_limit),
            silence_limit: self.silence_limit.or(others.silence_limit),
            header_bytes: self.header_bytes.or(others.header_bytes),
        }
    }

    pub(super) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.requests_at_once.is_some() && self.requests_per_client.is_none() {
            let says = "at what rate requests may come is not said: give `requests-per-client` too";
            mistakes.push(Mistake::new("limits.requests-at-once", says));
        }
        if let Some(Size(bytes)) =
            self.header_bytes.filter(|Size(bytes)| !(8 << 10..=1 << 20).contains(bytes))
        {
            let says =
                format!("{bytes} bytes are too few or too many for a request's head: from 8KiB to 1MiB");
            mistakes.push(Mistake::new("limits.header-bytes", says));
        }
        for (key, time) in
            [("limits.header-limit", self.header_limit), ("limits.silence-limit", self.silence_limit)]
        {
            if time.is_some_and(|Time(time)| time.is_zero()) {
                mistakes.push(Mistake::new(key, "no time at all is too little for any client"));
            }
        }
        mistakes
    }

    pub(crate) fn options(&self) -> ServerOptions {
        let mut options = ServerOptions::new();
        if let Some(most) = self.connections {
            options = options.connections(most);
        }
        if let Some(most) = self.connections_per_client {
            options = options.connections_per_client(most);
        }
        if let Some(most) = self.uploads_per_client {
            options = options.uploads_per_client(most);
        }
        if let Some(rate) = self.requests_per_client {
            options =
                options.requests_per_client(rate, self.requests_at_once.unwrap_or(rate.saturating_mul(10)));
        }
        if let Some(Time(limit)) = self.drain_limit {
            options = options.drain_limit(limit);
        }
        if let Some(Time(limit)) = self.header_limit {
            options = options.header_limit(limit);
        }
        if let Some(Time(limit)) = self.silence_limit {
            options = options.silence_limit(limit);
        }
        if let Some(Size(bytes)) = self.header_bytes {
            options = options.header_bytes(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        options
    }
}
