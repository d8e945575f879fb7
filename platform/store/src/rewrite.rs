//! Writes encrypted values again, so that they are under the newest encryption key.

use std::time::Duration;

use crate::{Entry, Error, Expect, Op, Range, Result, Store};

/// Entries read at once.
const PAGE: usize = 500;

/// Writes every value that is encrypted at rest again, each as it is, and retires all but the newest key. Objects get new
/// revisions, as upstream's when they are stored under another key. Returns how many were written.
///
/// # Errors
///
/// [`Error::Invalid`] in a stage of a rotation that does not allow it; those of the store, with what was written left so.
pub async fn reencrypt(store: &dyn Store, now_unix_seconds: i64) -> Result<u64> {
    let keyring = store.keyring().clone();
    let rewriting = keyring.begin_rewriting()?;
    let mut written = 0;
    for prefix in keyring.prefixes() {
        let mut start = None;
        loop {
            let range = Range { prefix: prefix.clone(), start: start.take(), limit: PAGE, at: None };
            let page = store.list(range).await?;
            start = page.entries.last().filter(|_| page.remaining > 0).map(|last| format!("{}\0", last.key));
            for entry in page.entries {
                written += u64::from(write(store, entry, now_unix_seconds).await?);
            }
            if start.is_none() {
                break;
            }
        }
    }
    rewriting.finish()?;
    Ok(written)
}

/// Writes a value as it is. False: somebody else wrote or deleted it meanwhile.
async fn write(store: &dyn Store, entry: Entry, now_unix_seconds: i64) -> Result<bool> {
    let left = entry.expires_unix_seconds.map(|at| Duration::from_secs(u64::try_from(at - now_unix_seconds).unwrap_or(0).max(1)));
    let (key, value, expect) = (entry.key.clone(), entry.value(), Expect::Revision(entry.revision));
    match store.commit(vec![Op::Put { key, value, expect, ttl: left }]).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
