//! A split: lines of some stretch of time, sealed as one tantivy segment in a directory of its own.
//!
//! `NNNNNNNN.split/` holds tantivy's files and `split.json`, a [`Meta`]. Documents are in order of time, so a document's number
//! is its place. Fields:
//!
//! | field | |
//! |---|---|
//! | `time` | i64, fast: nanoseconds |
//! | `stream` | u64, fast: the identity of the stream, whose labels are in `split.json` |
//! | `level` | u64, fast: the detected level |
//! | `size` | u64, fast: the line's bytes, so that counting needs no lines |
//! | `line` | text, stored and indexed by the tokenizer of [`tokens`] |
//! | `metadata` | bytes, stored: JSON pairs; absent when empty |
//!
//! A split is written in `tmp-…` and renamed when it is whole; nothing in it changes after.

mod reader;
pub(crate) mod tokens;

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tantivy::{
    Index, IndexSettings, TantivyDocument, TantivyError,
    directory::MmapDirectory,
    schema::{FAST, Field, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions},
    store::Compressor,
};

use crate::{
    Error, Result,
    entry::{Entry, Labels, Stream},
    error::io,
    scan::{Raw, Scan},
};
use reader::Reader;
use tokens::TOKENIZER;

const META: &str = "split.json";
const FORMAT: u32 = 1;

/// Sizes the hash table of terms; the arena behind it grows with the lines, which the head bounds.
const WRITER_BYTES: usize = 3_000_000;

/// What is known of a split without opening it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Meta {
    format: u32,
    /// The first line's time and the last's.
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) lines: u64,
    /// Of lines, as they came.
    pub(crate) bytes: u64,
    /// The segments of the write-ahead log that it holds.
    pub(crate) wal: Vec<u64>,
    /// Whether any line has metadata.
    metadata: bool,
    /// The splits it was merged from, which it stands for.
    pub(crate) replaces: Vec<u64>,
    pub(crate) streams: Vec<StreamMeta>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StreamMeta {
    pub(crate) labels: Labels,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
}

/// A sealed split.
pub(crate) struct Split {
    pub(crate) number: u64,
    pub(crate) meta: Meta,
    /// In the order of `meta.streams`.
    pub(crate) streams: Vec<Arc<Stream>>,
    /// On disk.
    pub(crate) disk_bytes: u64,
    directory: PathBuf,
    /// Opened by the first query, closed when others were used more recently.
    reader: Mutex<Option<Arc<Reader>>>,
    /// Deleted from disk when the last query is done with it.
    doomed: AtomicBool,
}

/// Where the fields are; the same in every split of this format.
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    time: Field,
    stream: Field,
    level: Field,
    size: Field,
    line: Field,
    metadata: Field,
}

impl Fields {
    fn schema() -> (Schema, Self) {
        let mut builder = Schema::builder();
        let line = TextFieldIndexing::default()
            .set_tokenizer(TOKENIZER)
            .set_index_option(IndexRecordOption::Basic)
            .set_fieldnorms(false);
        let fields = Self {
            time: builder.add_i64_field("time", FAST),
            stream: builder.add_u64_field("stream", FAST),
            level: builder.add_u64_field("level", FAST),
            size: builder.add_u64_field("size", FAST),
            line: builder.add_text_field("line", TextOptions::default().set_indexing_options(line).set_stored()),
            metadata: builder.add_bytes_field("metadata", STORED),
        };
        (builder.build(), fields)
    }
}

// === impl Split ===

impl Split {
    /// Writes entries, in order of time, as split `number`.
    pub(crate) fn write(root: &Path, number: u64, entries: &[Arc<Entry>], wal: &[u64]) -> Result<Self> {
        let temporary = root.join(format!("tmp-{number:08}"));
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&temporary).map_err(io("make", &temporary))?;
        index(&temporary, entries).map_err(failed("write", &temporary))?;
        Self::publish(root, &temporary, number, &Meta::of(entries, wal))
    }

    /// Merges splits into one, in order of time.
    pub(crate) fn merge(root: &Path, number: u64, splits: &[Arc<Split>]) -> Result<Self> {
        let temporary = root.join(format!("tmp-{number:08}"));
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&temporary).map_err(io("make", &temporary))?;
        merge(&temporary, splits).map_err(failed("merge", &temporary))?;
        Self::publish(root, &temporary, number, &Meta::merged(splits))
    }

    fn publish(root: &Path, temporary: &Path, number: u64, meta: &Meta) -> Result<Self> {
        let path = temporary.join(META);
        let json = serde_json::to_vec(meta).map_err(|source| Error::Meta { path: path.clone(), source })?;
        fs::write(&path, json).and_then(|()| fs::File::open(&path)?.sync_all()).map_err(io("write", &path))?;
        sync_directory(temporary)?;
        let directory = root.join(format!("{number:08}.split"));
        fs::rename(temporary, &directory).map_err(io("rename", &directory))?;
        sync_directory(root)?;
        Self::open(&directory, number)
    }

    /// Reads a split's description.
    pub(crate) fn open(directory: &Path, number: u64) -> Result<Self> {
        let path = directory.join(META);
        let json = fs::read(&path).map_err(io("read", &path))?;
        let meta: Meta = serde_json::from_slice(&json).map_err(|source| Error::Meta { path, source })?;
        let streams = meta.streams.iter().map(|stream| Stream::exactly(stream.labels.clone())).collect();
        let disk_bytes = disk_bytes(directory).map_err(io("measure", directory))?;
        Ok(Self {
            number,
            meta,
            streams,
            disk_bytes,
            directory: directory.to_owned(),
            reader: Mutex::default(),
            doomed: AtomicBool::new(false),
        })
    }

    /// All splits of a directory, in order of time; what a crash left unfinished or behind is removed.
    pub(crate) fn open_all(root: &Path) -> Result<Vec<Arc<Self>>> {
        fs::create_dir_all(root).map_err(io("make", root))?;
        let mut splits: Vec<Self> = Vec::new();
        for file in fs::read_dir(root).map_err(io("read", root))? {
            let path = file.map_err(io("read", root))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("tmp-") || name.starts_with("del-") {
                fs::remove_dir_all(&path).map_err(io("remove", &path))?;
            } else if let Some(number) = name.strip_suffix(".split").and_then(|number| number.parse().ok()) {
                match Self::open(&path, number) {
                    Ok(split) => splits.push(split),
                    // One bad split must not hide the others.
                    Err(error) => tracing::error!(error = %chain(&error), "split left out"),
                }
            }
        }
        let replaced: Vec<u64> = splits.iter().flat_map(|split| split.meta.replaces.iter().copied()).collect();
        let (gone, mut kept): (Vec<_>, Vec<_>) = splits.into_iter().partition(|split| replaced.contains(&split.number));
        gone.iter().try_for_each(Self::remove)?;
        kept.sort_by_key(|split| (split.meta.min_time, split.number));
        Ok(kept.into_iter().map(Arc::new).collect())
    }

    /// Has it deleted from disk once nothing uses it.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    fn remove(&self) -> Result<()> {
        let doomed = self.directory.with_file_name(format!("del-{:08}", self.number));
        match fs::rename(&self.directory, &doomed) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(io("rename", &self.directory))?,
        }
        fs::remove_dir_all(&doomed).map_err(io("remove", &doomed))
    }

    /// Whether it may hold lines of a time.
    pub(crate) fn overlaps(&self, start: i64, end: i64) -> bool {
        self.meta.min_time < end && self.meta.max_time >= start
    }

    /// Hands over lines in order of time until told to stop.
    pub(crate) fn scan(&self, scan: &Scan<'_>, sink: &mut dyn FnMut(Raw<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let streams: Vec<_> = self.streams.iter().filter(|stream| (scan.streams)(&stream.labels)).collect();
        if streams.is_empty() || !self.overlaps(scan.start, scan.end) {
            return Ok(ControlFlow::Continue(()));
        }
        let reader = self.reader()?;
        reader.scan(&streams, scan.lines || self.meta.metadata, scan, sink).map_err(failed("read", &self.directory))
    }

    fn reader(&self) -> Result<Arc<Reader>> {
        let mut slot = self.reader.lock();
        if let Some(reader) = &*slot {
            return Ok(reader.clone());
        }
        let reader = Arc::new(Reader::open(&self.directory).map_err(failed("open", &self.directory))?);
        *slot = Some(reader.clone());
        Ok(reader)
    }

    /// Closes its files, once queries are done with them.
    pub(crate) fn close(&self) {
        *self.reader.lock() = None;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.reader.lock().is_some()
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Err(error) = self.remove()
        {
            tracing::warn!(error = %chain(&error), "old split could not be removed");
        }
    }
}

impl Meta {
    fn of(entries: &[Arc<Entry>], wal: &[u64]) -> Self {
        let mut streams: BTreeMap<u64, StreamMeta> = BTreeMap::new();
        for entry in entries {
            let one = StreamMeta {
                labels: Labels::default(),
                lines: 1,
                bytes: entry.line.len() as u64,
                min_time: entry.time,
                max_time: entry.time,
            };
            match streams.entry(entry.stream.id) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(StreamMeta { labels: entry.stream.labels.clone(), ..one });
                }
                std::collections::btree_map::Entry::Occupied(occupied) => occupied.into_mut().add(&one),
            }
        }
        let metadata = entries.iter().any(|entry| !entry.metadata.is_empty());
        Self { metadata, wal: wal.to_vec(), ..Self::total(streams) }
    }

    fn merged(splits: &[Arc<Split>]) -> Self {
        let mut streams: BTreeMap<u64, StreamMeta> = BTreeMap::new();
        for split in splits {
            for (stream, meta) in split.streams.iter().zip(&split.meta.streams) {
                streams.entry(stream.id).and_modify(|sum| sum.add(meta)).or_insert_with(|| meta.clone());
            }
        }
        // Their segments of the log were deleted before they were merged.
        Self {
            metadata: splits.iter().any(|split| split.meta.metadata),
            replaces: splits.iter().map(|split| split.number).collect(),
            ..Self::total(streams)
        }
    }

    fn total(streams: BTreeMap<u64, StreamMeta>) -> Self {
        let streams: Vec<_> = streams.into_values().collect();
        Self {
            format: FORMAT,
            min_time: streams.iter().map(|s| s.min_time).min().unwrap_or_default(),
            max_time: streams.iter().map(|s| s.max_time).max().unwrap_or_default(),
            lines: streams.iter().map(|s| s.lines).sum(),
            bytes: streams.iter().map(|s| s.bytes).sum(),
            wal: Vec::new(),
            metadata: false,
            replaces: Vec::new(),
            streams,
        }
    }
}

impl StreamMeta {
    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.min_time = self.min_time.min(other.min_time);
        self.max_time = self.max_time.max(other.max_time);
    }
}

fn settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::Lz4,
        docstore_blocksize: 64 * 1024,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    }
}

fn index(directory: &Path, entries: &[Arc<Entry>]) -> tantivy::Result<()> {
    let (schema, fields) = Fields::schema();
    let mut writer = Index::builder()
        .schema(schema)
        .settings(settings())
        .tokenizers(tokens::manager())
        .single_segment_index_writer::<TantivyDocument>(MmapDirectory::open(directory)?, WRITER_BYTES)?;
    for entry in entries {
        let mut document = TantivyDocument::new();
        document.add_i64(fields.time, entry.time);
        document.add_u64(fields.stream, entry.stream.id);
        document.add_u64(fields.level, u64::from(entry.level as u8));
        document.add_u64(fields.size, entry.line.len() as u64);
        document.add_text(fields.line, &entry.line);
        if !entry.metadata.is_empty() {
            let json = serde_json::to_vec(&entry.metadata).map_err(|error| TantivyError::InternalError(error.to_string()))?;
            document.add_bytes(fields.metadata, &json);
        }
        writer.add_document(document)?;
    }
    writer.finalize().map(drop)
}

fn merge(directory: &Path, splits: &[Arc<Split>]) -> tantivy::Result<()> {
    use tantivy::{IndexSortByField, Order, indexer::merge_filtered_segments};
    let mut segments = Vec::new();
    for split in splits {
        segments.extend(Reader::index(&split.directory)?.searchable_segments()?);
    }
    let sort = IndexSortByField { field: "time".to_owned(), order: Order::Asc };
    let settings = IndexSettings { sort_by_field: Some(sort), ..settings() };
    let filters = segments.iter().map(|_| None).collect();
    merge_filtered_segments(&segments, settings, filters, MmapDirectory::open(directory)?).map(drop)
}

/// What a directory's files take on disk, as `du` counts.
fn disk_bytes(directory: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::read_dir(directory)?.try_fold(0, |sum, file| Ok(sum + file?.metadata()?.blocks() * 512))
}

fn sync_directory(directory: &Path) -> Result<()> {
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync", directory))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(TantivyError) -> Error {
    let path = path.to_owned();
    move |source| Error::Split { action, path, source }
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
