//! Lists: of the object, or made by the expression.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use serde_json::Value as Json;

use super::{Val, equal::item_key, from_json};
use crate::{
    EvaluationError,
    declaration::{Declaration, ListType},
};

/// A list that costs nothing to clone.
#[derive(Debug, Clone)]
pub struct List<'a>(Repr<'a>);

#[derive(Debug, Clone)]
enum Repr<'a> {
    Json(&'a [Json], Option<&'a Declaration>),
    Owned(Arc<Vec<Val<'a>>>, Option<&'a Declaration>),
    /// Two lists, one after the other.
    Both(Arc<(List<'a>, List<'a>)>),
}

/// More items than an object can have; no list grows beyond.
pub(crate) const MAX_ITEMS: usize = 1 << 21;

impl<'a> List<'a> {
    pub(crate) fn json(items: &'a [Json], declaration: Option<&'a Declaration>) -> Self {
        Self(Repr::Json(items, declaration))
    }

    pub(crate) fn owned(items: Vec<Val<'a>>) -> Self {
        Self(Repr::Owned(Arc::new(items), None))
    }

    /// The same items, treated as a schema wants it (as a set, say).
    pub(crate) fn declared(items: Vec<Val<'a>>, declaration: Option<&'a Declaration>) -> Self {
        Self(Repr::Owned(Arc::new(items), declaration))
    }

    /// What the schema says of the list itself, if it came from an object.
    pub(crate) fn declaration(&self) -> Option<&'a Declaration> {
        match &self.0 {
            Repr::Json(_, declaration) | Repr::Owned(_, declaration) => *declaration,
            Repr::Both(_) => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Repr::Json(items, _) => items.len(),
            Repr::Owned(items, _) => items.len(),
            Repr::Both(both) => both.0.len().saturating_add(both.1.len()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Errors
    ///
    /// When what the object holds there does not fit its schema.
    pub(crate) fn get(&self, at: usize) -> Option<Result<Val<'a>, EvaluationError>> {
        match &self.0 {
            Repr::Json(items, declaration) => {
                items.get(at).map(|item| from_json(item, declaration.and_then(Declaration::element)))
            }
            Repr::Owned(items, _) => items.get(at).cloned().map(Ok),
            Repr::Both(both) => match at.checked_sub(both.0.len()) {
                None => both.0.get(at),
                Some(at) => both.1.get(at),
            },
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Val<'a>, EvaluationError>> + use<'a, '_> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// All items.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) fn items(&self) -> Result<Vec<Val<'a>>, EvaluationError> {
        self.iter().collect()
    }

    /// Appends; without copying when this is the only handle.
    pub(crate) fn extend(self, more: impl IntoIterator<Item = Val<'a>>) -> Result<Self, EvaluationError> {
        let mut items = match self.0 {
            Repr::Owned(items, None) => items,
            _ => Arc::new(self.items()?),
        };
        Arc::make_mut(&mut items).extend(more);
        Ok(Self(Repr::Owned(items, None)))
    }
}

/// `a + b`, as `a`'s schema wants it: a set has each item once, in a map list what is new takes the place of what has its keys.
///
/// # Errors
///
/// When what the object holds there does not fit its schema; when the list would be too long.
pub(crate) fn merged<'a>(a: &List<'a>, b: &List<'a>) -> Result<List<'a>, EvaluationError> {
    if a.len().saturating_add(b.len()) > MAX_ITEMS {
        return Err(EvaluationError::CostLimit);
    }
    let declaration = a.declaration();
    let names: &[String] = match declaration.map(Declaration::list_type) {
        Some(ListType::Set) => &[],
        Some(ListType::Map(names)) => names,
        _ => return Ok(List(Repr::Both(Arc::new((a.clone(), b.clone()))))),
    };
    let mut items = a.items()?;
    let mut places: HashMap<String, usize> = items.iter().enumerate().map(|(at, item)| (item_key(item, names), at)).collect();
    for item in b.iter() {
        let item = item?;
        match places.entry(item_key(&item, names)) {
            Entry::Occupied(place) => items[*place.get()] = item,
            Entry::Vacant(place) => {
                place.insert(items.len());
                items.push(item);
            }
        }
    }
    Ok(List::declared(items, declaration))
}
