use jiff::Timestamp;
use pharos_telemetry::{Backoff, Ctx};

use super::*;

/// How long a line may be lost by a power cut. It survives the end of this process at once.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// Splits are merged by this many, up to [`MERGED_BYTES`] of lines.
const MERGE_FACTOR: usize = 8;
const MERGED_BYTES: u64 = 64 << 20;

/// What is to be done next, and when.
enum Next {
    Sync,
    Freeze,
    Retire,
}

impl Index {
    /// Syncs, seals, merges and deletes until told to stop. Sleeps while there is nothing to do.
    pub(crate) async fn maintain(self: Arc<Self>, ctx: Ctx) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            while !self.state.read().frozen.is_empty() && !ctx.is_stopped() {
                let index = self.clone();
                let now = ctx.clock().now();
                match tokio::task::spawn_blocking(move || index.seal(now)).await {
                    Ok(Ok(())) => backoff.reset(),
                    Ok(Err(error)) => {
                        self.metrics.seal_errors.inc();
                        tracing::error!(error = %chain(&error), "head could not be sealed");
                        tokio::select! {
                            () = ctx.stopped() => break,
                            () = tokio::time::sleep(backoff.next_wait()) => {}
                        }
                    }
                    Err(_) => break, // The runtime is going down.
                }
            }
            let next = self.next(ctx.clock().now());
            let sleep = async {
                match &next {
                    Some((_, at)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ctx.stopped() => break,
                () = self.work.notified() => {
                    // More may come; what is due is decided again.
                    continue;
                }
                () = sleep => {}
            }
            let index = self.clone();
            let now = ctx.clock().now();
            let done = tokio::task::spawn_blocking(move || match next {
                Some((Next::Sync, _)) => index.sync(),
                Some((Next::Freeze, _)) => index.freeze(&mut index.log.lock()),
                Some((Next::Retire, _)) => index.retire(now),
                None => {}
            });
            let _ = done.await;
        }
        let index = self.clone();
        let _ = tokio::task::spawn_blocking(move || index.sync()).await;
    }

    fn next(&self, now: Timestamp) -> Option<(Next, Instant)> {
        let sync = self.log.lock().unsynced_since.map(|since| (Next::Sync, since + SYNC_AFTER));
        let state = self.state.read();
        let freeze = state.head.since.map(|since| (Next::Freeze, since + Duration::from_secs(self.config.head_seconds)));
        let retire =
            (self.config.retention_seconds > 0).then(|| state.splits.iter().map(|split| split.meta.max_time).min()).flatten();
        let retire = retire.map(|oldest| {
            let age = now.as_nanosecond() - i128::from(oldest);
            let left = i128::from(self.config.retention_seconds) * 1_000_000_000 - age;
            (
                Next::Retire,
                Instant::now() + Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX)) + Duration::from_secs(1),
            )
        });
        [sync, freeze, retire].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    fn sync(&self) {
        let mut log = self.log.lock();
        log.unsynced_since = None;
        if let Err(error) = log.wal.sync() {
            self.metrics.wal_errors.inc();
            tracing::error!(error = %chain(&error), "write-ahead log could not be synced");
        }
        self.metrics.wal_bytes.set(i64::try_from(log.wal.length()).unwrap_or(i64::MAX));
    }

    /// Seals the oldest frozen head; blocks on the disk.
    pub(super) fn seal(&self, now: Timestamp) -> Result<()> {
        let (frozen, number) = {
            let mut state = self.state.write();
            let Some(frozen) = state.frozen.first().cloned() else { return Ok(()) };
            state.next_split += 1;
            (frozen, state.next_split - 1)
        };
        let timer = self.metrics.seal_seconds.start_timer();
        let split = match Split::write(&self.config.data_dir, number, &frozen.entries, &frozen.wal) {
            Ok(split) => split,
            Err(error) => {
                timer.stop_and_discard();
                // Room for new lines is worth more than old ones.
                if is_full(&error) {
                    self.drop_oldest("disk_full");
                }
                return Err(error);
            }
        };
        timer.observe_duration();
        {
            let mut state = self.state.write();
            state.frozen.remove(0);
            state.insert(Arc::new(split));
        }
        self.room.notify_waiters();
        Wal::forget(&self.config.data_dir.join("wal"), &frozen.wal)?;
        self.retire(now);
        self.merge()?;
        self.measure();
        Ok(())
    }

    /// Deletes what is too old or too much.
    pub(super) fn retire(&self, now: Timestamp) {
        let keep = i128::from(self.config.retention_seconds) * 1_000_000_000;
        let expired = |split: &Split| keep > 0 && now.as_nanosecond() - i128::from(split.meta.max_time) > keep;
        while self.take_out("age", |splits| splits.iter().position(|split| expired(split))) {}
        let most = self.config.retention_bytes;
        let over = |splits: &[Arc<Split>]| most > 0 && splits.iter().map(|split| split.disk_bytes).sum::<u64>() > most;
        while self.take_out("bytes", |splits| if over(splits) { oldest(splits) } else { None }) {}
        self.measure();
    }

    fn drop_oldest(&self, reason: &str) {
        self.take_out(reason, oldest);
    }

    fn take_out(&self, reason: &str, choose: impl Fn(&[Arc<Split>]) -> Option<usize>) -> bool {
        let split = {
            let mut state = self.state.write();
            let Some(at) = choose(&state.splits) else { return false };
            state.splits.remove(at)
        };
        self.metrics.retired.with_label_values(&[reason]).inc_by(split.meta.lines);
        tracing::info!(reason, lines = split.meta.lines, "old lines deleted");
        split.doom();
        true
    }

    /// Merges small splits that follow each other.
    fn merge(&self) -> Result<()> {
        loop {
            let (group, number) = {
                let mut state = self.state.write();
                let Some(group) = mergeable(&state.splits) else { return Ok(()) };
                state.next_split += 1;
                (group, state.next_split - 1)
            };
            let merged = Arc::new(Split::merge(&self.config.data_dir, number, &group)?);
            let mut state = self.state.write();
            state.splits.retain(|split| !group.iter().any(|merged| merged.number == split.number));
            state.insert(merged);
            drop(state);
            group.iter().for_each(|split| split.doom());
        }
    }
}

impl State {
    fn insert(&mut self, split: Arc<Split>) {
        let at = self.splits.partition_point(|other| other.meta.min_time <= split.meta.min_time);
        self.splits.insert(at, split);
    }
}

fn oldest(splits: &[Arc<Split>]) -> Option<usize> {
    (0..splits.len()).min_by_key(|at| splits[*at].meta.max_time)
}

/// The first run of splits of about one size that is worth merging: each size class is merged once it has [`MERGE_FACTOR`].
fn mergeable(splits: &[Arc<Split>]) -> Option<Vec<Arc<Split>>> {
    let class = |split: &Split| split.meta.bytes.max(1).ilog2() / MERGE_FACTOR.ilog2();
    let mut run: Vec<Arc<Split>> = Vec::new();
    for split in splits {
        let fits = run.first().is_none_or(|first| class(first) == class(split));
        let bytes = run.iter().map(|split| split.meta.bytes).sum::<u64>() + split.meta.bytes;
        if !fits || bytes > MERGED_BYTES {
            run.clear();
        }
        if split.meta.bytes <= MERGED_BYTES / 2 {
            run.push(split.clone());
        }
        if run.len() == MERGE_FACTOR {
            return Some(run);
        }
    }
    None
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::StorageFull)
}
