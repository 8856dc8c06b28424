//! The distribution-spec as a table: a request, its answer, and what in the spec that rests on.

mod check;
mod coverage;
mod discover;
mod errors;
mod manage;
mod manifests;
mod pull;
mod row;
mod scene;
mod uploads;

/// All rows. They are independent of each other.
fn rows() -> Vec<row::Row> {
    [pull::rows(), uploads::rows(), manifests::rows(), discover::rows(), manage::rows(), errors::rows()]
        .into_iter()
        .flatten()
        .collect()
}
