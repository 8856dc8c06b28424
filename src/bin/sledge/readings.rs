//! What metrics tell of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use sledge::server::{Reading, Tls};
use sledge::store::sled::Sled;

use crate::events::Counts;
use crate::live::Reloads;

/// The store's numbers, which it counts as they change.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers; no store has 2^53 bytes")]
pub(crate) fn of(
    store: &Sled,
    events: Option<&Counts>,
    reloads: &Reloads,
    tls: Option<&Tls>,
) -> Vec<Reading> {
    let usage = match store.usage() {
        Ok(usage) => usage,
        Err(error) => {
            tracing::warn!(%error, "metrics are without the store's numbers");
            return Vec::new();
        }
    };
    let mut readings = vec![
        Reading::gauge("store_blobs", "Blobs, each counted once", usage.blobs as f64),
        Reading::gauge("store_blob_bytes", "Bytes of blobs, each counted once", usage.blob_bytes as f64),
        Reading::gauge("store_manifests", "Manifests", usage.manifests as f64),
        Reading::gauge("store_file_bytes", "Bytes that content takes in files", usage.in_files as f64),
        Reading::gauge("store_index_bytes", "Bytes that the index takes", usage.in_index as f64),
        Reading::gauge("store_upload_bytes", "Bytes of open upload sessions", usage.in_uploads as f64),
        Reading::gauge("store_rest_bytes", "Bytes of reserve and quarantine", usage.in_rest as f64),
        Reading::gauge("store_held_back_bytes", "Bytes that wait to be collected", usage.held_back as f64),
    ];
    if let (Some(budget), Some(free)) = (usage.budget, usage.free) {
        readings.push(Reading::gauge(
            "store_budget_bytes",
            "The most that the data folder takes",
            budget as f64,
        ));
        readings.push(Reading::gauge("store_free_bytes", "Bytes that may still be pushed", free as f64));
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    readings.push(Reading::counter("reloads", "Changed settings and files taken in", count(&reloads.taken)));
    readings.push(Reading::counter(
        "reloads_refused",
        "Changes that were not taken in",
        count(&reloads.refused),
    ));
    if let Some(Ok(expiry)) = tls.map(|tls| tls.not_after().duration_since(UNIX_EPOCH)) {
        let help = "When the server's certificate expires, in seconds since 1970";
        readings.push(Reading::gauge("certificate_expiry_seconds", help, expiry.as_secs() as f64));
    }
    if let Some(counts) = events {
        readings.extend([
            Reading::gauge(
                "events_waiting",
                "Events that a receiver has not taken",
                store.events_waiting() as f64,
            ),
            Reading::counter("events_sent", "Requests that receivers took", count(&counts.taken)),
            Reading::counter("events_failed", "Requests to receivers that failed", count(&counts.failed)),
            Reading::counter(
                "events_missing",
                "Events let go before receivers had them",
                count(&counts.missing),
            ),
            Reading::counter("events_pulls_untold", "Pulls without an event", count(&counts.untold)),
        ]);
    }
    readings
}
