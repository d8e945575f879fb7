//! The one watch that feeds all caches of this process: everything under the prefix, in order.
//!
//! It is taken up again after the last event when it breaks off, with growing pauses. When what it missed is compacted, or
//! etcd was set back to an older state, every sink gets its state anew.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::sleep;

use super::codec::{Raw, revision, signed};
use super::{Core, client};
use crate::{Error, Event, Result, Revision};

/// Until a watch that broke off is taken up again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a response of a watch says.
pub(super) enum Told {
    /// Events, and that everything up to the revision was told.
    Events(Vec<Arc<Event>>, Revision),
    /// The watch is established.
    Created,
    /// Everything up to a revision was told.
    Progress(Revision),
}

/// Feeds until it is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut pause = PAUSES.0;
    loop {
        let mut established = false;
        let ended = follow(&core, &mut established).await;
        if established {
            pause = PAUSES.0;
        }
        let error = match ended {
            Err(Error::Compacted { .. }) => match relist(&core).await {
                Ok(()) => continue,
                Err(error) => error,
            },
            Err(error) => error,
            Ok(()) => Error::Backend("etcd ended the watch".to_owned()),
        };
        core.set_trouble(Some(error));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Feeds until the watch ends.
async fn follow(core: &Core, established: &mut bool) -> Result<()> {
    let after = *core.revisions.borrow();
    // A watch from a future revision would wait in silence.
    let newest = core.header_revision().await?;
    if newest < after {
        tracing::warn!(before = after, now = newest, "etcd was set back to an older state, reading everything anew");
        return Err(Error::Compacted { requested: after, oldest: newest });
    }
    let mut watch = watch(core, "", after).await?;
    loop {
        let response = tokio::select! {
            response = watch.message() => response,
            () = core.progress_wanted.notified() => {
                watch.request_progress().await.map_err(|error| Error::Backend(error.to_string()))?;
                continue;
            }
        };
        let response = response.map_err(|error| Error::Backend(error.to_string()))?;
        let Some(response) = response else { return Ok(()) };
        match read(core, &response)? {
            Told::Events(events, revision) => core.publish(&events, revision),
            Told::Progress(revision) => core.publish(&[], revision),
            Told::Created => {
                *established = true;
                core.set_trouble(None);
            }
        }
    }
}

/// Watches what starts with a prefix, after a revision.
pub(super) async fn watch(core: &Core, prefix: &str, after: Revision) -> Result<WatchStream> {
    let (start, end) = core.codec.range(prefix, None)?;
    let options = WatchOptions::new().with_range(end).with_start_revision(signed(after + 1)).with_prev_key();
    core.calls.watch(&start, options.with_progress_notify()).await
}

/// Reads a response. [`Error::Compacted`] if what must follow is gone.
pub(super) fn read(core: &Core, response: &WatchResponse) -> Result<Told> {
    if response.canceled() {
        return Err(match response.compact_revision() {
            0 => Error::Backend(format!("etcd ended the watch: {}", response.cancel_reason())),
            oldest => Error::Compacted { requested: 0, oldest: revision(oldest) },
        });
    }
    if response.created() {
        return Ok(Told::Created);
    }
    if response.events().is_empty() {
        return Ok(Told::Progress(client::header_revision(response.header())?));
    }
    let mut events = Vec::with_capacity(response.events().len());
    let mut reached = 0;
    for event in response.events() {
        let kv = event.kv().ok_or_else(|| Error::Backend("an event names no key".to_owned()))?;
        let at = revision(kv.mod_revision());
        reached = reached.max(at);
        let Some(key) = core.codec.decode_key(kv.key())? else { continue };
        let previous = event.prev_kv().map(|kv| core.codec.decode(Raw::from(kv))).transpose()?.flatten();
        let is_deletion = event.event_type() == EventType::Delete;
        if previous.is_none() && (is_deletion || kv.version() > 1) {
            // As upstream (`etcd3/event.go`): without the state before, an event can't be told. It is gone by compaction.
            return Err(Error::Compacted { requested: at, oldest: at });
        }
        let current = if is_deletion { None } else { core.codec.decode(Raw::from(kv))? };
        events.push(Arc::new(Event { revision: at, key, current, previous }));
    }
    Ok(Told::Events(events, reached))
}

/// Gives every sink its state anew.
async fn relist(core: &Core) -> Result<()> {
    let at = core.header_revision().await?;
    tracing::warn!(revision = at, "events were missed, reading everything anew");
    // Who joins from here on reads its state later than this.
    let routes = core.routes.lock().all();
    for (prefix, sinks) in routes {
        let page = core.list(&crate::Range { prefix, at: Some(at), ..crate::Range::default() }).await?;
        for sink in sinks {
            sink.reset(page.revision, page.entries.clone());
        }
    }
    core.revisions.send_replace(at);
    Ok(())
}
