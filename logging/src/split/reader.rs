use std::{
    collections::HashMap,
    io,
    ops::{ControlFlow, Range},
    path::Path,
    sync::Arc,
};

use tantivy::{
    DocId, DocSet as _, Index, SegmentReader, TERMINATED, TantivyDocument, TantivyError,
    columnar::ColumnValues,
    postings::TermInfo,
    schema::{IndexRecordOption, Value as _},
};

use super::{
    Fields,
    tokens::{self, Clue, LONG},
};
use crate::{
    entry::{Level, Stream},
    scan::{Raw, Scan},
};

/// A clue that this many terms fit says too little to be worth reading their postings.
const MOST_TERMS: usize = 2000;

/// Lines between two looks at the clock.
const CHECK_EVERY: usize = 256;

/// An open split.
pub(super) struct Reader {
    segment: SegmentReader,
    fields: Fields,
    time: Arc<dyn ColumnValues<i64>>,
    stream: Arc<dyn ColumnValues<u64>>,
    level: Arc<dyn ColumnValues<u64>>,
    size: Arc<dyn ColumnValues<u64>>,
}

/// A set of documents.
struct Documents(Vec<u64>);

impl Reader {
    /// Opens the index without what tantivy would start to watch it.
    pub(super) fn index(directory: &Path) -> tantivy::Result<Index> {
        let mut index = Index::open_in_dir(directory)?;
        index.set_tokenizers(tokens::manager());
        Ok(index)
    }

    pub(super) fn open(directory: &Path) -> tantivy::Result<Self> {
        let index = Self::index(directory)?;
        let segments = index.searchable_segments()?;
        let [segment] = segments.as_slice() else {
            return Err(TantivyError::InternalError(format!("{} segments", segments.len())));
        };
        let (schema, fields) = Fields::schema();
        if index.schema() != schema {
            return Err(TantivyError::SchemaError("not the fields of this format".to_owned()));
        }
        let segment = SegmentReader::open(segment)?;
        let fast = segment.fast_fields();
        Ok(Self {
            time: fast.column_first_or_default("time")?,
            stream: fast.column_first_or_default("stream")?,
            level: fast.column_first_or_default("level")?,
            size: fast.column_first_or_default("size")?,
            segment,
            fields,
        })
    }

    pub(super) fn scan(
        &self,
        streams: &[&Arc<Stream>],
        lines: bool,
        scan: &Scan<'_>,
        sink: &mut dyn FnMut(Raw<'_>) -> ControlFlow<()>,
    ) -> tantivy::Result<ControlFlow<()>> {
        let by_id: HashMap<u64, &Arc<Stream>> = streams.iter().map(|stream| (stream.id, *stream)).collect();
        let range = self.first_at(scan.start)..self.first_at(scan.end);
        let candidates = self.candidates(scan)?;
        let store = self.segment.get_store_reader(2)?;
        let mut seen = 0_usize;
        let mut visit = |document: DocId| -> tantivy::Result<ControlFlow<()>> {
            if candidates.as_ref().is_some_and(|candidates| !candidates.contains(document)) {
                return Ok(ControlFlow::Continue(()));
            }
            let Some(stream) = by_id.get(&self.stream.get_val(document)) else { return Ok(ControlFlow::Continue(())) };
            seen += 1;
            if seen.is_multiple_of(CHECK_EVERY) && scan.is_late() {
                return Ok(ControlFlow::Break(()));
            }
            let stored = if lines { Some(store.get::<TantivyDocument>(document)?) } else { None };
            let text = |field| stored.as_ref().and_then(|stored| stored.get_first(field));
            let metadata: Box<[(Box<str>, Box<str>)]> = match text(self.fields.metadata).and_then(|value| value.as_bytes()) {
                Some(json) => serde_json::from_slice(json).map_err(|error| TantivyError::InternalError(error.to_string()))?,
                None => Box::default(),
            };
            let line = text(self.fields.line);
            Ok(sink(Raw {
                time: self.time.get_val(document),
                stream,
                line: line.as_ref().and_then(|value| value.as_str()).unwrap_or_default(),
                size: self.size.get_val(document) as usize,
                metadata: &metadata,
                level: Level::from_byte(self.level.get_val(document) as u8),
            }))
        };
        let mut order = Order::new(range, scan.backward);
        while let Some(document) = order.next() {
            if visit(document)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The first document that is not older.
    fn first_at(&self, time: i64) -> DocId {
        let (mut low, mut high) = (0, self.segment.max_doc());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time.get_val(middle) < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Documents that may contain every needle, or all if the index cannot tell.
    fn candidates(&self, scan: &Scan<'_>) -> io::Result<Option<Documents>> {
        let mut candidates: Option<Documents> = None;
        for needles in scan.needles {
            let mut any = Documents::none(self.segment.max_doc());
            let mut known = true;
            for needle in needles {
                match self.containing(needle)? {
                    Some(documents) => any.add_all(&documents),
                    None => known = false,
                }
            }
            if known {
                match &mut candidates {
                    Some(candidates) => candidates.keep(&any),
                    None => candidates = Some(any),
                }
            }
        }
        Ok(candidates)
    }

    fn containing(&self, needle: &str) -> io::Result<Option<Documents>> {
        let mut found: Option<Documents> = None;
        for clue in tokens::clues(needle) {
            let Some(documents) = self.with_token(&clue)? else { continue };
            match &mut found {
                Some(found) => found.keep(&documents),
                None => found = Some(documents),
            }
        }
        Ok(found)
    }

    /// Documents with a token that fits; `None` if too many terms do.
    fn with_token(&self, clue: &Clue) -> io::Result<Option<Documents>> {
        let inverted = self.segment.inverted_index(self.fields.line).map_err(io::Error::other)?;
        let terms = inverted.terms();
        let mut infos: Vec<TermInfo> = terms.get(LONG)?.into_iter().collect();
        match clue {
            Clue::Exact(text) => infos.extend(terms.get(text)?),
            Clue::Prefix(text) => {
                let mut stream = terms.range().ge(text).into_stream()?;
                while stream.advance() && clue.matches(stream.key()) && infos.len() <= MOST_TERMS {
                    infos.push(stream.value().clone());
                }
            }
            Clue::Suffix(_) | Clue::Infix(_) => {
                let mut stream = terms.stream()?;
                while stream.advance() && infos.len() <= MOST_TERMS {
                    if clue.matches(stream.key()) {
                        infos.push(stream.value().clone());
                    }
                }
            }
        }
        if infos.len() > MOST_TERMS {
            return Ok(None);
        }
        let mut documents = Documents::none(self.segment.max_doc());
        for info in infos {
            let mut postings = inverted.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
            while postings.doc() != TERMINATED {
                documents.add(postings.doc());
                postings.advance();
            }
        }
        Ok(Some(documents))
    }
}

/// Documents in order of time, or against it.
struct Order {
    range: Range<DocId>,
    backward: bool,
}

impl Order {
    fn new(range: Range<DocId>, backward: bool) -> Self {
        Self { range, backward }
    }

    fn next(&mut self) -> Option<DocId> {
        if self.backward { self.range.next_back() } else { self.range.next() }
    }
}

impl Documents {
    fn none(most: DocId) -> Self {
        Self(vec![0; (most as usize).div_ceil(64)])
    }

    fn add(&mut self, document: DocId) {
        self.0[document as usize / 64] |= 1 << (document % 64);
    }

    fn contains(&self, document: DocId) -> bool {
        self.0[document as usize / 64] & (1 << (document % 64)) != 0
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }
}
