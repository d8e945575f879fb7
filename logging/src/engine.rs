//! Answers a query from the index.

mod logs; // Lines,
mod range; // numbers of them
mod metric; // and what is computed from those.
mod vector;

pub(crate) use logs::{Found, LogQuery, logs, logs_and_following};
pub(crate) use metric::{Evaluation, Series, Value};

use std::ops::ControlFlow;

use crate::{
    Error,
    index::{Chunk, Index},
    scan::{Raw, Scan},
};

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// It asks for what cannot be.
    #[error("{0}")]
    Bad(String),
    /// It took too long.
    #[error("the query timed out: it did not finish within {0} seconds; ask for less time or fewer streams")]
    Late(u64),
    /// The index failed.
    #[error("read the log index")]
    Index(#[from] Error),
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) kept: u64,
}

/// Scans parts of the index one after the other, until told to stop, and fails if it takes too long.
fn scan_all(
    index: &Index,
    scan: &Scan<'_>,
    chunks: &[Chunk],
    sink: &mut dyn FnMut(Raw<'_>) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    let late = || QueryError::Late(index.config.query_timeout_seconds);
    let mut seen = 0_u32;
    for chunk in chunks {
        if scan.is_late() {
            return Err(late());
        }
        let mut counted = |raw: Raw<'_>| {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(1024) && scan.is_late() { ControlFlow::Break(()) } else { sink(raw) }
        };
        if chunk.scan(scan, &mut counted)?.is_break() {
            return if scan.is_late() { Err(late()) } else { Ok(()) };
        }
    }
    Ok(())
}
