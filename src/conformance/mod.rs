//! A suite of the [contract's](crate::store) rules for any [`Store`], for people who write one of their own.
//!
//! Each rule is a function that panics where the rule is broken, and [`RULES`] is the table of all. Every call uses
//! repositories and content of its own, so all rules can run on one store, in any order, repeatedly.
//!
//! What the suite cannot see through the traits: what a power cut leaves (C4), and what a commit costs (C10).
//!
//! ```
//! use std::sync::Arc;
//! use sledge::conformance::{Harness, RULES};
//! use sledge::store::{Store, memory::Memory};
//!
//! struct InMemory(Memory);
//!
//! impl Harness for InMemory {
//!     fn store(&self) -> Arc<dyn Store> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn restart(&self) -> bool {
//!         false
//!     }
//!     fn impatient(&self) -> Option<Arc<dyn Store>> {
//!         Some(Arc::new(Memory::with_writer_silence(std::time::Duration::ZERO)))
//!     }
//! }
//!
//! for rule in RULES.iter().filter(|rule| rule.name.starts_with("pull::")) {
//!     (rule.check)(&InMemory(Memory::new()));
//! }
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a suite of tests stops at the first surprise"
)]

use std::fmt;
use std::sync::Arc;

use crate::store::Store;

pub mod discover;
pub mod manage;
pub mod pull;
pub mod push;
mod scene;
pub mod uploads;

/// What the suite needs to know of the store that it checks.
pub trait Harness: Send + Sync {
    /// A handle to the store: to the same one at each call, until [`Harness::restart`].
    fn store(&self) -> Arc<dyn Store>;

    /// Stops the store and opens it again, as a restart of the process does; `false` where nothing outlives the process.
    /// The rule that calls it holds no handle then. Rules that run at the same time may: a harness that is used so
    /// answers `false`, or gives this rule a store of its own.
    fn restart(&self) -> bool;

    /// A store, this one or an empty one, whose upload sessions take any writer for silent (C7); `None` where the limit
    /// cannot be set.
    fn impatient(&self) -> Option<Arc<dyn Store>>;
}

/// One rule of the suite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The function's name, with its module.
    pub name: &'static str,
    /// Panics where the rule is broken.
    pub check: fn(&dyn Harness),
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.name)
    }
}

macro_rules! rules {
    ($($module:ident: $($rule:ident)+;)+) => {
        &[$($(Rule {
            name: concat!(stringify!($module), "::", stringify!($rule)),
            check: $module::$rule,
        },)+)+]
    };
}

/// All rules. Run each by its name, so that a report tells which are broken.
pub const RULES: &[Rule] = rules! {
    pull:
        blobs_of_every_size_come_back
        a_sha512_blob_is_known_by_that_digest
        manifests_come_back_byte_for_byte
        a_manifest_keeps_the_algorithm_of_its_digest
        what_is_not_there_is_unknown
        an_open_blob_never_shows_other_bytes
        a_blob_is_readable_only_where_it_is_linked
        names_of_full_length_work
        neighbouring_names_are_kept_apart
        what_is_at_hand_is_what_is_there;
    push:
        all_missing_references_are_reported
        references_count_only_in_their_own_repository
        references_may_be_absent_on_request
        non_distributable_layers_may_be_absent
        a_subject_may_be_absent
        indexes_nest_and_may_be_empty
        ten_thousand_references_are_one_manifest
        the_largest_manifest_is_accepted
        what_is_no_manifest_is_refused
        putting_a_manifest_again_sets_its_tags
        many_tags_are_set_at_once
        the_longest_tags_are_taken_from_as_many_manifests
        too_many_tags_set_none
        a_tag_moves
        a_tag_needs_a_manifest
        conditions_hold_for_every_tag_or_nothing_is_written
        conditions_hold_for_a_single_tag
        a_pinned_tag_is_set_once
        of_racing_first_writers_one_wins
        of_racing_replacements_one_wins;
    uploads:
        nothing_is_visible_before_the_commit
        a_wrong_digest_ends_the_session
        a_dropped_upload_is_resumed_where_it_stood
        a_suspended_upload_outlives_a_restart
        what_was_committed_outlives_a_restart
        what_a_session_took_in_can_be_read_again
        the_commit_decides_on_the_algorithm
        an_algorithm_can_be_announced_late
        a_stated_size_is_a_hint
        cancelling_is_idempotent
        a_session_is_cancelled_under_its_writer
        a_session_belongs_to_its_repository
        a_second_writer_is_refused
        a_silent_writer_is_replaced
        sessions_for_one_digest_both_succeed
        concurrent_sessions_for_one_digest_all_succeed
        a_blob_is_as_old_as_its_first_commit;
    discover:
        tags_are_listed_in_order_and_by_pages
        a_page_of_none_is_the_last
        listing_goes_on_after_a_name_that_is_gone
        listings_tolerate_change
        repositories_are_those_that_hold_anything
        manifests_are_listed_by_digest
        referrers_are_listed_with_type_and_annotations
        referrers_are_filtered_and_paged
        referrers_of_nothing_are_none
        listing_an_unknown_repository_says_so;
    manage:
        deleting_a_tag_leaves_the_manifest
        deleting_a_manifest_removes_its_tags
        a_pinned_tag_keeps_its_manifest
        a_manifest_and_its_tags_vanish_at_once
        an_index_outlives_its_children
        a_deleted_referrer_is_not_listed
        deleting_what_is_not_there_says_so
        deleting_a_blob_unlinks_it_here_only
        content_can_be_pushed_again_after_deletion
        a_repository_ends_with_its_last_content
        a_mount_links_without_bytes
        a_mount_needs_a_source_that_links_the_blob
        a_mount_from_anywhere_asks_for_admission;
};

/// Checks every rule, one after another.
///
/// # Panics
/// Where a rule is broken, with its reason; the rules after it are not looked at.
pub fn all(harness: &dyn Harness) {
    for rule in RULES {
        (rule.check)(harness);
    }
}
