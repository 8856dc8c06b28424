//! Tests of what only the inside shows.
