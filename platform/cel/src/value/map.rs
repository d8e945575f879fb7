//! Maps and objects: of the object, or made by the expression.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use serde_json::{Map as JsonMap, Value as Json};

use super::{Text, Val, from_json};
use crate::{EvaluationError, declaration::Declaration};

/// A map that costs nothing to clone.
#[derive(Debug, Clone)]
pub struct Map<'a>(Repr<'a>);

#[derive(Debug, Clone)]
enum Repr<'a> {
    Json(&'a JsonMap<String, Json>, Option<&'a Declaration>),
    Owned(Arc<BTreeMap<Key<'a>, Val<'a>>>),
    /// A message literal.
    Message(Arc<str>, Arc<BTreeMap<Key<'a>, Val<'a>>>),
}

/// A key. Whole numbers are one key, signed or not.
#[derive(Debug, Clone)]
pub(crate) enum Key<'a> {
    /// A truth value.
    Bool(bool),
    /// A signed whole number.
    Int(i64),
    /// An unsigned whole number.
    Uint(u64),
    /// A string.
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value stands for; none for what cannot be one.
    pub(crate) fn new(value: &Val<'a>) -> Option<Self> {
        match value {
            Val::Bool(value) => Some(Self::Bool(*value)),
            Val::Int(value) => Some(Self::Int(*value)),
            Val::Uint(value) => Some(Self::Uint(*value)),
            Val::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    /// The key of a name.
    pub(crate) fn text(name: &str) -> Self {
        Self::String(Text::Shared(name.into()))
    }

    /// The same for a lookup, where a floating-point number that is whole will do too.
    pub(crate) fn lookup(value: &Val<'a>) -> Option<Self> {
        match value {
            #[expect(clippy::cast_possible_truncation, reason = "inside the bounds of both")]
            Val::Double(value) if value.fract() == 0.0 && value.abs() < 9.2e18 => Some(Self::Int(*value as i64)),
            _ => Self::new(value),
        }
    }

    pub(crate) fn value(&self) -> Val<'a> {
        match self {
            Self::Bool(value) => Val::Bool(*value),
            Self::Int(value) => Val::Int(*value),
            Self::Uint(value) => Val::Uint(*value),
            Self::String(text) => Val::String(text.clone()),
        }
    }

    fn rank(&self) -> (u8, i128, &str) {
        match self {
            Self::Bool(value) => (0, i128::from(*value), ""),
            Self::Int(value) => (1, i128::from(*value), ""),
            Self::Uint(value) => (1, i128::from(*value), ""),
            Self::String(text) => (2, 0, text),
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl<'a> Map<'a> {
    pub(crate) fn json(members: &'a JsonMap<String, Json>, declaration: Option<&'a Declaration>) -> Self {
        Self(Repr::Json(members, declaration))
    }

    pub(crate) fn owned(members: BTreeMap<Key<'a>, Val<'a>>) -> Self {
        Self(Repr::Owned(Arc::new(members)))
    }

    pub(crate) fn message(name: Arc<str>, members: BTreeMap<Key<'a>, Val<'a>>) -> Self {
        Self(Repr::Message(name, Arc::new(members)))
    }

    /// The name of a message literal.
    pub(crate) fn type_name(&self) -> Option<&str> {
        match &self.0 {
            Repr::Message(name, _) => Some(name),
            _ => None,
        }
    }

    /// The JSON it is a view of, and what its schema says.
    pub(crate) fn as_json(&self) -> Option<(&'a JsonMap<String, Json>, Option<&'a Declaration>)> {
        match &self.0 {
            Repr::Json(members, declaration) => Some((members, *declaration)),
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Repr::Json(members, _) => members.len(),
            Repr::Owned(members) | Repr::Message(_, members) => members.len(),
        }
    }

    /// The value of a key; none if there is none, or none that the schema shows.
    ///
    /// # Errors
    ///
    /// When what the object holds there does not fit its schema.
    pub(crate) fn get(&self, key: &Key<'a>) -> Option<Result<Val<'a>, EvaluationError>> {
        match &self.0 {
            Repr::Json(members, declaration) => {
                let Key::String(name) = key else { return None };
                let Some(declaration) = declaration else {
                    return members.get(&**name).map(|value| from_json(value, None));
                };
                let (name, inner) = declaration.member(name)?;
                let value = members.get(name)?;
                // An absent optional field may be written as null.
                if value.is_null() && declaration.is_object() {
                    return None;
                }
                Some(from_json(value, Some(inner)))
            }
            Repr::Owned(members) | Repr::Message(_, members) => members.get(key).cloned().map(Ok),
        }
    }

    /// All keys, in order; of an object those its schema shows, by the names expressions use.
    pub(crate) fn keys(&self) -> Vec<Val<'a>> {
        match &self.0 {
            Repr::Json(members, None) => members.keys().map(|name| Val::String(Text::Borrowed(name))).collect(),
            Repr::Json(members, Some(declaration)) => members
                .keys()
                .filter_map(|name| declaration.shown_name(name))
                .map(|name| Val::String(Text::Borrowed(name)))
                .collect(),
            Repr::Owned(members) | Repr::Message(_, members) => members.keys().map(Key::value).collect(),
        }
    }

    /// All members, in order.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) fn entries(&self) -> Result<Vec<(Val<'a>, Val<'a>)>, EvaluationError> {
        let keys = self.keys().into_iter();
        keys.filter_map(|key| {
            let value = self.get(&Key::new(&key)?)?;
            Some(value.map(|value| (key, value)))
        })
        .collect()
    }

    /// Adds a member; without copying when this is the only handle. None if the key is there already.
    pub(crate) fn insert(self, key: Key<'a>, value: Val<'a>) -> Option<Self> {
        let mut members = match self.0 {
            Repr::Owned(members) => members,
            _ => return None,
        };
        if members.contains_key(&key) {
            return None;
        }
        Arc::make_mut(&mut members).insert(key, value);
        Some(Self(Repr::Owned(members)))
    }
}
