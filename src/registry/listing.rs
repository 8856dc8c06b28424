//! A listing that fetches its pages as they are needed.

use std::fmt;
use std::vec;

use crate::error::Result;
use crate::store::Page;

/// How many entries are fetched at once.
const PAGE: usize = 256;

type Fetch<T> = dyn Fn(Option<&T>, usize) -> Result<Page<T>> + Send + Sync;

/// The entries of a listing, in lexical order, fetched page by page.
///
/// It holds no lock and no snapshot: what comes or goes while it runs may or may not be among its entries; what stays is
/// there exactly once. An error ends it, and so does an unknown repository: it is the first and only entry then.
#[must_use = "a listing fetches nothing until it is iterated"]
pub struct Listing<T> {
    fetch: Box<Fetch<T>>,
    page: vec::IntoIter<T>,
    /// The last entry of the page, for the next page to go on after.
    last: Option<T>,
    more: bool,
}

impl<T: Clone> Listing<T> {
    pub(super) fn new(fetch: impl Fn(Option<&T>, usize) -> Result<Page<T>> + Send + Sync + 'static) -> Self {
        Self { fetch: Box::new(fetch), page: Vec::new().into_iter(), last: None, more: true }
    }
}

impl<T: Clone> Iterator for Listing<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if let Some(entry) = self.page.next() {
            return Some(Ok(entry));
        }
        if !self.more {
            return None;
        }
        match (self.fetch)(self.last.as_ref(), PAGE) {
            Ok(page) => {
                // A page without entries has nothing to go on after.
                self.more = page.more && !page.items.is_empty();
                self.last = page.items.last().cloned();
                self.page = page.items.into_iter();
                self.page.next().map(Ok)
            }
            Err(error) => {
                self.more = false;
                Some(Err(error))
            }
        }
    }
}

impl<T> fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("more", &self.more).finish_non_exhaustive()
    }
}
