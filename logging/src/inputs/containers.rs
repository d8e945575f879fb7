//! Container logs: files `NAMESPACE_POD_UID/CONTAINER/N.log` in CRI's or Docker's JSON format, followed as they grow.
//!
//! Each line is stored together with how far its file was read, so a restart neither loses nor repeats lines, but for parts of
//! a long line that was not complete. Files that were rotated are read to their ends, oldest first, before the one at the path,
//! also when that happened while nobody looked, as long as they still lie beside it uncompressed. Those that went before are
//! counted.

mod format;
mod tail;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::watcher};
use notify::{EventKind, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use pharos_client::{Informer, Key};
use pharos_telemetry::Ctx;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::{
    Result,
    entry::{Entry, Labels, Stream},
    error::io,
    index::Batch,
    inputs::Sink,
    metrics::Source,
    wal::Positions,
};
use tail::Tail;

/// How long changes are gathered before files are read.
const GATHER: Duration = Duration::from_millis(20);

/// A directory is looked at again after this: files may have come before it was watched.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Bytes that are read from one file at a time, and from all before they are stored.
const READ_BYTES: usize = 256 * 1024;
const BATCH_BYTES: usize = 1 << 20;

/// How long a file waits for its pod to be known, for the sake of its labels.
const WAIT_FOR_POD: Duration = Duration::from_millis(500);

/// Paths that changed.
#[derive(Default)]
struct Changes {
    paths: Mutex<BTreeSet<PathBuf>>,
    notify: Notify,
}

/// Starts to follow the files below a directory.
///
/// # Errors
/// When the directory cannot be made or watched.
pub(crate) fn containers<S: Sink>(sink: Arc<S>, root: &Path, client: kube::Client, ctx: &Ctx) -> Result<JoinHandle<()>> {
    fs::create_dir_all(root).map_err(io("make", root))?;
    let changes = Arc::new(Changes::default());
    let told = changes.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // What the kernel dropped is found by looking at everything.
        let event = event.unwrap_or_else(|_| notify::Event::new(EventKind::Other));
        match event.kind {
            EventKind::Access(_) => return,
            _ if event.paths.is_empty() || event.need_rescan() => drop(told.paths.lock().insert(PathBuf::new())),
            _ => told.paths.lock().extend(event.paths),
        }
        told.notify.notify_one();
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    let node = sink.node().to_owned();
    let selector = match node.as_str() {
        "" => watcher::Config::default(),
        node => watcher::Config::default().fields(&format!("spec.nodeName={node}")),
    };
    let pods = Informer::start(ctx, Api::<Pod>::all(client), selector);
    let follower = Follower { positions: sink.positions(), root: root.to_owned(), node, pods, tails: HashMap::new(), lost: 0 };
    let ctx_ = ctx.clone();
    Ok(ctx.spawn("containers", async move {
        let _watcher = watcher; // Watches until dropped.
        follow(follower, &sink, &changes, &ctx_).await;
    }))
}

async fn follow<S: Sink>(mut follower: Follower, sink: &Arc<S>, changes: &Changes, ctx: &Ctx) {
    let mut dirty = BTreeSet::from([PathBuf::new()]);
    // Directories to look at once more, and when.
    let mut again: Option<(Instant, BTreeSet<PathBuf>)> = None;
    loop {
        let mut repeated = BTreeSet::new();
        if dirty.is_empty() {
            let look_again = async {
                match &again {
                    Some((at, _)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ctx.stopped() => return,
                () = look_again => repeated = again.take().map(|(_, paths)| paths).unwrap_or_default(),
                () = changes.notify.notified() => tokio::time::sleep(GATHER).await,
            }
        } else if ctx.is_stopped() {
            return;
        }
        dirty.extend(repeated.iter().cloned());
        dirty.append(&mut std::mem::take(&mut changes.paths.lock()));
        follower.wait_for_pods(&dirty).await;
        let paths = std::mem::take(&mut dirty);
        let pass = tokio::task::spawn_blocking(move || {
            let pass = follower.pass(paths);
            (follower, pass)
        });
        // Fails only when the runtime is going down.
        let Ok((returned, pass)) = pass.await else { return };
        follower = returned;
        sink.metrics().container_files.set(i64::try_from(follower.tails.len()).unwrap_or(i64::MAX));
        sink.metrics().container_lost.inc_by(std::mem::take(&mut follower.lost));
        if !pass.batch.entries.is_empty() || !pass.batch.positions.is_empty() {
            sink.append(Source::Container, pass.batch).await;
        }
        dirty = pass.more;
        let fresh: Vec<_> = pass.again.into_iter().filter(|path| !repeated.contains(path)).collect();
        if !fresh.is_empty() {
            again.get_or_insert_with(|| (Instant::now() + LOOK_AGAIN, BTreeSet::new())).1.extend(fresh);
        }
    }
}

/// All files that are followed.
struct Follower {
    root: PathBuf,
    node: String,
    pods: Informer<Pod>,
    /// As of the start; taken when a file was opened first.
    positions: Positions,
    tails: HashMap<PathBuf, Tail>,
    /// Files that went before they were read.
    lost: u64,
}

/// What one look at changed files gave.
#[derive(Default)]
struct Pass {
    batch: Batch,
    /// Files that have more.
    more: BTreeSet<PathBuf>,
    /// Directories to look at once more, a little later.
    again: BTreeSet<PathBuf>,
}

/// What a path says: `ROOT/NAMESPACE_POD_UID/CONTAINER/N.log`.
#[derive(Debug, PartialEq)]
struct Place {
    namespace: String,
    pod: String,
    container: String,
}

impl Follower {
    /// Gives the pods of files that are new a moment to become known.
    async fn wait_for_pods(&self, paths: &BTreeSet<PathBuf>) {
        let unknown = || {
            let fresh = paths.iter().filter(|path| !self.tails.contains_key(*path));
            fresh.filter_map(|path| Place::of(&self.root, path)).any(|place| self.pods.get(&place.key()).is_none())
        };
        let known = async {
            self.pods.synced().await;
            while unknown() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let needed = paths.contains(Path::new("")) && !self.pods.is_synced() || unknown();
        if needed {
            // A pod that is not known in time is not waited for: its lines lack the label `app`.
            let _ = tokio::time::timeout(WAIT_FOR_POD, known).await;
        }
    }

    /// Reads what changed; blocks on the disk.
    fn pass(&mut self, paths: BTreeSet<PathBuf>) -> Pass {
        let mut pass = Pass::default();
        let mut files = BTreeSet::new();
        for path in paths {
            let path = if path.as_os_str().is_empty() { self.root.clone() } else { path };
            if path == self.root {
                // Files that are gone are forgotten, too.
                files.extend(self.tails.keys().cloned());
                files.extend(self.positions.keys().cloned());
            }
            if path.is_dir() {
                pass.again.extend((path != self.root).then(|| path.clone()));
                find(&path, &mut files);
            } else {
                files.insert(path);
            }
        }
        let mut bytes = 0;
        for path in files {
            let Some(place) = Place::of(&self.root, &path) else { continue };
            if bytes >= BATCH_BYTES {
                pass.more.insert(path);
                continue;
            }
            match self.read(&path, &place, &mut pass.batch) {
                Read::Some(read) => {
                    bytes += read;
                    pass.more.insert(path);
                }
                Read::Nothing => {}
                Read::Gone => {
                    self.tails.remove(&path);
                    self.positions.remove(&path);
                    pass.batch.positions.push((path, None));
                }
            }
        }
        pass
    }

    fn read(&mut self, path: &Path, place: &Place, batch: &mut Batch) -> Read {
        if !self.tails.contains_key(path) {
            let position = self.positions.get(path).copied();
            let known = position.is_some();
            match Tail::open(path, position) {
                Ok(tail) => {
                    self.positions.remove(path);
                    self.tails.insert(path.to_owned(), tail);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return if known { Read::Gone } else { Read::Nothing };
                }
                Err(error) => {
                    tracing::warn!(error = %error, path = %path.display(), "container log cannot be read");
                    return Read::Nothing;
                }
            }
        }
        let app = self.app(place);
        let Some(tail) = self.tails.get_mut(path) else { return Read::Nothing };
        let mut streams: HashMap<&'static str, Arc<Stream>> = HashMap::new();
        let node = &self.node;
        let mut store = |time: i64, stream: &'static str, line: &str| {
            let stream = streams.entry(stream).or_insert_with(|| place.stream(node, app.as_deref(), stream));
            batch.entries.push(Entry::new(time, stream, line, Vec::new()));
        };
        let progress = tail.read(path, READ_BYTES, &mut store);
        self.lost += tail.take_lost();
        match progress {
            Ok(tail::Progress::Read(bytes)) => {
                batch.positions.push((path.to_owned(), Some(tail.position())));
                Read::Some(bytes)
            }
            Ok(tail::Progress::End) => Read::Nothing,
            Ok(tail::Progress::Gone) => Read::Gone,
            // It stays where it is: opened anew, lines would come twice.
            Err(error) => {
                tracing::warn!(error = %error, path = %path.display(), "container log cannot be read");
                Read::Nothing
            }
        }
    }

    /// The pod's label `app.kubernetes.io/name`, or `app`.
    fn app(&self, place: &Place) -> Option<String> {
        let pod = self.pods.get(&place.key())?;
        let labels = pod.metadata.labels.as_ref()?;
        labels.get("app.kubernetes.io/name").or_else(|| labels.get("app")).cloned()
    }
}

enum Read {
    /// So many bytes; there may be more.
    Some(usize),
    Nothing,
    Gone,
}

impl Place {
    fn of(root: &Path, path: &Path) -> Option<Self> {
        let mut parts = path.strip_prefix(root).ok()?.iter().map(|part| part.to_str());
        let (pod, container, file) = (parts.next()??, parts.next()??, parts.next()??);
        let number = file.strip_suffix(".log")?;
        if parts.next().is_some() || number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut pod = pod.split('_');
        let (namespace, name, uid) = (pod.next()?, pod.next()?, pod.next()?);
        if uid.is_empty() {
            return None;
        }
        Some(Self { namespace: namespace.to_owned(), pod: name.to_owned(), container: container.to_owned() })
    }

    fn key(&self) -> Key {
        Key::new(self.namespace.as_str(), self.pod.as_str())
    }

    fn stream(&self, node: &str, app: Option<&str>, stream: &str) -> Arc<Stream> {
        let labels = [
            ("namespace", self.namespace.as_str()),
            ("pod", &self.pod),
            ("container", &self.container),
            ("node", node),
            ("app", app.unwrap_or_default()),
            ("stream", stream),
        ];
        Stream::new(Labels::new(labels))
    }
}

/// The logs below a directory.
fn find(directory: &Path, files: &mut BTreeSet<PathBuf>) {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = file.path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            files.insert(path);
        }
    }
}

#[cfg(test)]
mod tests;
